"""A routing site as a guide sees it."""

from __future__ import annotations

from typing import NamedTuple

import pyro
import pyro.distributions as dist
from jaxtyping import Float, Int
from torch import Tensor


class Decision(NamedTuple):
    """A routing site that a guide samples.

    Attributes:
        name: Of the site.
        n_choices: Number of choices M.
        static: Whether it stands outside the data plate, one decision for all examples.
        one_hot: Whether its values are one-hot vectors in place of 0 .. M - 1.
    """

    name: str
    n_choices: int
    static: bool = False
    one_hot: bool = False

    def sample(self, logits: Float[Tensor, "*batch m"]) -> Int[Tensor, "..."]:
        """Sample the site from softmax(logits); the choice as an index."""
        if not self.one_hot:
            index: Tensor = pyro.sample(self.name, dist.Categorical(logits=logits))
            return index.long()
        value = pyro.sample(self.name, dist.OneHotCategorical(logits=logits))
        choice: Tensor = value.argmax(-1)
        return choice
