"""The table that a comparison comes down to: one row a method."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .groups import dataset
from .information import information
from .runs import Run, is_classification, runs

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

DEAD = 0.1  # a module is dead when its use is below this share of an even one


def summary(tree: xr.DataTree) -> pd.DataFrame:
    """Mean and standard error over seeds of what matters, per method.

    Columns:

    - `seeds`, `failed`: runs, and how many of them failed and enter no mean;
    - `log_lik`: mean log p(y|x) per example, routes summed out (nats);
    - `gain`: `log_lik` minus that of the class prior (of a normal fit to numeric y);
    - `accuracy` of the most probable class, or `rmse` of the predictive mean;
    - `h_a`, `h_b`: H(A|X) and H(A) of the router, mean over layers (nats);
    - `dead`: fraction of modules with use < 1/(10 M);
    - `seconds`: wall time of training.

    Each mean but `gain` is followed by its standard error over seeds (`log_lik_se`, …):
    NaN with one seed. What a tree does not tell (`gain` without `prior_log_lik`,
    `seconds` without `wall_time`) is NaN. No number depends on the modules' labels.

    Args:
        tree: A comparison, or one run.

    Returns:
        A DataFrame indexed by `method`, in the tree's order.

    Raises:
        ValueError: The tree is neither a comparison nor a run.
    """
    import pandas as pd

    by_method: dict[str, list[Run]] = {}
    for run in runs(tree):
        by_method.setdefault(run.method, []).append(run)
    rows = {
        method: _row(of_method, float(tree.attrs.get("prior_log_lik", np.nan)))
        for method, of_method in by_method.items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")
    # a task has classes or numbers: the other measure's columns are not shown empty
    for name in ("accuracy", "rmse"):
        if table[name].isna().all():
            table = table.drop(columns=[name, f"{name}_se"])
    return table


def summary_dataset(table: pd.DataFrame) -> xr.Dataset:
    """The table as a Dataset along `method`, as a comparison keeps it at `summary`."""
    dataset = table.to_xarray()
    # fixed-length strings: object strings do not come back from netCDF
    return dataset.assign_coords(method=table.index.to_numpy(dtype=np.str_))


def _row(of_method: list[Run], prior: float) -> dict[str, float]:
    """One method's row."""
    measured = [run_measures(run.tree) for run in of_method if not run.error]
    row: dict[str, float] = {
        "seeds": len(of_method),
        "failed": len(of_method) - len(measured),
    }
    for name in MEASURES:
        values = np.array([measures[name] for measures in measured])
        row[name], row[f"{name}_se"] = mean_and_error(values)
        if name == "log_lik":
            row["gain"] = row[name] - prior
    return row


def run_measures(tree: xr.DataTree) -> dict[str, float]:
    """What `summary` averages, of one finished run."""
    router = dataset(tree, "routing")
    info = information(router["router_probs"].values)
    accuracy, rmse = _error_of_prediction(tree)
    measures = (
        float(pointwise_log_lik(tree).mean()),
        accuracy,
        rmse,
        float(np.mean(info["h_a"])),
        float(np.mean(info["h_b"])),
        dead_fraction(router),
        float(tree.attrs.get("wall_time", np.nan)),
    )
    return dict(zip(MEASURES, measures, strict=True))


MEASURES = ("log_lik", "accuracy", "rmse", "h_a", "h_b", "dead", "seconds")


def pointwise_log_lik(tree: xr.DataTree) -> NDArray[np.float64]:
    """(N,) log of the mean over draws of p(y_n|x_n): the log predictive density."""
    values = dataset(tree, "log_likelihood")["y"].transpose("chain", "draw", "obs")
    rows = values.values.astype(np.float64).reshape(-1, values.sizes["obs"])
    best = np.maximum(rows.max(0), np.finfo(np.float64).min)  # -inf - -inf is NaN
    with np.errstate(divide="ignore"):
        return np.asarray(best + np.log(np.exp(rows - best).mean(0)))


def module_use(router: xr.Dataset) -> list[NDArray[np.float64]]:
    """Mean over examples of p(a_l|x): one (n_choices,) array a site, padding cut off.

    Args:
        router: The group `routing` of a run.
    """
    mean = router["router_probs"].astype(np.float64).mean("obs").values
    return [row[:m] for row, m in zip(mean, router["n_choices"].values, strict=True)]


def dead_fraction(router: xr.Dataset) -> float:
    """Fraction of all modules of all sites whose use is below 1/(10 M)."""
    dead = [use < DEAD / len(use) for use in module_use(router)]
    return float(np.concatenate(dead).mean())


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
