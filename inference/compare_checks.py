"""What a comparison is asked for, checked before any training."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from torch import nn

from ..models.layered import LayeredNetwork
from .methods import get_method
from .objective import Method

_LONGEST = 200  # bytes of a label in a file's name, which has 255


def named_tasks(tasks: Sequence[Any] | Mapping[str, Any]) -> dict[str, Any]:
    """The tasks by name, those given by name loaded.

    Raises:
        TypeError: If one is no task.
        ValueError: If there is none, or a name is there twice or none of ours.
    """
    from .. import tasks as library

    if isinstance(tasks, str) or not isinstance(tasks, Iterable):
        raise TypeError(f"tasks must be a sequence or a mapping, got {tasks!r}")
    pairs = tasks.items() if isinstance(tasks, Mapping) else [(None, t) for t in tasks]
    found: dict[str, Any] = {}
    for name, given in pairs:
        task = library.load(given) if isinstance(given, str) else given
        if not all(hasattr(task, part) for part in ("name", "train", "test")):
            raise TypeError(
                "task must be a task or the name of one, got "
                f"{type(task).__name__}: latentroute.tasks has tasks, and Task makes "
                "one of your own data"
            )
        own = task.name if name is None else name
        if own in found:
            raise ValueError(f"tasks must have different names, got {own!r} twice")
        found[own] = task
    if not found:
        raise ValueError("tasks must be at least one, got none")
    return found


def seed_numbers(seeds: int | Sequence[int]) -> list[int]:
    """The seeds.

    Raises:
        TypeError: If they are no whole numbers.
        ValueError: If there is none, one is there twice or does not fit 64 bits.
    """
    which = range(seeds) if isinstance(seeds, int) else seeds
    try:
        numbers = [operator.index(number) for number in which]
    except TypeError:
        raise TypeError(
            f"seeds must be whole numbers, how many or which, got {seeds!r}"
        ) from None
    if not numbers:
        raise ValueError(f"seeds must be at least one, got {seeds!r}")
    for number in numbers:
        if not 0 <= number < 2**63:
            raise ValueError(f"seeds must be >= 0 and below 2**63, got {number}")
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"seeds must differ from each other, got {numbers}")
    return numbers


def chosen_methods(
    methods: Sequence[str] | Mapping[str, Method],
) -> dict[str, Method]:
    """The methods by label.

    Raises:
        TypeError: If one is no method.
        ValueError: If there is none, or a name or a label will not do.
    """
    if isinstance(methods, Mapping):
        chosen = {label: get_method(method) for label, method in methods.items()}
    else:
        if isinstance(methods, str) or not isinstance(methods, Iterable):
            raise TypeError(f"methods must be a sequence of names, got {methods!r}")
        chosen = {name: get_method(name) for name in methods}
    if not chosen:
        raise ValueError("methods must name at least one method, got none")
    for label in chosen:
        if not isinstance(label, str):
            raise TypeError(f"a method's label must be some text, got {label!r}")
        if "/" in label or "\0" in label or label in ("", ".", "..", "summary"):
            raise ValueError(
                "a method's label names a node of the tree: it must be some text "
                f"without '/', and not '.', '..' or 'summary', got {label!r}"
            )
        if len(quote(label)) > _LONGEST:
            raise ValueError(
                f"a method's label names a file: it must be shorter, got {label!r}"
            )
    return chosen


def check_model_options(model: Any, network: Any) -> None:
    """Refuse a ``model=`` that makes none, and options that no network has.

    Raises:
        TypeError: If ``model`` is no function, or ``network`` no mapping.
        ValueError: If both are given, or an option is unknown.
    """
    if model is not None and network is not None:
        raise ValueError("network= has options of the default network: not with model=")
    if isinstance(model, nn.Module) or (model is not None and not callable(model)):
        raise TypeError(
            "model must be a function that makes a model from the task, anew for each "
            f"run, got {type(model).__name__}"
        )
    if network is None:
        return
    if not isinstance(network, Mapping):
        raise TypeError(f"network must be a mapping of options, got {network!r}")
    known = list(inspect.signature(LayeredNetwork).parameters)[2:]
    for name in network:
        if name not in known:
            raise ValueError(
                f"network has no option {name!r}; it takes {', '.join(known)}"
            )
