"""One trained model on one data set as an ArviZ DataTree.

Groups of a run, each variable with its dimensions:

- `posterior`: `route` (chain, draw, obs, site), int16 draws from p(a|x,y);
- `routing`: `route_probs` p(a_l|x,y) and `router_probs` p(a_l|x) (obs, site, module),
  `n_choices` (site);
- `usage`: `share` (chain, draw, site, module) and `entropy` (chain, draw, site) of the
  drawn routes;
- `log_likelihood`: `y` (chain, draw, obs), log p(y|x) with the routes summed out;
- `posterior_predictive`: `y` (chain, draw, obs[, output]);
- `predictive_probs`: `y` (obs, klass), where y is a class;
- `predictive_mean`: `y` (obs[, output]), where y is a number;
- `observed_data`: `y` (obs[, output]);
- `constant_data`: `x` (obs, feature), `routes_true` (obs, site) where known;
- `sample_stats`: `lp` (chain, draw), the sum of `log_likelihood` over examples;
- `training`: `loss` (chain, step); `h_a`, `h_b`, `valid`, `seconds` (chain, log_step),
  `h_a_layers`, `h_b_layers` (chain, log_step, site).

All in nats. Where a site is static, `log_likelihood` takes each example by itself,
log sum_a p(a) p(y_n|x_n,a), and `lp` is the sum of these: not
:func:`~latentroute.inference.log_marginal` of the whole data set, whose examples share
their route. The log-likelihood given a drawn route is deliberately nowhere: cross
validation on it is badly wrong. Where weights are a point estimate, routes are summed
out and so `log_likelihood` and `lp` are the same for every draw, and `chain` has one
entry: another seed is another run, whose module labels are its own.

Where weights were drawn, chains and draws are theirs. `posterior` has the weights too,
by name, and one route drawn from p(a|x,y,w) at each draw w; `log_likelihood` is
log p(y|x,w); `routing`, `predictive_probs` and `predictive_mean` are means over all
draws; `sample_stats` is what the sampler recorded, its `lp` in place of ours. Each
chain names its modules as it likes: the labels of several are matched to the first's
by :func:`~latentroute.analysis.match_chains`, which adds to `routing` each chain's own
`chain_route_probs` and `chain_router_probs` (chain, obs, site, module) and the
`permutation` (chain, site, module). Weights keep their chain's own order.
"""

from __future__ import annotations

import functools
import json
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .arrays import entropy, to_numpy
from .chains import match_chains
from .drawn_weights import evaluate_draws, weight_stats, weight_variables
from .groups import Group, build_tree, with_variables
from .training import training_group

if TYPE_CHECKING:
    import xarray as xr

    from ..inference.evaluate import Evaluation
    from ..inference.weight_draws import WeightDraws

SCHEMA_VERSION = 1
LARGEST_CHOICE = int(np.iinfo(np.int16).max)
LIBRARIES = ("latentroute", "torch", "pyro-ppl", "arviz-base", "xarray", "numpy")


def to_datatree(
    model: Any,
    data: Any,
    *,
    draws: int = 100,
    seed: int = 0,
    history: Iterable[Mapping[str, Any]] | None = None,
    attrs: Mapping[str, Any] | None = None,
    weight_draws: WeightDraws | None = None,
) -> xr.DataTree:
    """Evaluate a trained model on data and label the result for ArviZ.

    Cost: an evaluation of the data, and one for each draw of the weights.

    Args:
        model: A Pyro program `model(x, y=None)` with route sites.
        data: One split of a task, or (x, y), or (x, y, routes) with routes
            (N, n_layers).
        draws: Draws of routes and predictions per example; of drawn weights at most so
            many a chain, evenly spaced.
        seed: Of these draws.
        history: What `fit` returned as `.history`.
        attrs: Attributes of the root (method, seed, task, wall_time, class_names, …);
            what netCDF cannot hold is stored as JSON.
        weight_draws: What `fit` returned as `.weight_draws`; None where the weights are
            a point estimate.

    Returns:
        The tree that this module's table describes; of several chains, with the labels
        matched (:func:`~latentroute.analysis.match_chains`).

    Raises:
        ValueError: Data is not (x, y) or (x, y, routes).
    """
    import xarray as xr

    from ..inference.evaluate import evaluate

    if not isinstance(data, tuple | list) or len(data) not in (2, 3):
        raise ValueError(
            f"data: got {type(data).__name__}, expected (x, y), (x, y, routes) or one "
            "split of a task (task.test, say)"
        )
    x, y = data[0], data[1]
    routes = data[2] if len(data) == 3 else None
    if weight_draws is None:
        found = evaluate(model, x, y, draws=draws, seed=seed)
        return tree_from_evaluation(
            found, x, y, routes=routes, history=history, attrs=attrs
        )
    weights = weight_draws.thin(draws)
    drawn = evaluate_draws(model, x, y, weights, seed=seed)
    tree = tree_from_evaluation(
        drawn.evaluation,
        x,
        y,
        routes=routes,
        history=history,
        attrs=attrs,
        log_lik=drawn.log_lik,
    )
    tree = with_variables(
        tree,
        {"posterior": weight_variables(weights), "sample_stats": weight_stats(weights)},
    )
    if weights.n_chains == 1:
        return tree
    dims = ["chain", "obs", "site", "module"]
    by_chain = {
        "chain_route_probs": (dims, drawn.route_probs),
        "chain_router_probs": (dims, drawn.router_probs),
    }
    tree["routing"] = xr.DataTree(tree["routing"].to_dataset().assign(by_chain))
    return match_chains(tree)


