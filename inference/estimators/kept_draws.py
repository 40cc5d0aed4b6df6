"""Draws of several chains, kept within bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .chain import Transition

_STATS = {
    "lp": torch.float64,
    "diverging": torch.bool,
    "acceptance_rate": torch.float64,
    "n_steps": torch.int64,
    "tree_depth": torch.int64,
}


class KeptDraws:
    """The draws of several chains, evenly thinned where they become too many.

    Past the capacity every second draw is dropped, and from then on only every second
    (fourth, ..) one is kept: always those at multiples of one interval.

    Args:
        capacity: Draws of each chain, at most, at least 2.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._every = 1
        self._seen = 0
        self._weights: list[Tensor] = []  # (chains, D) each
        self._stats: list[Tensor] = []  # (chains, 5) each

    def __len__(self) -> int:
        return len(self._weights)

    def add(self, transitions: Sequence[Transition]) -> None:
        """One draw of each chain."""
        self._seen += 1
        if self._seen % self._every:
            return
        self._weights.append(torch.stack([t.weights for t in transitions]))
        numbers = [[float(getattr(t, name)) for name in _STATS] for t in transitions]
        self._stats.append(torch.tensor(numbers, dtype=torch.float64))
        if len(self) > self._capacity:
            self._every *= 2
            self._weights, self._stats = self._weights[1::2], self._stats[1::2]

    @property
    def weights(self) -> Float[Tensor, "chains draws weights"]:
        """The draws, oldest first."""
        return torch.stack(self._weights, 1)

    @property
    def stats(self) -> dict[str, Tensor]:
        """(chains, draws) numbers of each transition, under ArviZ's names."""
        columns = torch.stack(self._stats, 1).unbind(-1)
        return {
            name: column.to(dtype)
            for (name, dtype), column in zip(_STATS.items(), columns, strict=True)
        }

    def state(self) -> dict[str, Any]:
        """Numbers and tensors for a checkpoint."""
        state: dict[str, Any] = {"every": self._every, "seen": self._seen}
        if len(self):
            state["weights"] = torch.stack(self._weights)
            state["stats"] = torch.stack(self._stats)
        return state

    def load(self, state: dict[str, Any]) -> None:
        """Take up the draws of a checkpoint."""
        self._every, self._seen = state["every"], state["seen"]
        self._weights = list(state.get("weights", ()))
        self._stats = list(state.get("stats", ()))
