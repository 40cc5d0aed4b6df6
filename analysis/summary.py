"""The table that a comparison comes down to: one row a method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .chains import match_chains
from .groups import dataset
from .information import information
from .route_summary import chain_modes
from .runs import Run, is_classification, runs
from .truth import recovered
from .usage import usage

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

EXACT = "exact"  # the method whose row is what others' gaps are to
EXACT_CONFIG = '"Exact('  # under whatever label


def summary(tree: xr.DataTree) -> pd.DataFrame:
    """Mean and standard error over seeds of what matters, per method.

    Columns:

    - `seeds`, `failed`: trainings, and how many of them failed and enter no mean; both
      0 of a method that does not apply to the model;
    - `log_lik`: mean log p(y|x) per example, routes summed out (nats);
    - `gain`: `log_lik` minus that of the class prior (of a normal fit to numeric y);
    - `gap`: `log_lik` minus that of exact marginal likelihood *training* on the same
      seed (the method `exact`), mean over the seeds that both finished: not a gap to
      the generating model's, which no task tells;
    - `accuracy` of the most probable class, or `rmse` of the predictive mean;
    - `h_a`, `h_b`: H(A|X) and H(A) of the router, mean over layers (nats);
    - `mi_lower`, `mi_upper`: the bracket of I(A;X) per layer, plug-in (which is `h_b` -
      `h_a`) and leave-one-out, mean over layers (nats; the upper may be infinite);
    - `dead`: fraction of modules with use < 1/(10 M);
    - `collapsed`: fraction of trainings in which all modules but one of some layer are
      dead;
    - `route_accuracy`: of the modes of whole routes against the true ones, modules
      matched one to one, on the worst layer; `recovered`: fraction of trainings in
      which it is at least 0.95;
    - `seconds`: wall time of training;
    - `evaluations`: module evaluations an example that a step's loss takes.

    Each mean but `gain` and `evaluations` is followed by its standard error over seeds
    (`log_lik_se`, …): NaN with one seed. What a tree does not tell (`gain` without
    `prior_log_lik`, `seconds` without `wall_time`) is NaN; `gap`, `accuracy`, `rmse`,
    `route_accuracy`, `recovered` and `evaluations` are left out where no method has
    them. Of a run with several chains, recovery and the router are measured chain by
    chain; the router's are NaN where `routing` has only the mean of chains that call
    their modules differently. No number depends on the modules' labels.

    Args:
        tree: A comparison, or one run.

    Returns:
        A DataFrame indexed by `method`, in the tree's order.

    Raises:
        ValueError: The tree is neither a comparison nor a run.
    """
    import pandas as pd

    measured: dict[str, dict[str, Measures | None]] = {}
    for run in runs(tree):
        of_method = measured.setdefault(run.method, {})
        if run.applies:
            of_method[run.seed] = None if run.error else run_measures(run.tree)
    exact = measured.get(_exact(runs(tree)), {})
    prior = float(tree.attrs.get("prior_log_lik", np.nan))
    rows = {name: _row(found, exact, prior) for name, found in measured.items()}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")
    for name in OPTIONAL:
        if table[name].isna().all():
            table = table.drop(columns=[name, f"{name}_se"], errors="ignore")
    return table


def summary_dataset(table: pd.DataFrame) -> xr.Dataset:
    """The table as a Dataset along `method`, as a comparison keeps it at `summary`."""
    dataset = table.to_xarray()
    # fixed-length strings: object strings do not come back from netCDF
    return dataset.assign_coords(method=table.index.to_numpy(dtype=np.str_))


def _exact(found: list[Run]) -> str:
    """The label of the method that trains on the exact marginal likelihood."""
    labels = [EXACT] + [
        run.method
        for run in found
        if str(run.tree.attrs.get("config", "")).startswith(EXACT_CONFIG)
    ]
    return next((x for x in labels if any(x == run.method for run in found)), "")


def _row(
    of_method: Mapping[str, Measures | None],
    exact: Mapping[str, Measures | None],
    prior: float,
) -> dict[str, float]:
    """One method's row, from the measures of each seed; None of one that failed."""
    measured = {seed: found for seed, found in of_method.items() if found}
    row: dict[str, float] = {
        "seeds": len(of_method),
        "failed": len(of_method) - len(measured),
    }
    # the same seed is the same start: differences vary less than the two do
    apart = [
        found["log_lik"] - reference["log_lik"]
        for seed, found in measured.items()
        if exact is not of_method and (reference := exact.get(seed))
    ]
    for name in MEASURES:
        values = np.array([found[name] for found in measured.values()])
        row[name], row[f"{name}_se"] = mean_and_error(values)
        if name == "log_lik":
            row["gain"] = row[name] - prior
            row["gap"], row["gap_se"] = mean_and_error(np.array(apart))
    counts = [found["evaluations"] for found in measured.values()]
    row["evaluations"] = float(np.mean(counts)) if counts else np.nan
    return row


