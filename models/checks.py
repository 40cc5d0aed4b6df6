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


def check_dtype(x: Tensor, weight: Tensor) -> None:
    """Refuse inputs of another type than the weights; autocast takes any.

    Raises:
        ValueError: Names both types.
    """
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        raise ValueError(
            f"x must be {_plain(weight.dtype)}, as the weights are, got "
            f"{_plain(x.dtype)}: x.to({weight.dtype}), or another model.to(dtype)"
        )


def check_device(x: Tensor, weight: Tensor) -> None:
    """Refuse inputs on another device than the weights.

    Raises:
        ValueError: Names both devices.
    """
    if x.device != weight.device:
        raise ValueError(
            f"x must be on {weight.device}, as the weights are, got {x.device}: "
            f"x.to({str(weight.device)!r})"
        )


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
