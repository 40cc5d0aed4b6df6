"""Which model predicts better: expected log predictive densities, side by side."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from .diagnostics import arviz_stats
from .groups import dataset
from .runs import finished
from .summary import log_likelihood, pointwise_log_lik

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

Estimate = Literal["held-out", "loo"]
Weights = Literal["stacking", "BB-pseudo-BMA", "pseudo-BMA"]
GOOD_K = 0.7  # of a Pareto tail: Vehtari et al. 2024 (arXiv:1507.02646)

Values = NDArray[np.float64]


def compare_elpd(
    models: xr.DataTree | Mapping[str, xr.DataTree],
    *,
    estimate: Estimate = "held-out",
    weights: Weights = "stacking",
) -> pd.DataFrame:
    r"""Compare models by the log predictive density of the same examples.

    With l_n = log p(y_n|x_n), routes summed out,

    .. math::
        \text{elpd} = \sum_n l_n, \quad \text{se} = \sqrt{N \operatorname{var}_n l_n},
        \quad \text{dse} = \sqrt{N \operatorname{var}_n (l_n - l_n^\text{best})}.

    *held-out* is for runs on examples that were not trained on (what
    :func:`latentroute.compare` evaluates): l_n is the log of the mean over draws of
    the weights, and needs no correction; one point estimate will do. *loo* is for runs
    on the training data with draws of the weights: each l_n is
    ``arviz_stats.loo``'s, by Pareto-smoothed importance sampling. A point estimate has
    no leave-one-out value and is refused.

    Args:
        models: A comparison, whose methods get the mean over their seeds of l_n (a
            training's, not an ensemble's); or runs by name, each by itself, where the
            chains of :func:`latentroute.analysis.join_chains` do count as an ensemble;
            trees of :func:`latentroute.analysis.from_pyro` will do too.
        estimate: Where l_n comes from.
        weights: How ``arviz_stats.compare`` weighs the models.

    Returns:
        A table indexed by `model`, the best first: `rank`, `elpd` and `se` (nats, of
        all examples), `elpd_diff` to the best (never above 0) and its `dse`, `weight`;
        with *loo* also `p`, the effective number of parameters, and `bad_k`, how many
        examples have a Pareto k above the reliable. The same with every version of
        ArviZ.

    Raises:
        ValueError: Other examples in one model than in another, an impossible example,
            or a point estimate, or a static site, where *loo* is asked for.

    References:
        Vehtari, Gelman, Gabry 2017 (arXiv:1507.04544); Yao et al. 2018
        (arXiv:1704.02030).
    """
    import pandas as pd

    if estimate not in get_args(Estimate):
        raise ValueError(
            f"estimate: got {estimate!r}, expected one of {get_args(Estimate)}"
        )
    found = {
        name: _densities(name, trees, estimate)
        for name, trees in _by_name(models).items()
    }
    _check_same(found)
    rows = np.stack([model.pointwise for model in found.values()])  # (models, N)
    order = np.argsort(-rows.sum(1), kind="stable")
    n = rows.shape[1]
    apart = rows - rows[order[0]]
    columns: dict[str, Any] = {
        "rank": np.argsort(order),
        "elpd": rows.sum(1),
        "se": np.sqrt(n * rows.var(1)),
        "elpd_diff": apart.sum(1),
        "dse": np.sqrt(n * apart.var(1)),
        "weight": _weights(rows, weights),
    }
    if estimate == "loo":
        columns["p"] = [model.p for model in found.values()]
        columns["bad_k"] = [model.bad_k for model in found.values()]
    index = pd.Index(list(found), name="model")
    return pd.DataFrame(columns, index=index).iloc[order]


class _Densities(NamedTuple):
    """A model's log predictive densities, and what LOO says of them."""

    pointwise: Values
    """(N,)"""
    y: xr.DataArray | None
    p: float = 0.0
    bad_k: int = 0


def _densities(name: str, trees: list[xr.DataTree], estimate: Estimate) -> _Densities:
    """Of a model: the mean over its runs; `bad_k` counts examples bad in any run."""
    y = _observed(trees[0])
    if estimate == "held-out":
        each = [_LOO(pointwise_log_lik(tree), 0.0, np.zeros(1)) for tree in trees]
    else:
        each = [_loo(tree, name) for tree in trees]
    pointwise = np.mean([found.pointwise for found in each], axis=0)
    bad = ~np.isfinite(pointwise)
    if bad.any():
        where = int(bad.argmax())
        raise ValueError(
            f"{name}: got log p(y|x) = {pointwise[where]} at {bad.sum()} examples (the "
            f"first is {where}), expected finite ones (leave the model out: it rules "
            "out what was seen)"
        )
    bad_k = int(np.any([found.is_bad for found in each], axis=0).sum())
    return _Densities(pointwise, y, float(np.mean([found.p for found in each])), bad_k)


class _LOO(NamedTuple):
    """(N,) leave-one-out densities, their effective parameters, (N,) what is bad."""

    pointwise: Values
    p: float
    is_bad: NDArray[Any]


