"""Comparing runs where modules compute in few digits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

_DEVICES = ("cpu", "cuda")


def is_narrow() -> bool:
    """Whether modules compute under autocast, to three digits in bfloat16."""
    return any(map(torch.is_autocast_enabled, _DEVICES))


def narrow_types() -> tuple[tuple[str, torch.dtype], ...]:
    """What modules compute in by device, where that is autocast's choice."""
    return tuple(
        (device, torch.get_autocast_dtype(device))
        for device in _DEVICES
        if torch.is_autocast_enabled(device)
    )


@contextmanager
def full_precision() -> Iterator[None]:
    """No autocast inside: runs that compute the same agree but for little rounding."""
    with ExitStack() as stack:
        for device in _DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
