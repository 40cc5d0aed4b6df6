"""How evenly modules are used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import streaming
from .arrays import to_numpy

DEAD = 0.1  # a module is dead when its use is below this share of an even one

Floats = NDArray[np.float64]


class Usage(NamedTuple):
    """Use of modules, per layer.

    Attributes:
        importance: (L, M) mean probability of each module: its use.
        load: (L, M) share of examples whose most probable module it is, ties shared.
        cv_importance: (L,) standard deviation over mean of `importance` over modules.
        cv_load: (L,) the same of `load`.
        max_over_mean: (L,) largest load over the mean load: 1 (even) to M (one module).
        is_dead: (L, M) whether `importance` < 1 / (10 M).
        dead: (L,) fraction of modules that are dead.
        n_modules: (L,) M of each layer; what is padded beyond is 0 in the arrays above,
            no dead module, and in no mean.
    """

    importance: Floats
    load: Floats
    cv_importance: Floats
    cv_load: Floats
    max_over_mean: Floats
    is_dead: NDArray[np.bool_]
    dead: Floats
    n_modules: NDArray[np.int64]


def usage(probs: Any, *, n_modules: Sequence[int] | None = None) -> Usage:
    """How evenly modules are used by some examples.

    Standard deviations are those of the M modules (divided by M, not M - 1). Load
    counts most probable modules; Shazeer et al. smooth it by their noise, which other
    routers do not have.

    Args:
        probs: (N, n_modules) or (N, n_layers, n_modules), p(a|x_n), or one-hot routes.
        n_modules: (n_layers,) modules of each layer where some are padding.

    Returns:
        The measures, always with a layer axis.

    Raises:
        ValueError: No probabilities, or `n_modules` that does not fit.

    References:
        Shazeer et al. 2017 (arXiv:1701.06538), equations 6 to 11 and table 6.

    Example:
        >>> use = usage([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5], [1.0, 0.0]])
        >>> use.load[0].tolist(), float(use.max_over_mean[0]), float(use.cv_load[0])
        ([0.875, 0.125], 1.75, 0.75)
    """
    importance = load = np.zeros(())
    for p in streaming.rows_of(to_numpy(probs)):
        importance = importance + p.sum(0)
        load = load + streaming.shared_mode(p).sum(0)
    return usage_from_sums(importance, load, n_modules=n_modules)


def usage_from_sums(
    importance: Floats, load: Floats, *, n_modules: Sequence[int] | None = None
) -> Usage:
    """The measures from (L, M) sums over examples of probability and of load."""
    n_layers, width = importance.shape
    counts = np.asarray([width] * n_layers if n_modules is None else n_modules)
    if counts.shape != (n_layers,) or (counts < 1).any() or (counts > width).any():
        raise ValueError(
            f"n_modules: got {counts.tolist()}, expected for each of {n_layers} layers "
            f"a number from 1 to {width}"
        )
    real = np.arange(width) < counts[:, None]  # (L, M)
    if (importance[~real] > 0).any():
        raise ValueError(
            f"n_modules: got {counts.tolist()}, but modules beyond these are used"
        )
    # shares: examples are rows of probabilities, so that a layer's sum is their number
    importance = importance / importance.sum(-1, keepdims=True)
    load = load / load.sum(-1, keepdims=True)
    is_dead = real & (importance < DEAD / counts[:, None])
    return Usage(
        importance=importance,
        load=load,
        cv_importance=_cv(importance, counts),
        cv_load=_cv(load, counts),
        max_over_mean=load.max(-1) * counts,
        is_dead=is_dead,
        dead=is_dead.sum(-1) / counts,
        n_modules=counts,
    )


def _cv(shares: Floats, counts: NDArray[np.int64]) -> Floats:
    """(L,) standard deviation over mean of shares, whose mean over modules is 1 / M."""
    rows = zip(shares, counts, strict=True)
    return np.array([row[:m].std() * m for row, m in rows])
