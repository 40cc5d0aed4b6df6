"""One's own tensors as a task."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .base import Head, Split, Task
from .splitting import split_rows


def from_tensors(
    x: Tensor,
    y: Tensor,
    *,
    routes: Tensor | None = None,
    head: Head | None = None,
    name: str = "own",
    seed: int = 0,
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
    **about: Any,
) -> Task:
    """Split tensors into the three parts of a task.

    Args:
        x: Inputs, shape (N, features).
        y: Targets: shape (N,), classes in int64, for a categorical head; shape (N,) or
            (N, outputs), numbers, for the others.
        routes: True modules, shape (N, L), where known.
        head: How y is distributed; by default categorical for whole numbers, normal for
            floats.
        name: Name of the task.
        seed: Fixes the split, which is stratified by class.
        fractions: Shares of train, valid and test.
        **about: Further fields of `Task`, such as `description` or `network`.

    Raises:
        ValueError: Lengths differ, a split would be empty, or what `Task` refuses.

    Example:
        >>> from_tensors(torch.zeros(20, 3), torch.arange(20) % 2)
        Task('own': 3 -> categorical 2; train 14, valid 3, test 3)
    """
    if not len(x) == len(y) == len(x if routes is None else routes):
        lengths = (len(x), len(y), *(() if routes is None else (len(routes),)))
        raise ValueError(f"x, y and routes must be as long; got {lengths} rows")
    if head is None:
        head = "normal" if y.is_floating_point() else "categorical"
    classes = None
    if head == "categorical":
        y = y.long()
        classes = y.numpy().astype(np.int64)
        about.setdefault("out_features", int(y.max()) + 1)
    else:
        y = y.float().reshape(len(y), -1)
        about.setdefault("out_features", y.shape[1])
    parts = [
        Split(x[rows].float(), y[rows], None if routes is None else routes[rows])
        for rows in map(
            torch.from_numpy, split_rows(len(x), fractions, seed=seed, classes=classes)
        )
    ]
    train, valid, test = parts
    fields: Mapping[str, Any] = {"train": train, "valid": valid, "test": test, **about}
    return Task(name=name, head=head, **fields)