def _loo(tree: xr.DataTree, name: str) -> _LOO:
    """PSIS-LOO of log p(y|x), routes summed out, for weights that vary."""
    import xarray as xr

    if tree.attrs.get("coupled"):
        raise ValueError(
            f"{name}: a static site joins the examples, so that none can be left out "
            "alone: take estimate='held-out'"
        )
    values = log_likelihood(tree)
    if (values == values.isel(draw=0)).all():
        raise ValueError(
            f"{name}: got a log-likelihood that is the same in every draw of a chain, "
            "expected draws of the weights (they are a point estimate: evaluate unseen "
            "examples and take estimate='held-out')"
        )
    pointwise = values.values[0, 0].copy()
    is_bad = np.zeros(len(pointwise), dtype=bool)
    # ArviZ refuses examples that are predicted alike by all draws: nothing to correct
    varies = (values != values.isel(chain=0, draw=0)).any(("chain", "draw")).values
    rows = values.isel(obs=varies)
    # by default the efficiency would be that of the codes of the routes
    density = np.exp(rows.values - rows.values.max((0, 1)))
    sizes = arviz_stats().ess(density, method="mean", chain_axis=0, draw_axis=1)
    reff = float(np.mean(sizes)) / (rows.sizes["chain"] * rows.sizes["draw"])
    only = xr.DataTree.from_dict({"log_likelihood": rows.to_dataset(name="y")})
    with warnings.catch_warnings():  # of high Pareto k, which `bad_k` tells
        warnings.simplefilter("ignore", UserWarning)
        found = arviz_stats().loo(only, var_name="y", reff=reff, pointwise=True)
    pointwise[varies] = found.elpd_i.values
    is_bad[varies] = found.pareto_k.values > found.good_k
    return _LOO(pointwise, float(found.p), is_bad)


def elpd_from_pointwise(values: Values) -> Any:
    """Log predictive densities as ArviZ's ELPDData, in whichever form it has.

    For held-out densities of point estimates, so that ``arviz_stats.compare`` and
    ``arviz_plots.plot_compare`` take them; there are no parameters to count (p = 0) and
    no Pareto k (all 0).

    Args:
        values: (N,) log p(y_n|x_n).
    """
    import xarray as xr

    pointwise = np.asarray(values, dtype=np.float64)
    n = len(pointwise)
    fields = {
        "elpd": float(pointwise.sum()),
        "se": float(np.sqrt(n * pointwise.var())),
        "p": 0.0,
        "n_samples": 1,
        "n_data_points": n,
        "scale": "log",
        "warning": False,
        "good_k": GOOD_K,
        "elpd_i": xr.DataArray(pointwise, dims="obs"),
        "pareto_k": xr.DataArray(np.zeros(n), dims="obs"),
    }
    # ArviZ 1: a class for each kind; before: one class that is told
    az = arviz_stats()
    of_kind = getattr(az, "ELPDDataLOO", None)
    return of_kind(**fields) if of_kind else az.ELPDData(kind="loo", **fields)


def _weights(rows: Values, method: Weights) -> Values:
    """(models,) weights from (models, N) pointwise densities, through ArviZ."""
    if len(rows) == 1:
        return np.ones(1)
    # what all models share changes no weight, but exp(-800) is 0
    level = rows - rows.max(0)
    given = {str(i): elpd_from_pointwise(row) for i, row in enumerate(level)}
    with warnings.catch_warnings():  # of what ArviZ 0.8 asks of pandas
        warnings.simplefilter("ignore", DeprecationWarning)
        table = arviz_stats().compare(given, method=method, **unrounded())
    return np.asarray(table["weight"].loc[list(given)], dtype=np.float64)


def unrounded() -> dict[str, str]:
    """The option that keeps ArviZ 1's ``compare`` from rounding; none before."""
    rounds = "round_to" in inspect.signature(arviz_stats().compare).parameters
    return {"round_to": "none"} if rounds else {}


def _by_name(
    models: xr.DataTree | Mapping[str, xr.DataTree],
) -> dict[str, list[xr.DataTree]]:
    """Runs by the name of their model."""
    import xarray as xr

    if isinstance(models, xr.DataTree):
        of = finished(models)
        return {method: [run.tree for run in found] for method, found in of.items()}
    if not models:
        raise ValueError("models: got none, expected a comparison or runs by name")
    return {name: [tree] for name, tree in models.items()}


def _observed(tree: xr.DataTree) -> xr.DataArray | None:
    """The targets, where a tree has them under the name that ours have."""
    if "observed_data" not in tree.children:
        return None
    return dataset(tree, "observed_data").get("y")


def _check_same(found: dict[str, _Densities]) -> None:
    """Refuse models that were evaluated on other examples."""
    (first, one), *others = found.items()
    for name, other in others:
        sizes = len(one.pointwise), len(other.pointwise)
        same = sizes[0] == sizes[1]
        if same and one.y is not None and other.y is not None:
            ours, theirs = one.y.values, other.y.values
            missing = ours.dtype.kind == theirs.dtype.kind == "f"  # NaN may be data
            same = np.array_equal(ours, theirs, equal_nan=missing)
        if not same:
            raise ValueError(
                f"{name}: got {sizes[1]} examples other than the {sizes[0]} of "
                f"{first}, expected the same for all models"
            )
