"""Options that are parts: values of our own classes, chosen by name.

``--score-function.baseline MovingAverage --score-function.baseline.decay 0.9``

A schedule is written as in Python, or as the number that it always is:
``--gumbel-softmax.temperature "Linear(2, 0.5, 1000)"``.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints


def is_part(hint: Any) -> bool:
    """Whether a type is a class of ours, or one of several; or None beside them."""
    if get_origin(hint) in (Union, UnionType):
        return all(map(is_part, set(get_args(hint)) - {NoneType}))
    return isinstance(hint, type) and hint.__module__.partition(".")[0] == __package__


def part_names(hint: Any) -> list[str]:
    """What can be given for a part: the classes that a user may instantiate."""
    several = get_origin(hint) in (Union, UnionType)
    kinds = [k for k in get_args(hint) if k is not NoneType] if several else [hint]
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


def is_schedule(hint: Any) -> bool:
    """Whether a type is that of schedules."""
    from .inference.schedules import Schedule

    return bool(hint == Schedule)


def schedule_text(value: Any) -> float | str:
    """A schedule as a command line has it."""
    from .inference.schedules import Constant

    return value.value if isinstance(value, Constant) else repr(value)


def read_schedule(given: float | str) -> Any:
    """The schedule that a number or a text such as ``Linear(0, 1, 100)`` is.

    Raises:
        ValueError: If it is neither, or a schedule refuses its numbers.
    """
    from .inference.schedules import Constant, Schedule

    if not isinstance(given, str) and math.isfinite(given):
        return Constant(float(given))
    kinds = {kind.__name__: kind for kind in get_args(Schedule)}
    try:
        call = ast.parse(str(given).strip(), mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise TypeError("no call")
        kind = kinds[call.func.id]
        values = [ast.literal_eval(word) for word in call.args]
        named = {str(w.arg): ast.literal_eval(w.value) for w in call.keywords}
        fields = inspect.signature(kind).bind(*values, **named).arguments
        if not all(type(v) in (int, float) for v in fields.values()):
            raise TypeError("no number")
    except (SyntaxError, TypeError, KeyError, ValueError) as error:
        spelt = [f"{name}{_fields(kind)}" for name, kind in kinds.items()]
        raise ValueError(
            f"got {given!r}, expected a number or one of {', '.join(spelt)} with "
            "numbers in place of the names"
        ) from error
    return kind(**fields)


def with_schedules(spec: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a method or regulariser, its schedules read.

    Raises:
        ValueError: Names the option.
    """
    hints, read = get_type_hints(type(spec)), dict(values)
    for name in values:
        if is_schedule(hints[name]):
            try:
                read[name] = read_schedule(values[name])
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
    return read


def _fields(kind: type) -> str:
    return f"({', '.join(field.name for field in dataclasses.fields(kind))})"


def _concrete(kind: type) -> Iterator[type]:
    if not inspect.isabstract(kind):
        yield kind
    below: type
    for below in kind.__subclasses__():
        yield from _concrete(below)
