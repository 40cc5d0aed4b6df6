"""Data that a training run takes: checked, and cut into batches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """A process's part of a batch: all of it where there is one process.

    Attributes:
        x: (B, ...) inputs.
        y: (B, ...) targets, or ``None``.
        rows: (B,) their rows of the data.
        share: How much the mean over these examples counts in the mean of all
            processes' means: 1 where all have as many.
    """

    x: Tensor
    y: Tensor | None
    rows: Tensor
    share: float = 1.0


def training_data(data: Any) -> tuple[Tensor, Tensor | None]:
    """X and y of a task, a split or a tuple, checked.

    Raises:
        TypeError: If they are no tensors.
        ValueError: If there are none, their lengths differ, or one is not finite.
    """
    x, y = _pair(getattr(data, "train", data))
    for name, values in (("x", x), ("y", y)):
        if values is not None:
            _check_tensor(name, values)
    if not len(x):
        raise ValueError("data must hold at least one example, got none")
    if y is not None and len(y) != len(x):
        raise ValueError(f"x and y must be as long, got {len(x)} and {len(y)} examples")
    for name, values in (("x", x), ("y", y)):
        if values is not None and not torch.isfinite(values).all():
            row = (~torch.isfinite(values)).nonzero()[0, 0].item()
            raise ValueError(f"{name} must be finite, got NaN or infinity at row {row}")
    return x, y


def _pair(split: Any) -> tuple[Tensor, Tensor | None]:
    """X and y of a split or a tuple."""
    is_split = hasattr(split, "_fields")  # which has routes as well
    parts = list(split[:2] if is_split else split) if _is_tuple(split) else [None] * 3
    x, y = (*parts, None, None)[:2]
    if len(parts) > 2 or not isinstance(x, Tensor) or not isinstance(y, Tensor | None):
        got = type(split).__name__
        if _is_tuple(split):
            got += (
                f" of {', '.join(type(part).__name__ for part in parts) or 'nothing'}"
            )
        elif isinstance(split, str):
            got = f"{split!r}: a task by its name is latentroute.tasks.load(name)"
        raise TypeError(f"data must be a task or a tuple (x, y) of tensors, got {got}")
    return x, y


def _is_tuple(split: Any) -> bool:
    return isinstance(split, tuple | list)


def _check_tensor(name: str, values: Tensor) -> None:
    if values.is_meta or values.layout != torch.strided:
        kind = "a meta tensor" if values.is_meta else f"layout {values.layout}"
        raise ValueError(f"{name} must hold its values one by one, got {kind}")
    if not values.dim():
        raise ValueError(
            f"{name} must hold examples along its first axis, got a single number"
        )


def batch(
    x: Tensor, y: Tensor | None, index: Tensor, device: torch.device
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The rows ``index`` of the data, on the device: x, y and the index."""
    chosen = None if y is None else y[index].to(device)
    return x[index].to(device), chosen, index.to(device)


def batches(n: int, batch_size: int, seed: int, start: int) -> Iterator[Tensor]:
    """Rows of each batch from step ``start`` on; each epoch's order from its number."""
    size = min(batch_size, n)
    per_epoch = math.ceil(n / size)
    epoch, offset = divmod(start, per_epoch)
    while True:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(n, generator=generator)
        yield from order.split(size)[offset:]
        epoch, offset = epoch + 1, 0
