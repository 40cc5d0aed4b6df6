"""Calibration as a DataTree: what figures, ArviZ and files take.

Groups:

- `calibration`: `pit` (simulation, quantity), for `arviz_plots.plot_ecdf_pit` too;
- `uniformity`: `p_value`, `p_adjusted` (Holm) and `level` (quantity);
- `reliability`: `said`, `seen`, `low`, `high`, `pairs` (site, bin); `ece`, `ece_floor`,
  `ece_limit`, and the scores `brier`, `miscalibration`, `discrimination`,
  `uncertainty`, `log_score`, `entropy`, `excess`, `excess_error` (site);
- `coverage`: `seen`, `low`, `high` (level, quantity).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .calibration_reliability import coverage, proper_scores, reliability
from .calibration_uniformity import uniformity
from .groups import Group, build_tree, dataset
from .matching import match_modules, one_hot

if TYPE_CHECKING:
    import xarray as xr

    from .calibration import Calibration


def calibration_tree(
    calibration: Calibration, *, attrs: Mapping[str, Any] | None = None, seed: int = 0
) -> xr.DataTree:
    """Test, tabulate and label a calibration.

    Args:
        calibration: What `route_calibration` or `weight_calibration` gave.
        attrs: Attributes of every group.
        seed: Of the noise floor of the calibration error.

    Returns:
        Groups `calibration`, `uniformity` and, where each simulation has one route,
        `reliability`.
    """
    groups = _pit_groups(calibration.pit)
    coords: dict[str, Any] = {"quantity": list(calibration.quantities)}
    if len(calibration.routes):
        groups["reliability"], more = _reliability_group(
            calibration.route_probs, calibration.routes, calibration.sites, seed
        )
        coords |= more
    draws = calibration.n_draws
    about = {"posterior": "probabilities" if draws is None else f"{draws} draws"}
    return build_tree(groups, coords, attrs=about | dict(attrs or {}))


def predictive_calibration(run: xr.DataTree, *, seed: int = 0) -> xr.DataTree:
    r"""Whether a run's predictions of y mean what they say.

    PITs are of p(y | x), routes summed out: from the probabilities of classes,
    ``u = P(y' < y) + v P(y' = y)``; from S predictive draws where y is a number, as
    randomised ranks. They are uniform and independent if the predictions are right and
    the examples are none that the model was trained on.

    Args:
        run: What `to_datatree` made of a model and held-out data.
        seed: Of what breaks ties, and of the noise floor.

    Returns:
        Groups `calibration` and `uniformity`; `reliability` of classes, or `coverage`
        of central intervals where y is a number.

    Raises:
        ValueError: The run has no targets or no predictions.

    References:
        Gneiting, Balabdaoui, Raftery 2007, Probabilistic forecasts, calibration and
        sharpness; Czado, Gneiting, Held 2009 (the randomised PIT).
    """
    rng = np.random.default_rng(seed)
    y = dataset(run, "observed_data")["y"].values
    if "predictive_probs" in run.children:
        probs = dataset(run, "predictive_probs")["y"].values
        label = y.reshape(len(probs)).astype(np.int64)
        pit = _class_pit(probs, label, rng)[:, None]
        group, more = _reliability_group(probs[:, None], label[:, None], ["y"], seed)
        groups = _pit_groups(pit) | {"reliability": group}
        return build_tree(groups, {"quantity": ["y"]} | more, attrs=_attrs(run))
    drawn = dataset(run, "posterior_predictive")["y"].values
    drawn = drawn.reshape(-1, len(y), y[0].size)
    y = y.reshape(len(y), -1)
    pit = _rank_pit(drawn, y, rng)
    found = coverage(pit)
    dims = ["level", "quantity"]
    shares = {name: (dims, getattr(found, name)) for name in ("seen", "low", "high")}
    groups = _pit_groups(pit) | {"coverage": Group(shares, sample_dims=[])}
    names = ["y"] if y.shape[1] == 1 else [f"y[{i}]" for i in range(y.shape[1])]
    coords = {"quantity": names, "level": found.levels}
    return build_tree(groups, coords, attrs=_attrs(run))


def route_reliability(run: xr.DataTree, *, seed: int = 0) -> xr.DataTree:
    """Whether a run's p(a|x,y) say how often the true modules are the ones it names.

    Labels are arbitrary, so modules are matched with the true ones first, layer by
    layer; modules that are left over count as one more, which is never the truth.

    Args:
        run: What `to_datatree` made of a model and data with known routes.
        seed: Of the noise floor.

    Returns:
        Group `reliability`.

    Raises:
        ValueError: The run does not know the true routes.
    """
    constant = dataset(run, "constant_data")
    if "routes_true" not in constant:
        raise ValueError(
            "run: got no constant_data.routes_true, expected data with its true routes"
        )
    truth = constant["routes_true"].values.astype(np.int64)
    routing = dataset(run, "routing")
    probs = routing["route_probs"].values.astype(np.float64)
    if truth.shape != probs.shape[:2]:
        raise ValueError(
            f"run: got {truth.shape[1]} true decisions an example and {probs.shape[1]} "
            "route sites, expected as many"
        )
    n_true = int(truth.max()) + 1
    said = [_relabelled(probs[:, i], t, n_true) for i, t in enumerate(truth.T)]
    sites = [str(name) for name in routing["site"].values]
    group, coords = _reliability_group(np.stack(said, 1), truth, sites, seed)
    return build_tree({"reliability": group}, coords, attrs=_attrs(run))


def _relabelled(
    probs: NDArray[np.float64], truth: NDArray[np.int64], n_true: int
) -> NDArray[np.float64]:
    """(N, M + R) said of the true labels; in the last column, of modules left over."""
    labels = match_modules(one_hot(truth, n_true), probs)
    width = probs.shape[1] + n_true
    said = np.zeros((len(probs), width))
    for module, label in enumerate(labels):
        said[:, label if label >= 0 else width - 1] += probs[:, module]
    return said


def _attrs(run: xr.DataTree) -> dict[str, Any]:
    return {str(name): value for name, value in run.attrs.items()}


def _pit_groups(pit: NDArray[np.float64]) -> dict[str, Group]:
    found = uniformity(pit)
    tests = {
        "p_value": (["quantity"], found.p_values),
        "p_adjusted": (["quantity"], found.p_adjusted),
        "level": (["quantity"], found.levels),
    }
    return {
        "calibration": Group({"pit": (["quantity"], pit)}, sample_dims=["simulation"]),
        "uniformity": Group(tests, sample_dims=[]),
    }


def _reliability_group(
    probs: NDArray[Any], truth: NDArray[Any], sites: Sequence[str], seed: int
) -> tuple[Group, dict[str, Any]]:
    found = reliability(probs, truth, seed=seed)._asdict()
    found |= proper_scores(probs, truth)._asdict()
    variables = {
        name: (["site", "bin"] if values.ndim == 2 else ["site"], values)
        for name, values in found.items()
    }
    edges = np.linspace(0, 1, found["said"].shape[1] + 1)
    coords = {"site": list(sites), "bin": (edges[1:] + edges[:-1]) / 2}
    return Group(variables, sample_dims=[]), coords


def _class_pit(
    probs: NDArray[Any], label: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """u = P(y' < y) + v P(y' = y) of classes (N, C)."""
    p = probs.astype(np.float64)
    p = p / p.sum(-1, keepdims=True)
    rows = np.arange(len(p))
    below = p.cumsum(-1)[rows, label] - p[rows, label]
    u = below + rng.uniform(size=len(p)) * p[rows, label]
    return np.asarray(u.clip(0, 1))


def _rank_pit(
    drawn: NDArray[Any], y: NDArray[Any], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Randomised ranks of y (N, D) among draws (S, N, D), in [0, 1]."""
    less, equal = (drawn < y).sum(0), (drawn == y).sum(0)
    return np.asarray(
        (less + rng.uniform(size=y.shape) * (equal + 1)) / (len(drawn) + 1)
    )
