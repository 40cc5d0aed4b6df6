"""Options that are parts: values of our own classes, chosen by name.

``--score-function.baseline MovingAverage --score-function.baseline.decay 0.9``
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from types import UnionType
from typing import Any, Union, get_args, get_origin


def is_part(hint: Any) -> bool:
    """Whether a type is a class of ours, or one of several."""
    if get_origin(hint) in (Union, UnionType):
        return all(map(is_part, get_args(hint)))
    return isinstance(hint, type) and hint.__module__.partition(".")[0] == __package__


def part_names(hint: Any) -> list[str]:
    """What can be given for a part: the classes that a user may instantiate."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else [hint]
    found = [concrete for kind in kinds for concrete in _concrete(kind)]
    return [kind.__name__ for kind in found if not kind.__name__.startswith("_")]


def part_config(value: Any) -> Any:
    """A part as a configuration has it; anything else as it is."""
    if not dataclasses.is_dataclass(value) or not is_part(type(value)):
        return value
    kind = type(value)
    fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return {
        "class_path": f"{kind.__module__}.{kind.__qualname__}",
        "init_args": {name: part_config(v) for name, v in fields.items()},
    }


def _concrete(kind: type) -> Iterator[type]:
    if not inspect.isabstract(kind):
        yield kind
    below: type
    for below in kind.__subclasses__():
        yield from _concrete(below)
