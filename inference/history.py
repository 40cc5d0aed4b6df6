"""The history of a training run, in a few bytes a step."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any, overload

import torch

Row = dict[str, Any]
_AHEAD = 2**24  # steps whose memory is taken at once
_LISTED = 100_000  # rows that a list may hold: 24 MB of dicts


class History(Sequence[Row]):
    """One row a step, made when it is asked for.

    A row is a dict with ``step`` (from 1), ``loss`` and what was measured at that step.
    A list of such dicts takes 240 bytes a step, which a week of training has not; this
    takes 8, and those of 16 million steps at once, so that memory stays as it is while
    training goes on.
    """

    def __init__(self) -> None:
        self._losses = array("d")
        self._n = 0
        self._measured: dict[int, Row] = {}

    def reserve(self, steps: int) -> None:
        """Take the memory of so many steps, or of as many as are taken at once."""
        missing = min(steps, self._n + _AHEAD) - len(self._losses)
        self._losses.extend(array("d", [0.0]) * max(0, missing))

    def append(self, loss: float) -> None:
        """Add a step."""
        if self._n == len(self._losses):
            self.reserve(max(64, 2 * self._n))
        self._losses[self._n] = loss
        self._n += 1

    def measure(self, measured: Row) -> None:
        """Add what was measured at the last step."""
        self._measured.setdefault(self._n, {}).update(measured)

    @overload
    def __getitem__(self, place: int) -> Row: ...

    @overload
    def __getitem__(self, place: slice) -> list[Row]: ...

    def __getitem__(self, place: int | slice) -> Row | list[Row]:
        if isinstance(place, slice):
            return [self._row(i) for i in range(*place.indices(self._n))]
        found = place + self._n if place < 0 else place
        if not 0 <= found < self._n:
            raise IndexError(f"the history has {self._n} rows, got {place}")
        return self._row(found)

    def __len__(self) -> int:
        return self._n

    def _row(self, i: int) -> Row:
        step = i + 1
        return {"step": step, "loss": self._losses[i], **self._measured.get(step, {})}

    def rows(self) -> Sequence[Row]:
        """The rows as a list, or this where they are too many for one."""
        return list(self) if self._n <= _LISTED else self

    def state(self) -> dict[str, Any]:
        """For a checkpoint, to be saved at once: tensors and plain values.

        The losses are no copy: copies of a growing size stay with the allocator.
        """
        self.reserve(1)
        losses = torch.frombuffer(self._losses, dtype=torch.float64)
        return {"n": self._n, "losses": losses, "measured": self._measured}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state of a checkpoint."""
        self._n, self._measured = state["n"], dict(state["measured"])
        self._losses = array("d", state["losses"][: self._n].tolist())