def tree_from_evaluation(
    evaluation: Evaluation,
    x: Any,
    y: Any,
    *,
    routes: Any = None,
    history: Iterable[Mapping[str, Any]] | None = None,
    attrs: Mapping[str, Any] | None = None,
    log_lik: NDArray[Any] | None = None,
) -> xr.DataTree:
    """Label an evaluation: the pure part of `to_datatree`.

    Args:
        evaluation: What `inference.evaluate` returned for x and y.
        x: (N, *features) inputs.
        y: (N,) or (N, n_outputs) targets, None where the program needs none.
        routes: (N, n_layers) true modules, None where unknown.
        history: Rows of training; None for no `training` group.
        attrs: Attributes of the root.
        log_lik: (chain, draw, N) log p(y_n | x_n) at each draw, draws of routes being
            in the same order; None: the evaluation's at every draw, in one chain.

    Raises:
        ValueError: Numbers of examples differ, or a site's choices exceed int16.
    """
    given = {"x": x, "y": y, "routes": routes}
    data = {name: to_numpy(v) for name, v in given.items() if v is not None}
    _check(evaluation, data)
    if log_lik is None:
        same = to_numpy(evaluation.log_marginal)
        log_lik = np.broadcast_to(same, (1, len(evaluation.routes), len(same))).copy()
    n_chains = len(log_lik)
    groups = _routing_groups(evaluation, n_chains) | _likelihood_groups(log_lik)
    groups |= _data_groups(evaluation.names, data)
    if "y" in data and evaluation.predictive is not None:
        groups |= _prediction_groups(evaluation, data["y"], n_chains)
    coords = _coords(evaluation)
    if history is not None:
        groups["training"], steps = training_group(history, len(evaluation.names))
        coords |= steps
    library = {
        "inference_library": "latentroute",
        "inference_library_version": version("latentroute"),
    }
    tree = build_tree(groups, coords, attrs=library)
    known = {"coupled": evaluation.coupled, **(attrs or {})}
    tree.attrs.update(root_attrs(known, exact=evaluation.exact))
    return tree


def _by_chain(draws: NDArray[Any], n_chains: int) -> NDArray[Any]:
    """(chains * draws, ...) -> (chains, draws, ...)."""
    return draws.reshape(n_chains, -1, *draws.shape[1:])


def _routing_groups(evaluation: Evaluation, n_chains: int) -> dict[str, Group]:
    """Routes and how they are used."""
    route = to_numpy(evaluation.routes).astype(np.int16)
    route = _by_chain(route, n_chains)  # (chain, draw, obs, site)
    modules = np.arange(max(evaluation.n_choices), dtype=np.int16)
    # one module at a time: no (draws, obs, site, module) array
    share = np.stack([(route == m).mean(2) for m in modules], axis=-1)
    per_example = ["obs", "site", "module"]
    return {
        "posterior": Group({"route": (["obs", "site"], route)}),
        "routing": Group(
            {
                "route_probs": (per_example, to_numpy(evaluation.route_probs)),
                "router_probs": (per_example, to_numpy(evaluation.router_probs)),
                "n_choices": (["site"], np.array(evaluation.n_choices, np.int64)),
            },
            sample_dims=[],
        ),
        "usage": Group(
            {
                "share": (["site", "module"], share),
                "entropy": (["site"], entropy(share)),
            }
        ),
    }


