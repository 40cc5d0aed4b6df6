"""Checks of arguments that several parts share."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_SHAPES_ALONE = ContextVar("shapes_alone", default=False)


@contextmanager
def shapes_alone() -> Iterator[None]:
    """Check shapes and no values inside: there are none while a graph is captured."""
    token = _SHAPES_ALONE.set(True)
    try:
        yield
    finally:
        _SHAPES_ALONE.reset(token)


def values_are_checked(x: Tensor) -> bool:
    """Whether to look at the values of data in every step.

    Not on an accelerator, where to look is to wait for it; ``fit`` has looked before.
    """
    return x.device.type == "cpu" and not _SHAPES_ALONE.get()


def all_finite(x: Tensor) -> bool:
    """Whether no entry is NaN or infinite; mostly at the cost of one sum."""
    return math.isfinite(x.detach().sum()) or bool(torch.isfinite(x).all())


def check_choice(argument: str, value: object, accepted: Iterable[str]) -> None:
    """Refuse a value that is none of the accepted ones.

    Raises:
        ValueError: Names the argument, what was given, what is accepted, and the
            nearest accepted value where one is near.
    """
    accepted = list(accepted)
    if value in accepted:
        return
    close = difflib.get_close_matches(str(value), accepted, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(
        f"{argument} must be one of {', '.join(accepted)}, got {value!r}{hint}"
    )


def check_count(argument: str, value: object, *, least: int = 1) -> None:
    """Refuse what is not a whole number of at least ``least``.

    Raises:
        ValueError: Names the argument and what was given.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{argument} must be a whole number >= {least}, got {value!r}")
