"""Intervals over runs: of a mean, and of how many succeeded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

    from .truth import Truth

LOWEST = {"ari": -0.5, "path_ari": -0.5}  # of what does not start at 0


class Interval(NamedTuple):
    """A mean over runs and its interval.

    Attributes:
        mean: Over runs.
        low, high: Ends; NaN for one run.
        n: Runs.
    """

    mean: float
    low: float
    high: float
    n: int


class Rate(NamedTuple):
    """A share of runs and its interval.

    Attributes:
        rate: k / n.
        low, high: Ends of the Wilson interval.
        k: Runs that succeeded.
        n: Runs.
    """

    rate: float
    low: float
    high: float
    k: int
    n: int


def mean_interval(
    values: Any,
    *,
    level: float = 0.95,
    low: float = -np.inf,
    high: float = np.inf,
) -> Interval:
    """Mean and Student interval over runs.

    Args:
        values: (n,) one number a run.
        level: Probability that the interval is made for.
        low: The least value possible; the interval is cut off there.
        high: The largest value possible.

    Raises:
        ValueError: No values, or not one a run.

    Example:
        >>> mean_interval([0.25, 0.75], low=0.0, high=1.0)
        Interval(mean=0.5, low=0.0, high=1.0, n=2)
    """
    from scipy import stats

    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not len(x):
        raise ValueError(f"values: got shape {x.shape}, expected (n,) with one a run")
    if not 0 < level < 1:
        raise ValueError(f"level: got {level}, expected a probability between 0 and 1")
    mean, n = float(x.mean()), len(x)
    if n == 1:
        return Interval(mean, np.nan, np.nan, n)
    half = float(stats.t.ppf((1 + level) / 2, n - 1) * x.std(ddof=1) / np.sqrt(n))
    return Interval(mean, max(mean - half, low), min(mean + half, high), n)


def success_rate(k: int, n: int, *, level: float = 0.95) -> Rate:
    """Share of runs that succeeded, with its Wilson interval.

    Args:
        k: Runs that succeeded (recovered the truth, say).
        n: Runs.
        level: Probability that the interval is made for.

    Raises:
        ValueError: Not 0 <= k <= n with n >= 1, or a level out of range.

    Example:
        >>> rate = success_rate(9, 10)
        >>> rate.rate, round(rate.low, 3), round(rate.high, 3)
        (0.9, 0.596, 0.982)
    """
    if not 0 <= k <= n or n < 1:
        raise ValueError(
            f"success_rate: got {k} of {n} runs, expected 0 <= k <= n >= 1"
        )
    if not 0 < level < 1:
        raise ValueError(f"level: got {level}, expected a probability between 0 and 1")
    low, high = wilson(np.array(k), np.array(n), level=level)
    return Rate(k / n, float(low), float(high), int(k), int(n))


def wilson(
    hits: NDArray[np.integer], trials: NDArray[np.integer], *, level: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Wilson's interval of a share; NaN where there are no trials."""
    from scipy.stats import norm

    z = norm.ppf((1 + level) / 2)
    n = np.where(trials > 0, trials, np.nan)
    share = hits / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2) / (1 + z**2 / n)
    # rounding must neither shut out a share of 0 or 1 nor leave [0, 1]
    low, high = np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)
    return np.minimum(low, share), np.maximum(high, share)


def truth_table(runs: Sequence[Truth], *, level: float = 0.95) -> pd.DataFrame:
    """Means over runs (seeds) of every measure of `truth`, with Student intervals.

    A layer's number is averaged over runs; its modules' labels play no part, so that
    runs need no matching with each other.

    Args:
        runs: What `truth` returned for each run, all with as many layers.
        level: Of the intervals.

    Returns:
        A DataFrame indexed by `measure` and `layer` ("path" for whole routes), columns
        mean, low, high and n (runs).

    Raises:
        ValueError: No runs, or runs of different depth.
    """
    import pandas as pd

    depths = {len(run.accuracy) for run in runs}
    if len(depths) != 1:
        raise ValueError(
            f"runs: got {len(runs)} with {sorted(depths)} layers, expected at least "
            "one, all of the same depth"
        )
    rows: dict[tuple[str, str], Interval] = {}
    for name in runs[0]._fields[:-1]:
        bounds = {"low": LOWEST.get(name, 0.0), "high": 1.0}
        each = np.stack([np.atleast_1d(getattr(run, name)) for run in runs])
        for i, values in enumerate(each.T):
            key = (
                (name.removeprefix("path_"), "path")
                if name.startswith("path_")
                else (name, str(i))
            )
            rows[key] = mean_interval(values, level=level, **bounds)
    index = pd.MultiIndex.from_tuples(rows, names=["measure", "layer"])
    table = pd.DataFrame(list(rows.values()), index=index, columns=Interval._fields)
    return table.sort_index()  # pandas warns of look-ups in an unsorted index
