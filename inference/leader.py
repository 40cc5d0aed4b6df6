"""The best of several starts, and whether the data confirm what it was guided by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

_AGREED = 0.99  # of the examples: the guessed route is the likeliest one, given y
_SURE = 3.0  # standard errors by which the leader predicts better than a free start

Scores = Float[Tensor, " examples"]


class Leader:
    """The weights with the greatest mean log p(y | x) of held-out examples so far.

    Attributes:
        start: The start they come from.
        score: That mean, in nats.
        weights: By name; empty before the first offer.
    """

    def __init__(self) -> None:
        self.start, self.score = 0, -math.inf
        self.weights: dict[str, Tensor] = {}
        self._values = self._free = torch.empty(0)
        self._agreement = 0.0

    def offer(self, start: int, values: Scores, weights: Mapping[str, Tensor]) -> bool:
        """Take weights, copied, where they are better; whether they were."""
        score = values.mean().item()
        if math.isnan(score):  # which compares with nothing
            score = -math.inf
        if score <= self.score and self.weights:
            return False
        self.weights = {name: w.detach().clone() for name, w in weights.items()}
        self.start, self.score = start, score
        return True

    def enter(
        self,
        start: int,
        values: Scores,
        weights: Mapping[str, Tensor],
        agreement: float | None,
    ) -> None:
        """A start has ended.

        Args:
            start: Its number.
            values: Its log p(y | x) of each held-out example.
            weights: By name.
            agreement: Share of the examples whose likeliest route given y is the one it
                was guided by; ``None`` for a free start.
        """
        if self.offer(start, values, weights):
            self._values, self._agreement = values, agreement or 0.0
        best = self._free.mean() if len(self._free) else -math.inf
        if agreement is None and values.mean() > best:
            self._free = values

    @property
    def confirmed(self) -> bool:
        """Whether y says that the leader's guessed routes are right.

        Freed, it still has them as the modes of p(a | x, y), and it predicts better
        than the best free start by three standard errors of the paired difference.
        """
        if self._agreement < _AGREED or len(self._free) < 2:
            return False
        gain = self._values - self._free
        return bool(gain.mean() > _SURE * gain.std() / math.sqrt(len(gain)))

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return dict(vars(self))

    def load(self, state: Mapping[str, Any]) -> None:
        """Be the leader of a checkpoint."""
        vars(self).update(state)