def run_measures(tree: xr.DataTree) -> Measures:
    """What `summary` averages, of one finished run."""
    if dataset(tree, "posterior").sizes["chain"] > 1:
        tree = match_chains(tree)  # each chain has names of its own for the modules
    accuracy, rmse = _error_of_prediction(tree)
    route_accuracy, is_recovered = _recovery(tree)
    return {
        "log_lik": float(pointwise_log_lik(tree).mean()),
        "accuracy": accuracy,
        "rmse": rmse,
        **_router_measures(dataset(tree, "routing")),
        "route_accuracy": route_accuracy,
        "recovered": is_recovered,
        "seconds": float(tree.attrs.get("wall_time", np.nan)),
        "evaluations": float(tree.attrs.get("evaluations", np.nan)),
    }


Measures = dict[str, float]
ROUTER_MEASURES = ("h_a", "h_b", "mi_lower", "mi_upper", "dead", "collapsed")
MEASURES = (
    *("log_lik", "accuracy", "rmse", *ROUTER_MEASURES),
    *("route_accuracy", "recovered", "seconds"),
)
OPTIONAL = ("gap", "accuracy", "rmse", "route_accuracy", "recovered", "evaluations")


def _router_measures(routing: xr.Dataset) -> Measures:
    """Information and use of the router: the mean over chains, where there are some."""
    by_chain = routing.get("chain_router_probs")
    if by_chain is None and "router_probs" not in routing:
        return dict.fromkeys(ROUTER_MEASURES, np.nan)
    if by_chain is None:
        by_chain = routing["router_probs"].expand_dims("chain")
    counts = np.asarray(routing["n_choices"].values)
    each = []
    for probs in by_chain.transpose("chain", "obs", "site", "module").values:
        info, use = information(probs), usage(probs, n_modules=counts.tolist())
        n_dead = use.is_dead.sum(-1)
        measures = {
            "h_a": info["h_a"].mean(),
            "h_b": info["h_b"].mean(),
            "mi_lower": info["mi_lower"].mean(),
            "mi_upper": info["mi_upper"].mean(),
            "dead": n_dead.sum() / counts.sum(),
            "collapsed": ((n_dead >= counts - 1) & (counts > 1)).any(),
        }
        each.append(measures)
    return {name: float(np.mean([m[name] for m in each])) for name in each[0]}


def _recovery(tree: xr.DataTree) -> tuple[float, float]:
    """(accuracy on the worst layer, 1 where recovered), NaN without true routes.

    The mean over chains: of two that differ, the mode of both would be the first's.
    """
    given = dataset(tree, "constant_data")
    if "routes_true" not in given or "site" not in given["routes_true"].dims:
        return np.nan, np.nan
    true = given["routes_true"].transpose("obs", "site").values
    found = [recovered(modes.path, true) for modes in chain_modes(tree)]
    return (
        float(np.mean([each.worst for each in found])),
        float(np.mean([each.recovered for each in found])),
    )


def log_likelihood(tree: xr.DataTree) -> xr.DataArray:
    """(chain, draw, obs) log p(y_n|x_n) of a run, or of any tree of `from_pyro`.

    Raises:
        ValueError: There is none, or several and none of them is called y.
    """
    group = dataset(tree, "log_likelihood")
    names = list(group)
    if "y" not in names and len(names) != 1:
        raise ValueError(
            f"log_likelihood: got {names}, expected one variable, or one called 'y'"
        )
    values = group["y" if "y" in names else names[0]]
    if set(values.dims) != {"chain", "draw", "obs"}:
        own = [dim for dim in values.dims if dim not in ("chain", "draw")]
        values = values.drop_vars(own, errors="ignore").stack(n=own, create_index=False)
        values = values.rename(n="obs")
    return values.transpose("chain", "draw", "obs").astype(np.float64)


def pointwise_log_lik(tree: xr.DataTree) -> NDArray[np.float64]:
    """(N,) log of the mean over draws of p(y_n|x_n): the log predictive density."""
    values = log_likelihood(tree)
    rows = values.values.reshape(-1, values.sizes["obs"])
    best = np.maximum(rows.max(0), np.finfo(np.float64).min)  # -inf - -inf is NaN
    with np.errstate(divide="ignore"):
        return np.asarray(best + np.log(np.exp(rows - best).mean(0)))


def mean_and_error(values: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and its standard error; NaN where there are too few values for it."""
    n = len(values)
    mean = float(values.mean()) if n else np.nan
    with np.errstate(invalid="ignore"):  # a run at -inf has no spread
        error = float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else np.nan
    return mean, error


def _error_of_prediction(tree: xr.DataTree) -> tuple[float, float]:
    """(accuracy, rmse), the one that does not apply NaN."""
    if is_classification(tree):
        y = dataset(tree, "observed_data")["y"].values
        probs = dataset(tree, "predictive_probs")["y"].transpose("obs", "klass")
        return float((probs.values.argmax(-1) == y).mean()), np.nan
    if "predictive_mean" not in tree.children:  # a program that only scores
        return np.nan, np.nan
    mean = dataset(tree, "predictive_mean")["y"].astype(np.float64)
    miss = (mean - dataset(tree, "observed_data")["y"]).values
    return np.nan, float(np.sqrt((miss**2).mean()))
