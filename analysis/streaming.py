"""Entropies, use and information of routing over data of any size.

Two passes over the examples: the leave-one-out bound needs the sum over all of them
before it can take one out. What is kept has the size of a layer's modules, never of the
data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import entropy, to_numpy
from .bootstrap import PoissonWeights, centred_interval

CHUNK_ELEMENTS = 2**19  # float64 values of probabilities worked on at once: 4 MiB
ROW_SUM_TOLERANCE = 1e-4  # a float32 softmax over many modules is off by about 1e-6

Floats = NDArray[np.float64]
Batches = Iterable[Any] | Callable[[], Iterable[Any]]


class RouteSums:
    """First pass: what rows p(a_l|x_n) add up to.

    Attributes:
        n: Examples seen.
        importance: (L, M) sum of probabilities.
        load: (L, M) examples whose most probable module it is, ties shared.
        top, rest: (L, M) largest probability of each module, and the sum of the others.
            The sum without row n is rest where n holds the top and rest + (top - p_n)
            elsewhere: neither cancels.
    """

    def __init__(self, n_layers: int, n_modules: int, *, replicates: int, seed: int):
        shape = (n_layers, n_modules)
        self.n = 0
        self.entropy = np.zeros(n_layers)
        self.load, self.top, self.rest = (
            np.zeros(shape),
            np.zeros(shape),
            np.zeros(shape),
        )
        self.weights = PoissonWeights(replicates, seed)
        self.total = np.zeros(replicates)
        self.entropy_replicates = np.zeros((replicates, n_layers))
        self.importance_replicates = np.zeros((replicates, *shape))

    @property
    def importance(self) -> Floats:
        """(L, M) sum of p(a_l|x_n) over examples."""
        return np.asarray(self.top + self.rest)

    def add(self, p: Floats) -> None:
        """Count in some rows.

        Args:
            p: (n, L, M) rows that sum to one; overwritten.
        """
        n, each = len(p), entropy(p)  # (n, L)
        self.n += n
        self.entropy += each.sum(0)
        self.load += shared_mode(p).sum(0)
        if self.weights.replicates:
            w = self.weights(n)  # (n, B)
            self.total += w.sum(0)
            self.entropy_replicates += w.T @ each
            sums = w.T @ p.reshape(n, -1)
            self.importance_replicates += sums.reshape(self.importance_replicates.shape)
        where = p.argmax(0)[None]
        top = np.take_along_axis(p, where, 0)[0]
        np.put_along_axis(p, where, 0.0, 0)
        self.rest += p.sum(0) + np.minimum(self.top, top)
        self.top = np.maximum(self.top, top)


class LeaveOneOutSums:
    """Second pass: -log of the mean of the *other* rows, under each row.

    Args:
        first: The first pass over the same rows.
    """

    def __init__(self, first: RouteSums):
        self.first = first
        self.n = 0
        self.weights = PoissonWeights(first.weights.replicates, first.weights.seed)
        self.log_mean = _log(first.importance / max(first.n, 1))
        n_layers = len(first.entropy)
        self.cross = np.zeros(n_layers)
        self.gap_replicates = np.zeros((first.weights.replicates, n_layers))

    def add(self, p: Floats) -> None:
        """Count in some rows, (n, L, M), which are not changed."""
        first = self.first
        self.n += len(p)
        others = np.where(p < first.top, first.rest + (first.top - p), first.rest)
        others /= max(first.n - 1, 1)
        alone = ((p > 0) & (others <= 0)).any(-1)  # (n, L): a module that no other uses
        logs = np.log(others, out=others, where=others > 0)
        cross = np.where(alone, np.inf, -(p * np.where(p > 0, logs, 0.0)).sum(-1))
        self.cross += cross.sum(0)
        if self.weights.replicates:
            gap = cross + (p * self.log_mean).sum(-1)
            w = self.weights(len(p))
            # an infinite gap makes the bound infinite whatever the replicates are
            self.gap_replicates += w.T @ np.where(alone, 0.0, gap)


class TwoPasses:
    """Both passes over rows that are handed over batch by batch.

    Args:
        replicates: Of the bootstrap; 0 for none.
        seed: Of the bootstrap.
    """

    def __init__(self, *, replicates: int = 0, seed: int = 0):
        self._options = {"replicates": replicates, "seed": seed}
        self._first: RouteSums | None = None
        self._second: LeaveOneOutSums | None = None

    def add(self, p: Floats) -> None:
        """Count (n, L, M) rows of the first reading; they are overwritten.

        Raises:
            ValueError: Layers or modules are others than before.
        """
        if self._first is None:
            self._first = RouteSums(*p.shape[1:], **self._options)
        if p.shape[1:] != self._first.top.shape:
            raise ValueError(
                f"probs: got {p.shape[1:]} layers and modules after "
                f"{self._first.top.shape}, expected the same in every batch"
            )
        self._first.add(p)

    def add_again(self, p: Floats) -> None:
        """Count (n, L, M) rows of the second reading."""
        if self._second is None:
            self._second = LeaveOneOutSums(self.sums())
        self._second.add(p)

    def sums(self) -> RouteSums:
        """Of the first reading.

        Raises:
            ValueError: There were no rows.
        """
        if self._first is None:
            raise ValueError("batches: got none, expected at least one example")
        return self._first

    def results(self) -> tuple[RouteSums, LeaveOneOutSums]:
        """Of both readings.

        Raises:
            ValueError: The second reading had another number of examples.
        """
        first, n = self.sums(), self._second.n if self._second else 0
        if self._second is None or n != first.n:
            raise ValueError(
                f"batches: got {n} examples when read again after {first.n}, expected "
                "the same data twice (a used-up iterator?)"
            )
        return first, self._second


def two_passes(
    read: Callable[[], Iterable[Floats]], *, replicates: int = 0, seed: int = 0
) -> tuple[RouteSums, LeaveOneOutSums]:
    """Both passes over what `read` returns, twice the same (n, L, M) rows."""
    passes = TwoPasses(replicates=replicates, seed=seed)
    for p in read():
        passes.add(p)
    for p in read():
        passes.add_again(p)
    return passes.results()


def values(first: RouteSums, second: LeaveOneOutSums) -> dict[str, Floats]:
    """(L,) each: `h_a`, `h_b`, `mi_lower`, `mi_upper` in nats."""
    h_a = first.entropy / first.n
    h_b = entropy(first.importance / first.n)
    lower = np.maximum(h_b - h_a, 0.0)  # rounding may leave -1e-17
    upper = np.full_like(lower, np.inf)  # no others
    if first.n > 1:
        upper = np.maximum(second.cross / first.n - h_a, lower)
    return {"h_a": h_a, "h_b": h_b, "mi_lower": lower, "mi_upper": upper}


def intervals(
    first: RouteSums, second: LeaveOneOutSums, *, level: float
) -> dict[str, Floats]:
    """(L, 2) each: bootstrap intervals of what `values` returns."""
    drawn = first.total > 0  # few examples may all weigh nothing
    total = first.total[drawn, None]
    h_a = first.entropy_replicates[drawn] / total
    h_b = entropy(first.importance_replicates[drawn] / total[..., None])
    lower = h_b - h_a
    upper = lower + second.gap_replicates[drawn] / total
    replicates = {"h_a": h_a, "h_b": h_b, "mi_lower": lower, "mi_upper": upper}
    at = values(first, second)
    if first.n < 2:  # one example has no spread
        return {name: np.full((len(h), 2), np.nan) for name, h in at.items()}
    most = np.log((first.importance > 0).sum(-1))
    caps = {"h_a": most, "h_b": most, "mi_lower": most, "mi_upper": np.inf}
    return {
        name: centred_interval(at[name], drawn, level=level, low=0.0, high=caps[name])
        for name, drawn in replicates.items()
    }


def shared_mode(p: Floats) -> Floats:
    """One where a module is the most probable of its row; ties share it equally.

    Equal shares, not the first of the tied: that would depend on the labels.
    """
    best = (p == p.max(-1, keepdims=True)).astype(np.float64)
    return np.asarray(best / best.sum(-1, keepdims=True))


def rows_of(batch: Any) -> Iterator[Floats]:
    """A batch of probabilities in checked float64 rows (n, L, M), some at a time.

    Raises:
        ValueError: These are no probabilities.
    """
    array = checked(to_numpy(batch))
    layers = array if array.ndim == 3 else array[:, None]
    size = max(1, CHUNK_ELEMENTS // (layers.shape[1] * layers.shape[2]))
    for start in range(0, len(layers), size):
        p = layers[start : start + size].astype(np.float64)
        p /= p.sum(-1, keepdims=True)
        yield p


def rereadable(batches: Batches) -> Callable[[], Iterator[Any]]:
    """A function that starts reading from the beginning each time.

    Raises:
        ValueError: `batches` is an iterator, which can be read once only.
    """
    if callable(batches) and not hasattr(batches, "__iter__"):
        return lambda: iter(batches())
    if not isinstance(batches, Iterable) or iter(batches) is batches:
        raise ValueError(
            f"batches: got a {type(batches).__name__}, expected what can be read "
            "twice: a list, a DataLoader, or a function that returns an iterator"
        )
    return lambda: iter(batches)


def checked(probs: NDArray[Any]) -> NDArray[Any]:
    """`probs` unless it is no set of probability rows."""
    expected = "expected (N, n_modules) or (N, n_layers, n_modules)"
    if probs.ndim not in (2, 3) or 0 in probs.shape:
        raise ValueError(f"probs: got shape {probs.shape}, {expected}")
    if np.issubdtype(probs.dtype, np.complexfloating) or probs.dtype.kind in "OSU":
        raise ValueError(f"probs: got dtype {probs.dtype}, expected real numbers")
    if np.isnan(probs).any():
        raise ValueError(f"probs: got {int(np.isnan(probs).sum())} NaN, expected none")
    if (least := probs.min()) < 0:
        raise ValueError(f"probs: got a negative value {least:.3g}, expected >= 0")
    sums = probs.sum(-1, dtype=np.float64)
    worst = sums.flat[np.abs(sums - 1).argmax()]
    if not abs(worst - 1) <= ROW_SUM_TOLERANCE:
        raise ValueError(
            f"probs: got a row that sums to {worst:.6g}, expected 1 over the last axis "
            "(pass probabilities, not logits)"
        )
    return probs


def _log(values: Floats) -> Floats:
    """log with log 0 = 0, for what is multiplied by 0 there."""
    return np.asarray(np.log(values, out=np.zeros_like(values), where=values > 0))
