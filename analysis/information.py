"""How much a router's choice tells about its input."""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from .arrays import entropy, to_numpy

ROW_SUM_TOLERANCE = 1e-4  # a float32 softmax over many modules is off by about 1e-6

Floats = NDArray[np.float64]


class Information(TypedDict):
    """What `information` measures: nats, one value per layer.

    Arrays are (n_layers,) for probabilities of shape (N, n_layers, n_modules), and
    plain scalars for (N, n_modules).
    """

    h_a: Floats
    """mean_n H[p(a|x_n)]: how unsure the router is about one example, H(A|X)."""
    h_b: Floats
    """H[mean_n p(a|x_n)]: how evenly the modules are used, H(A)."""
    effective_a: Floats
    """exp(h_a): effective number of modules that one example hesitates between."""
    effective_b: Floats
    """exp(h_b): effective number of modules in use."""
    mi_lower: Floats
    """Plug-in I(A;X) = h_b - h_a: biased low, at most log N."""
    mi_upper: Floats
    """Leave-one-out I(A;X): biased high, infinite where one example owns a module."""
    n: int
    """Number of examples N that all of it rests on."""


def information(probs: Any) -> Information:
    r"""Entropies of routing and a bracket around the mutual information I(A;X).

    .. math::
        h_a = \tfrac1N \sum_n H[p(a|x_n)], \quad
        h_b = H\bigl[\tfrac1N \sum_n p(a|x_n)\bigr], \quad
        I_\text{lower} = h_b - h_a, \quad
        I_\text{upper} = \tfrac1N \sum_n \sum_a p(a|x_n)
            \log \frac{p(a|x_n)}{\frac1{N-1} \sum_{j \ne n} p(a|x_j)}

    On average over draws of the N examples the two bounds hold the true I(A;X) between
    them; one data set's bracket may miss it. Computed in float64 from sums over rows:
    memory grows with N, never with N squared. Modules of probability zero everywhere
    (padding) change nothing.

    Args:
        probs: (N, n_modules) or (N, n_layers, n_modules), p(a|x_n) as a torch tensor
            or NumPy array. Sums over modules must be one within 1e-4, and are made
            exactly one before use.

    Returns:
        A mapping with `h_a`, `h_b`, `effective_a`, `effective_b`, `mi_lower`,
        `mi_upper` (in nats but the effective numbers; (n_layers,), or scalars for
        two-dimensional `probs`) and `n`.

    Raises:
        ValueError: Wrong shape, NaN, negative values, or rows that do not sum to one.

    References:
        h_a, h_b: Kirsch et al. 2018 (arXiv:1811.05249). Bounds: Poole et al.
        2019 (arXiv:1905.06922).

    Example:
        >>> import numpy as np
        >>> info = information(np.eye(4))  # four examples, each with its own module
        >>> round(float(info["h_b"]), 4), float(info["h_a"]), float(info["mi_upper"])
        (1.3863, 0.0, inf)
    """
    array = _checked(to_numpy(probs))
    layers = array if array.ndim == 3 else array[:, None]
    # layer by layer: float64 copies of one layer at a time, whatever the data's dtype
    columns = [_layer(layers[:, i]) for i in range(layers.shape[1])]
    h_a, h_b, upper = np.array(columns).reshape(-1, 3).T
    lower = np.maximum(h_b - h_a, 0.0)  # rounding may leave -1e-17
    upper = np.maximum(upper, lower)
    if array.ndim == 2:
        h_a, h_b, lower, upper = h_a[0], h_b[0], lower[0], upper[0]
    return Information(
        h_a=h_a,
        h_b=h_b,
        effective_a=np.exp(h_a),
        effective_b=np.exp(h_b),
        mi_lower=lower,
        mi_upper=upper,
        n=len(array),
    )


def _layer(rows: NDArray[Any]) -> tuple[float, float, float]:
    """(h_a, h_b, leave-one-out bound) of one layer, rows (N, n_modules)."""
    p = rows.astype(np.float64)
    p /= p.sum(-1, keepdims=True)
    h_a = float(entropy(p).mean())
    h_b = float(entropy(p.mean(0)))
    return h_a, h_b, _leave_one_out(p, h_a)


def _leave_one_out(p: Floats, h_a: float) -> float:
    """mean_n sum_a p_na log(p_na / mean of the other rows), or infinity."""
    n = len(p)
    if n == 1:
        return np.inf
    # total - row cancels badly only where a row holds more than half of its column's
    # sum: at most one row a column, its largest, whose rest is summed afresh
    others = p.sum(0) - p
    top = p.argmax(0)[None]
    rest = p.copy()
    np.put_along_axis(rest, top, 0.0, axis=0)
    np.put_along_axis(others, top, rest.sum(0)[None], axis=0)
    if np.any((p > 0) & (others <= 0)):
        return np.inf
    logs = np.log(others / (n - 1), out=rest, where=p > 0)
    np.multiply(p, logs, out=logs, where=p > 0)
    return float(-h_a - logs.sum(where=p > 0) / n)


def _checked(probs: NDArray[Any]) -> NDArray[Any]:
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
