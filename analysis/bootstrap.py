"""The bootstrap in one reading of the data."""

from __future__ import annotations

from math import exp, factorial

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_LEVELS = 2**16  # equally likely values of two random bytes
_CUMULATIVE = np.cumsum([exp(-1) / factorial(k) for k in range(12)])
# the Poisson(1) count at each level: six times faster than NumPy's generator
_COUNTS = np.searchsorted(_CUMULATIVE, (np.arange(_LEVELS) + 0.5) / _LEVELS).astype(
    np.float64
)


class PoissonWeights:
    """How often each example occurs in each of B resampled data sets.

    Resampling N examples with replacement gives each a count that is nearly Poisson(1),
    and nearly independent ones where N is large: counts are drawn as the examples come
    by. Probabilities are rounded to 2^-16. Two objects of one seed give the same
    examples the same counts, however these are cut into batches.

    Args:
        replicates: B.
        seed: Of the counts.

    References:
        Hanley and MacGibbon 2006, Creating non-parametric bootstrap samples using
        Poisson frequencies.
    """

    def __init__(self, replicates: int, seed: int):
        self.replicates, self.seed = replicates, seed
        self._bits = np.random.PCG64(seed)
        self._words = -(-replicates // 4)  # of eight bytes, an example

    def __call__(self, n: int) -> Floats:
        """(n, B) counts of the next n examples."""
        words = self._bits.random_raw(n * self._words).astype("<u8").view("<u2")
        levels = words.reshape(n, 4 * self._words)[:, : self.replicates]
        return np.asarray(_COUNTS[levels])


def centred_interval(
    value: Floats,
    replicates: Floats,
    *,
    level: float,
    low: float | Floats = -np.inf,
    high: float | Floats = np.inf,
) -> Floats:
    """Quantiles of the replicates' deviations from their mean, around the value.

    Not the plain percentile interval: entropies of a mean are biased low, those of a
    resample twice as much, and its interval can miss the value itself.

    Args:
        value: (L,) of the data; infinite where the interval is to be, too.
        replicates: (B, L) of resampled data.
        level: Probability that the interval is to have, in (0, 1).
        low: The least value possible.
        high: The largest value possible.

    Returns:
        (L, 2), holding `value`.
    """
    tails = [(1 - level) / 2, (1 + level) / 2]
    around = np.quantile(replicates - replicates.mean(0), tails, axis=0)  # (2, L)
    ends = np.clip(value + around, low, high)
    return np.stack([np.minimum(ends[0], value), np.maximum(ends[1], value)], -1)
