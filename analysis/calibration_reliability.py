"""Probabilities said against frequencies seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from sklearn.isotonic import isotonic_regression

from .arrays import entropy, to_numpy
from .calibration_uniformity import checked_pit
from .intervals import wilson

Floats = NDArray[np.float64]

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)

_REPLICATES = 200  # of the truth, drawn from what was said


class Reliability(NamedTuple):
    """How often what was said to have probability p happened, site by site.

    A pair is one example and one choice, p being what was said of that choice. NaN
    where a bin holds no pair.

    Attributes:
        said: (L, B) mean probability said in each bin.
        seen: (L, B) share of the bin's pairs that happened.
        low: (L, B) and
        high: (L, B) Wilson's 95% interval of ``seen``, as of independent pairs: the
            choices of one example exclude each other, so it is rather too wide.
        pairs: (L, B) pairs in each bin.
        ece: (L,) expected calibration error: mean of |said - seen| over pairs.
        ece_floor: (L,) what it is on average if every probability is right: binning a
            finite number of examples leaves that much.
        ece_limit: (L,) what it then stays below 95% of the time.
    """

    said: Float[np.ndarray, "sites bins"]
    seen: Float[np.ndarray, "sites bins"]
    low: Float[np.ndarray, "sites bins"]
    high: Float[np.ndarray, "sites bins"]
    pairs: Int[np.ndarray, "sites bins"]
    ece: Float[np.ndarray, " sites"]
    ece_floor: Float[np.ndarray, " sites"]
    ece_limit: Float[np.ndarray, " sites"]


class ProperScores(NamedTuple):
    """Proper scores of probabilities, site by site: lower is better.

    ``brier = miscalibration - discrimination + uncertainty``, and
    ``log_score = entropy + excess``.

    Attributes:
        brier: (L,) mean of sum_m (p_m - 1[a = m])^2, 0 .. 2.
        miscalibration: (L,) what the best monotone recalibration of each choice's
            probabilities would gain; it is fitted to the same examples, so this is a
            little above 0 even for right ones.
        discrimination: (L,) how much better recalibrated ones are than constant ones.
        uncertainty: (L,) the score of the choices' shares, said of every example.
        log_score: (L,) mean of -log p of what happened, nats.
        entropy: (L,) mean entropy of what was said: the log-score that it promises.
        excess: (L,) their difference: above 0 over-confident, below 0 too cautious.
        excess_error: (L,) its standard error if what was said is right.
    """

    brier: Float[np.ndarray, " sites"]
    miscalibration: Float[np.ndarray, " sites"]
    discrimination: Float[np.ndarray, " sites"]
    uncertainty: Float[np.ndarray, " sites"]
    log_score: Float[np.ndarray, " sites"]
    entropy: Float[np.ndarray, " sites"]
    excess: Float[np.ndarray, " sites"]
    excess_error: Float[np.ndarray, " sites"]


class Coverage(NamedTuple):
    """How often central intervals hold the truth.

    Attributes:
        levels: (K,) what they should hold.
        seen: (K, Q) share of simulations that they do.
        low: (K, Q) and
        high: (K, Q) Wilson's 95% interval of ``seen``.
    """

    levels: Float[np.ndarray, " levels"]
    seen: Float[np.ndarray, "levels quantities"]
    low: Float[np.ndarray, "levels quantities"]
    high: Float[np.ndarray, "levels quantities"]


def reliability(
    probs: object, truth: object, *, n_bins: int = 10, seed: int = 0
) -> Reliability:
    """Compare probabilities with what happened.

    The noise floor of the calibration error is simulated: 200 truths drawn from the
    probabilities themselves.

    Args:
        probs: (N, L, M) what was said of each choice at L sites, torch or NumPy; zeros
            where a site has fewer choices.
        truth: (N, L) choices that happened.
        n_bins: Bins of equal width on [0, 1].
        seed: Of the simulated truths.

    Raises:
        ValueError: If these are no probabilities, or no choices among them.

    References:
        Guo et al. 2017, arXiv:1706.04599 (the error); Bröcker, Smith 2007 (truths
        simulated from the forecast); Wilson 1927.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> p = rng.dirichlet(np.ones(3), size=(4000, 1))
        >>> a = (rng.uniform(size=(4000, 1, 1)) > p.cumsum(-1)).sum(-1)
        >>> found = reliability(p, a)
        >>> bool(found.ece[0] < 2 * found.ece_floor[0])
        True
    """
    p, chosen = _checked(probs, truth)
    if n_bins < 2:
        raise ValueError(f"n_bins must be at least 2, got {n_bins}")
    rng = np.random.default_rng(seed)
    columns = [_site(p[:, i], chosen[:, i], n_bins, rng) for i in range(p.shape[1])]
    return Reliability(*(np.stack(field) for field in zip(*columns, strict=True)))


def proper_scores(probs: object, truth: object) -> ProperScores:
    """The Brier score and the log-score of probabilities, each taken apart.

    Args:
        probs: (N, L, M) as for :func:`reliability`.
        truth: (N, L) choices that happened.

    Raises:
        ValueError: If these are no probabilities, or no choices among them.

    References:
        Dimitriadis, Gneiting, Jordan 2021, arXiv:2008.03033 (the decomposition of the
        Brier score by isotonic regression: no bins).
    """
    p, chosen = _checked(probs, truth)
    columns = [_score(p[:, i], chosen[:, i]) for i in range(p.shape[1])]
    return ProperScores(*(np.array(field) for field in zip(*columns, strict=True)))


def coverage(pit: object, *, levels: Sequence[float] = LEVELS) -> Coverage:
    """Coverage of central intervals, from where the truths stand in their posteriors.

    The central interval of level q holds the truth where ``|2 u - 1| <= q``.

    Args:
        pit: (N,) or (N, Q) in [0, 1], independent within a column.
        levels: What the intervals should hold, in (0, 1).

    Raises:
        ValueError: If there are no numbers, or one is NaN or out of its range.
    """
    u = checked_pit(to_numpy(pit))
    q = np.asarray(levels, dtype=np.float64)
    if q.ndim != 1 or not ((q > 0) & (q < 1)).all():
        raise ValueError(f"levels: got {levels}, expected probabilities in (0, 1)")
    inside = (np.abs(2 * u - 1) <= q[:, None, None]).sum(1)
    return Coverage(q, inside / len(u), *wilson(inside, np.full(inside.shape, len(u))))


def _site(
    p: Floats, chosen: NDArray[np.int64], n_bins: int, rng: np.random.Generator
) -> tuple[NDArray[Any], ...]:
    """The fields of Reliability at one site, p (N, M)."""
    happened = np.bincount(chosen, minlength=p.shape[1]) > 0
    kept = p.any(0) | happened  # padding is no choice; what was ruled out is
    p, label = p[:, kept], (np.cumsum(kept) - 1)[chosen]
    bins = np.minimum((p * n_bins).astype(np.int64), n_bins - 1)

    pairs = np.bincount(bins.ravel(), minlength=n_bins)
    said = np.bincount(bins.ravel(), p.ravel(), minlength=n_bins)

    def hits_of(label: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.bincount(bins[np.arange(len(p)), label], minlength=n_bins)

    def error(hits: NDArray[np.int64]) -> float:
        return float(np.abs(said - hits).sum() / pairs.sum())

    hits = hits_of(label)
    cumulative = p.cumsum(-1)
    floor = [
        error(hits_of(_drawn(cumulative, rng.uniform(size=len(p)))))
        for _ in range(_REPLICATES)
    ]
    trials = np.where(pairs > 0, pairs, np.nan)
    return (
        said / trials,
        hits / trials,
        *wilson(hits, pairs),
        pairs,
        np.array(error(hits)),
        np.array(np.mean(floor)),
        np.array(np.quantile(floor, 0.95)),
    )


def _drawn(cumulative: Floats, u: Floats) -> NDArray[np.int64]:
    below = (u[:, None] * cumulative[:, -1:] > cumulative).sum(-1)
    return np.asarray(np.minimum(below, cumulative.shape[1] - 1))


def _score(p: Floats, chosen: NDArray[np.int64]) -> tuple[float, ...]:
    """The fields of ProperScores at one site, p (N, M)."""
    happened = np.zeros_like(p)
    happened[np.arange(len(p)), chosen] = 1.0
    brier = float(((p - happened) ** 2).sum(-1).mean())
    recalibrated = np.stack(
        [_isotonic(p[:, m], happened[:, m]) for m in range(p.shape[1])], -1
    )
    best = float(((recalibrated - happened) ** 2).sum(-1).mean())
    share = happened.mean(0)
    constant = float(((share - happened) ** 2).sum(-1).mean())
    with np.errstate(divide="ignore"):
        surprise = -np.log((p * happened).sum(-1))
        logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    promised = entropy(p)
    spread = (p * logs**2).sum(-1) - promised**2  # Var[-log p(a)], a ~ p
    error = float(np.sqrt(np.maximum(spread, 0).sum()) / len(p))
    log_score, h = float(surprise.mean()), float(promised.mean())
    parts = (brier, brier - best, constant - best, constant)
    return (*parts, log_score, h, log_score - h, error)


def _isotonic(p: Floats, happened: Floats) -> Floats:
    """The monotone function of p that is closest to what happened; ties pooled."""
    _, place, count = np.unique(p, return_inverse=True, return_counts=True)
    mean = np.bincount(place, happened) / count
    fitted = isotonic_regression(mean, sample_weight=count.astype(np.float64))
    return np.asarray(fitted[place])


def _checked(probs: object, truth: object) -> tuple[Floats, NDArray[np.int64]]:
    """Probabilities with rows that sum to one, and choices of as many examples."""
    p = np.asarray(to_numpy(probs), dtype=np.float64)
    chosen = np.asarray(to_numpy(truth))
    if p.ndim != 3 or chosen.shape != p.shape[:2] or 0 in p.shape:
        raise ValueError(
            "expected probs (N, sites, choices) and truth (N, sites), got shapes "
            f"{p.shape} and {chosen.shape}"
        )
    sums = p.sum(-1)
    if not (p >= 0).all() or not np.allclose(sums, 1, atol=1e-4):
        raise ValueError("probs: expected probabilities that sum to 1 over choices")
    if chosen.dtype.kind not in "iu" or chosen.min() < 0 or chosen.max() >= p.shape[2]:
        raise ValueError(f"truth: expected whole numbers in 0 .. {p.shape[2] - 1}")
    return p / sums[..., None], chosen.astype(np.int64)
