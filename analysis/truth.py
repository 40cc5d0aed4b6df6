"""Routes against the true modules of a generated task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import streaming
from .arrays import to_numpy
from .matching import match_modules, one_hot
from .specialisation import activation_matrix, specialisation

RECOVERED = 0.95  # matched accuracy that every layer must reach

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Truth(NamedTuple):
    """How well routes agree with the truth; (L,) per layer unless said.

    Attributes:
        accuracy: Share of examples with the right module, after the best one-to-one
            matching of modules to true ones.
        ari: Adjusted Rand index: 1 the same partition, 0 expected by chance.
        nmi: Normalised mutual information (arithmetic mean of the entropies).
        path_accuracy: Share of examples whose whole route is right under the layers'
            matchings.
        path_ari, path_nmi: Of whole routes as clusters.
        collapse_avg, collapse_worst, alignment, inverse_mi, adaptation: See
            `specialisation`: 0 is best.
        n: Examples.
    """

    accuracy: Floats
    ari: Floats
    nmi: Floats
    path_accuracy: float
    path_ari: float
    path_nmi: float
    collapse_avg: Floats
    collapse_worst: Floats
    alignment: Floats
    inverse_mi: Floats
    adaptation: Floats
    n: int


class Recovery(NamedTuple):
    """Whether a run found the true modules.

    Attributes:
        recovered: Whether `worst` >= 0.95.
        worst: Accuracy of the worst layer.
        accuracy: (L,) per layer, after the best one-to-one matching.
        path_accuracy: Share of whole routes that are right.
    """

    recovered: bool
    worst: float
    accuracy: Floats
    path_accuracy: float


def truth(
    route_probs: Any,
    true_routes: Any,
    *,
    modes: Any = None,
    n_modules: Sequence[int] | None = None,
) -> Truth:
    """Compare routes with the true ones, whatever the modules are called.

    Accuracy, ARI and NMI are of the most probable modules, the five measures of Mittal
    et al. of the probabilities themselves. These need rules of equal frequency: each
    rule that occurs in a layer counts alike, as often as it may occur. Modules may be
    more or fewer than rules.

    Args:
        route_probs: (N, L, M) or (N, M), p(a_l|x,y); p(a_l|x) for the router's own
            (which Mittal et al. measure), or one-hot routes.
        true_routes: (N, L) or (N,) true modules as integers.
        modes: (N, L) the most probable *whole* routes, where they are known; by default
            each layer's most probable module, ties to the module used most.
        n_modules: (L,) modules of each layer where some of the M are padding; it
            matters to collapse.

    Returns:
        The measures, always with a layer axis.

    Raises:
        ValueError: Shapes or dtypes that do not fit.

    Example:
        >>> import numpy as np
        >>> found = truth(np.eye(3)[[2, 2, 0, 0, 1, 1]], [0, 0, 1, 1, 2, 2])
        >>> found.accuracy.tolist(), found.path_ari, found.alignment.tolist()
        ([1.0], 1.0, [0.0])
    """
    probs = np.concatenate(list(streaming.rows_of(to_numpy(route_probs))))
    n, n_layers, width = probs.shape
    true = _routes("true_routes", true_routes, (n, n_layers))
    counts = [width] * n_layers if n_modules is None else list(n_modules)
    found = most_probable(probs) if modes is None else modes
    found = _routes("modes", found, (n, n_layers))
    _check_counts(counts, probs, found)
    right = matched(found, true)
    layers = [
        specialisation(activation_matrix(probs[:, i, :m], true[:, i]))
        for i, m in enumerate(counts)
    ]
    agreement = [_agreement(true[:, i], found[:, i]) for i in range(n_layers)]
    path_ari, path_nmi = _agreement(_codes(true), _codes(found))
    columns = {
        name: np.array([getattr(layer, name) for layer in layers])
        for name in layers[0]._fields
    }
    return Truth(
        accuracy=right.mean(0),
        ari=np.array([ari for ari, _ in agreement]),
        nmi=np.array([nmi for _, nmi in agreement]),
        path_accuracy=float(right.all(-1).mean()),
        path_ari=path_ari,
        path_nmi=path_nmi,
        **columns,
        n=n,
    )


def recovered(modes: Any, true_routes: Any) -> Recovery:
    """Whether the modes of whole routes find the true modules in every layer.

    Modules are matched one to one, layer by layer; a run has recovered the truth where
    the accuracy after it is at least 0.95 on the worst layer.

    Args:
        modes: (N, L) the mode of p(a|x,y) over whole routes, not each layer's own: the
            two differ where layers depend on each other.
        true_routes: (N, L) true modules.

    Raises:
        ValueError: Shapes or dtypes that do not fit.

    Example:
        >>> recovered([[1, 0], [0, 1], [1, 1]], [[0, 0], [1, 1], [0, 1]]).recovered
        True
    """
    true = _routes("true_routes", true_routes, np.shape(to_numpy(true_routes)))
    right = matched(_routes("modes", modes, true.shape), true)
    worst = float(right.mean(0).min())
    return Recovery(
        recovered=worst >= RECOVERED,
        worst=worst,
        accuracy=right.mean(0),
        path_accuracy=float(right.all(-1).mean()),
    )


def matched(found: Ints, true: Ints) -> NDArray[np.bool_]:
    """(N, L) whether each module is the true one after the best matching per layer.

    Where several matchings are best, labels do not decide which one is taken: modules
    and rules stand in the order in which the examples first use them.
    """
    right = np.zeros(true.shape, dtype=bool)
    for i in range(true.shape[1]):
        rule, module = _by_appearance(true[:, i]), _by_appearance(found[:, i])
        labels = match_modules(
            one_hot(rule, rule.max() + 1), one_hot(module, module.max() + 1)
        )
        right[:, i] = labels[module] == rule
    return right


def _by_appearance(labels: Ints) -> Ints:
    """(N,) labels counted from 0 in the order in which they first appear."""
    _, first, codes = np.unique(labels, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[codes])


def most_probable(probs: Floats) -> Ints:
    """(N, L) modes of (N, L, M) rows; ties go to the module used most over all rows.

    Not to the first of the tied: the result would depend on the modules' labels.
    """
    ranks = np.argsort(np.argsort(probs.sum(0), axis=-1, kind="stable"), axis=-1)
    best = probs == probs.max(-1, keepdims=True)
    return np.asarray(np.where(best, ranks, -1).argmax(-1))


def _agreement(true: Ints, found: Ints) -> tuple[float, float]:
    """(ARI, NMI) of two labellings."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    return (
        float(adjusted_rand_score(true, found)),
        float(normalized_mutual_info_score(true, found)),
    )


