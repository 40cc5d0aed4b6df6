"""The real 8x8 digits that scikit-learn ships."""

from dataclasses import dataclass
from typing import ClassVar

from .base import Task, TaskSpec
from .images import image_task
from .options import seed_in_range, three_fractions


@dataclass(frozen=True)
class Digits(TaskSpec):
    """1,797 handwritten digits, 8x8 pixels scaled to 0..1, ten classes.

    They come inside scikit-learn, so nothing is downloaded. Splits are stratified by
    digit. The 13 writers aren't named in the data: test digits have writers in common
    with training digits.

    Args:
        fractions: Shares of train, valid and test, sum 1.
        seed: Fixes the split.

    References:
        Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits (the test
        part), UCI Machine Learning Repository.
    """

    summary: ClassVar[str] = "1,797 real handwritten digits of 8x8 pixels"

    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks every value."""
        three_fractions(self.fractions)
        seed_in_range(self.seed)

    def load(self) -> Task:
        """Reads the digits and splits them."""
        # here, not above: listing the tasks must not wait for scikit-learn
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        return image_task(
            "digits",
            pixels,
            labels,
            white=16.0,
            image_shape=(8, 8),
            fractions=three_fractions(self.fractions),
            seed=self.seed,
            description="which digit a handwritten 8x8 image shows",
            network={"n_layers": 2, "n_modules": 4, "hidden_features": 32},
        )
