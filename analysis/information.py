"""How much a router's choice tells about its input."""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from . import streaming
from .arrays import to_numpy
from .usage import Usage, usage_from_sums

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


class StreamedInformation(Information):
    """`Information` with bootstrap intervals, (n_layers, 2), and the modules' use."""

    h_a_interval: Floats
    h_b_interval: Floats
    mi_lower_interval: Floats
    """Of the plug-in value; its low end bounds I(A;X) from below."""
    mi_upper_interval: Floats
    """Of the leave-one-out value; its high end bounds I(A;X) from above."""
    level: float
    """Probability that each interval is made for."""
    use: Usage
    """How evenly the modules are used."""


def information(probs: Any) -> Information:
    r"""Entropies of routing and a bracket around the mutual information I(A;X).

    .. math::
        h_a = \tfrac1N \sum_n H[p(a|x_n)], \quad
        h_b = H\bigl[\tfrac1N \sum_n p(a|x_n)\bigr], \quad
        I_\text{lower} = h_b - h_a, \quad
        I_\text{upper} = \tfrac1N \sum_n \sum_a p(a|x_n)
            \log \frac{p(a|x_n)}{\frac1{N-1} \sum_{j \ne n} p(a|x_j)}

    On average over draws of the N examples the two bounds hold the true I(A;X) between
    them; one data set's bracket may miss it (`stream_information` gives intervals).
    Computed in float64 from sums over rows, some rows at a time: beside `probs` itself
    a few MiB, whatever N. Modules of probability zero everywhere (padding) change
    nothing.

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
    array = streaming.checked(to_numpy(probs))
    found = streaming.values(*streaming.two_passes(lambda: streaming.rows_of(array)))
    if array.ndim == 2:
        found = {name: value[0] for name, value in found.items()}
    return _with_effective(found, len(array))


def stream_information(
    batches: streaming.Batches,
    *,
    replicates: int = 200,
    level: float = 0.95,
    seed: int = 0,
    n_modules: Any = None,
) -> StreamedInformation:
    r"""`information` of any number of examples, with intervals and the modules' use.

    The data are read twice: once for :math:`S = \sum_n p(a|x_n)`, once for the mean of
    the others of each example, :math:`(S - p_n) / (N - 1)`, which is exact. Memory: one
    batch and a few MiB, whatever N. Time: with B replicates about B counts an example
    and reading.

    Intervals are of the Poisson bootstrap: deviations of B reweighted values from their
    mean, around the value. In a replicate the leave-one-out value is the plug-in value
    plus the reweighted mean of the examples' own gaps between the two. Together they
    cover the sampling of examples, not an error in p(a|x) itself.

    Args:
        batches: (n, n_modules) or (n, n_layers, n_modules) probabilities each, in a
            list, a DataLoader, or a function that returns an iterator over them. Both
            readings must give the same examples; another order is fine.
        replicates: B.
        level: Probability that each interval is made for.
        seed: Of the bootstrap: the same data in the same order and the same seed give
            the same numbers, however they are cut into batches.
        n_modules: (n_layers,) modules of each layer where some are padding; all, by
            default. Only the measures of use depend on it.

    Returns:
        The mapping of `information`, always with a layer axis, with `*_interval`
        (n_layers, 2), NaN for one example; `level`; and `use`.

    Raises:
        ValueError: An iterator that can be read only once, no examples, other examples
            in the second reading, no probabilities, or options out of range.

    References:
        Poole et al. 2019 (arXiv:1905.06922), leave-one-out bound.

    Example:
        >>> import numpy as np
        >>> batches = [np.eye(4)[[0, 1, 2, 3] * 5]] * 10
        >>> info = stream_information(batches)
        >>> info["n"], round(float(info["mi_lower"][0]), 4)
        (200, 1.3863)
    """
    check_bootstrap(replicates, level)
    start = streaming.rereadable(batches)

    def rows() -> Any:
        for batch in start():
            yield from streaming.rows_of(batch)

    return summarise(
        *streaming.two_passes(rows, replicates=replicates, seed=seed),
        level=level,
        n_modules=n_modules,
    )


def summarise(
    first: streaming.RouteSums,
    second: streaming.LeaveOneOutSums,
    *,
    level: float,
    n_modules: Any = None,
) -> StreamedInformation:
    """What two passes come down to."""
    found = streaming.intervals(first, second, level=level)
    return StreamedInformation(
        **_with_effective(streaming.values(first, second), first.n),
        h_a_interval=found["h_a"],
        h_b_interval=found["h_b"],
        mi_lower_interval=found["mi_lower"],
        mi_upper_interval=found["mi_upper"],
        level=level,
        use=usage_from_sums(first.importance, first.load, n_modules=n_modules),
    )


def check_bootstrap(replicates: int, level: float) -> None:
    """Refuse options of which no interval can be made."""
    if not replicates >= 2:
        raise ValueError(f"replicates: got {replicates}, expected at least 2")
    if not 0 < level < 1:
        raise ValueError(f"level: got {level}, expected a probability between 0 and 1")


def _with_effective(found: dict[str, Floats], n: int) -> Information:
    """Effective numbers and N beside the nats."""
    return Information(
        h_a=found["h_a"],
        h_b=found["h_b"],
        effective_a=np.exp(found["h_a"]),
        effective_b=np.exp(found["h_b"]),
        mi_lower=found["mi_lower"],
        mi_upper=found["mi_upper"],
        n=n,
    )