def _likelihood_groups(log_lik: NDArray[Any]) -> dict[str, Group]:
    """How likely the data are; a constant over draws is stored per draw as well."""
    total = log_lik.sum(-1, dtype=np.float64)
    return {
        "log_likelihood": Group({"y": (["obs"], log_lik)}),
        "sample_stats": Group({"lp": ([], total)}),
    }


def _data_groups(
    names: tuple[str, ...], data: Mapping[str, NDArray[Any]]
) -> dict[str, Group]:
    """What was given: inputs, targets, true routes."""
    x = data["x"]
    constant = {"x": (["obs", *(["feature"] if x.ndim == 2 else [])], x)}
    if "routes" in data:
        truth = data["routes"]
        along = "site" if truth.shape[1] == len(names) else "decision"
        constant["routes_true"] = (["obs", along], truth)
    groups = {"constant_data": Group(constant, sample_dims=[])}
    if "y" in data:
        y = data["y"]
        groups["observed_data"] = Group({"y": (_y_dims(y), y)}, sample_dims=[])
    return groups


def _prediction_groups(
    evaluation: Evaluation, y: NDArray[Any], n_chains: int
) -> dict[str, Group]:
    """Draws of targets, and class probabilities or means."""
    predictive = to_numpy(evaluation.predictive)
    draws = _by_chain(to_numpy(evaluation.y_draws), n_chains)
    # one target of an example that is predicted by several numbers is a class
    if y.ndim == 1 and predictive.shape[1] > 1:
        name, variable = "predictive_probs", (["obs", "klass"], predictive)
    else:
        predictive = predictive.reshape(y.shape)  # (N, 1) is (N,) where y is
        name, variable = "predictive_mean", (_y_dims(y), predictive)
    return {
        name: Group({"y": variable}, sample_dims=[]),
        "posterior_predictive": Group({"y": (_y_dims(draws[0, 0]), draws)}),
    }


def _y_dims(y: NDArray[Any]) -> list[str]:
    """Names of the axes of targets or of draws of them."""
    return ["obs", *(["output"] if y.ndim == 2 else [])]


def _coords(evaluation: Evaluation) -> dict[str, Any]:
    """Labels of the dims whose labels are more than a count."""
    # fixed-length strings: what netCDF gives back (object strings would not return)
    return {"site": np.array(evaluation.names, dtype=np.str_)}


def _check(evaluation: Evaluation, data: Mapping[str, NDArray[Any]]) -> None:
    """Refuse data that are not those of the evaluation."""
    n = len(evaluation.log_marginal)
    for name, values in data.items():
        if not values.ndim or len(values) != n:
            raise ValueError(
                f"{name}: got shape {values.shape}, expected the {n} examples that "
                "were evaluated along the first axis"
            )
    if "routes" in data and data["routes"].ndim != 2:
        raise ValueError(
            f"routes: got shape {data['routes'].shape}, expected (N, n_layers)"
        )
    for name, choices in zip(evaluation.names, evaluation.n_choices, strict=True):
        if choices > LARGEST_CHOICE:
            raise ValueError(
                f"site {name!r}: got {choices} choices, expected at most "
                f"{LARGEST_CHOICE} (routes are stored as int16)"
            )


def root_attrs(attrs: Mapping[str, Any], *, exact: bool) -> dict[str, Any]:
    """What is known of the run as a whole, in types that netCDF holds."""
    own = {"schema_version": SCHEMA_VERSION, "exact": exact, "versions": versions()}
    return {name: _plain(value) for name, value in (own | dict(attrs)).items()}


def _plain(value: Any) -> str | int | float:
    """A string or number as it is, flags as 0 or 1, the rest as JSON."""
    if isinstance(value, bool | np.bool_):
        return int(value)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str | int | float):
        return value
    return json.dumps(value, default=str)


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that a result depends on."""
    return {"python": platform.python_version()} | {n: version(n) for n in LIBRARIES}


@functools.cache  # each looks through the folders of all libraries
def version(name: str) -> str:
    """The version of an installed library."""
    return metadata.version(name)