def _codes(routes: Ints) -> Ints:
    """(N,) a number for each different row."""
    return np.unique(routes, axis=0, return_inverse=True)[1].reshape(-1)


def _routes(name: str, values: Any, shape: tuple[int, ...]) -> Ints:
    """(N, L) integers, or an error."""
    routes = to_numpy(values)
    wide = routes[:, None] if routes.ndim == 1 else routes
    expected = (*shape, 1) if len(shape) == 1 else shape
    if wide.shape != expected or wide.ndim != 2 or 0 in wide.shape:
        raise ValueError(
            f"{name}: got shape {routes.shape}, expected (N, n_layers) = {expected}"
        )
    if wide.dtype.kind not in "iu":
        raise ValueError(f"{name}: got dtype {wide.dtype}, expected integers")
    return wide.astype(np.int64)


def _check_counts(counts: Sequence[int], probs: Floats, found: Ints) -> None:
    """Refuse numbers of modules that the probabilities contradict."""
    width = probs.shape[-1]
    fit = len(counts) == probs.shape[1] and all(1 <= m <= width for m in counts)
    if not fit or any((probs[:, i, m:] > 0).any() for i, m in enumerate(counts)):
        raise ValueError(
            f"n_modules: got {list(counts)}, expected for each of {probs.shape[1]} "
            f"layers a number up to {width} beyond which no module is used"
        )
    if (found < 0).any() or (found >= np.asarray(counts)).any():
        raise ValueError(
            f"modes: got modules from {found.min()} to {found.max()}, expected 0 to "
            f"{max(counts) - 1}"
        )
