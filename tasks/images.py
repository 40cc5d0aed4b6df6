"""What the image tasks share: pixels and labels in, a task of classes out."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .base import Task
from .own import from_tensors


def image_task(
    name: str,
    pixels: NDArray[np.float64],
    labels: NDArray[np.int64],
    *,
    white: float,
    image_shape: tuple[int, int],
    fractions: tuple[float, float, float],
    seed: int,
    description: str,
    network: Mapping[str, Any],
) -> Task:
    """Pixels scaled to 0..1, labels as classes, splits stratified by label.

    Args:
        name: Name of the task.
        pixels: Shape (N, height * width), 0..white.
        labels: Shape (N,), 0..9.
        white: The largest pixel value.
        image_shape: (height, width).
        fractions: Shares of train, valid and test.
        seed: Fixes the split.
        description: One line for people.
        network: Suggested options of the network.
    """
    height, width = image_shape
    return from_tensors(
        torch.from_numpy((pixels / white).astype(np.float32)),
        torch.from_numpy(labels.astype(np.int64)),
        name=name,
        seed=seed,
        fractions=fractions,
        description=description,
        notes=(f"pixels scaled from 0..{white:g} to 0..1",),
        network=network,
        class_names=tuple(str(digit) for digit in range(10)),
        feature_names=tuple(
            f"pixel_{row}_{column}" for row in range(height) for column in range(width)
        ),
        image_shape=image_shape,
    )
