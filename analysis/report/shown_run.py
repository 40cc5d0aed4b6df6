"""What the explorer draws of one run: routes and predictions of some examples."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from ..groups import dataset
from ..matching import layers_of, match_modules, one_hot
from ..plots.examples import uncertainty
from ..plots.router_and_posterior import divergence
from ..plots.shown import n_choices, probabilities, run_name, site_names, true_routes
from ..runs import Run, is_classification
from ..summary import pointwise_log_lik
from .shown_inputs import MOST_OUTPUTS, Rows, decimals

if TYPE_CHECKING:
    import xarray as xr

Floats = NDArray[np.float64]

MOST_ROUTES: Final = 5
UNIT: Final = 10_000  # a probability is a whole number of these parts of one
INTERVAL: Final = (0.05, 0.95)


def shown_run(run: Run, rows: Rows) -> dict[str, Any]:
    """Routes and predictions of some examples under one run, as JSON knows them.

    Args:
        run: One that finished.
        rows: Which examples.

    Returns:
        A row an example in each of these; probabilities in parts of 10,000:

        - `name`, `method`, `sites`, `choices` of each site;
        - `posterior`, `router`: the modules' probabilities, one site after the other;
          `router` is None where a run has none;
        - `moved`: KL(posterior || router) of each site in nats, None like `router`;
        - `entropy`: of the posterior over modules, mean over sites, in nats; `log_lik`:
          log p(y|x) in nats;
        - `routes`: the whole routes drawn most often as [draws, module, module, …], out
          of `draws` in `chains`;
        - `matched`: the true label of each module of each site (-1: of none), one to
          one by co-use; None where the truth is not known;
        - `prediction`: `probs` of classes, or `mean`, `sd`, `low` and `high` (5% and
          95% of draws) of each output; None of a program that only scores.
    """
    tree = run.tree
    counts = n_choices(tree)
    posterior = probabilities(tree, "route_probs")
    try:
        router = probabilities(tree, "router_probs")
    except ValueError:  # labels that were matched draw by draw leave no router
        router = None
    moved = None if router is None else divergence(posterior[rows], router[rows])
    return {
        "name": run_name(run),
        "method": run.method,
        "sites": site_names(tree),
        "choices": counts,
        "posterior": _parts(posterior[rows], counts),
        "router": None if router is None else _parts(router[rows], counts),
        "moved": None if moved is None else decimals(moved),
        "entropy": decimals(uncertainty(tree, "route")[rows]),
        "log_lik": decimals(pointwise_log_lik(tree)[rows]),
        "matched": _matched(tree, posterior, counts),
        "prediction": _prediction(tree, rows),
        **_whole_routes(tree, rows),
    }


def _parts(probs: Floats, counts: list[int]) -> list[list[int]]:
    """(N, L, M) probabilities as rows of whole numbers, padding cut off."""
    flat = np.concatenate([probs[:, i, :m] for i, m in enumerate(counts)], axis=1)
    rows: list[list[int]] = np.rint(UNIT * flat).astype(np.int64).tolist()
    return rows


def _whole_routes(tree: xr.DataTree, rows: Rows) -> dict[str, Any]:
    """The whole routes of each example that were drawn most often."""
    route = dataset(tree, "posterior")["route"].isel(obs=rows)
    drawn = route.transpose("obs", "chain", "draw", "site")
    found = []
    for example in drawn.values.reshape(len(rows), -1, drawn.sizes["site"]):
        counted = Counter(map(tuple, example.tolist())).most_common(MOST_ROUTES)
        found.append([[times, *modules] for modules, times in counted])
    chains, draws = drawn.sizes["chain"], drawn.sizes["draw"]
    return {"routes": found, "draws": chains * draws, "chains": chains}


def _matched(
    tree: xr.DataTree, posterior: Floats, counts: list[int]
) -> list[list[int]] | None:
    """The true label of each module, slots of a layer together."""
    true = true_routes(tree)
    if true is None:
        return None
    reference = one_hot(true, int(true.max()) + 1)
    labels: dict[int, list[int]] = {}
    for sites in layers_of(site_names(tree)):
        found = np.concatenate([posterior[:, i, : counts[sites[0]]] for i in sites])
        known = np.concatenate([reference[:, i] for i in sites])
        labels |= dict.fromkeys(sites, match_modules(known, found).tolist())
    return [labels[i] for i in range(len(counts))]


def _prediction(tree: xr.DataTree, rows: Rows) -> dict[str, Any] | None:
    """Class probabilities, or mean and spread of each output."""
    if is_classification(tree):
        probs = dataset(tree, "predictive_probs")["y"].transpose("obs", "klass")
        return {"probs": np.rint(UNIT * probs.values[rows]).astype(int).tolist()}
    if "predictive_mean" not in tree.children:
        return None
    mean = dataset(tree, "predictive_mean")["y"].transpose("obs", ...).values[rows]
    draws = dataset(tree, "posterior_predictive")["y"].isel(obs=rows)
    values = draws.transpose("chain", "draw", "obs", ...).values.astype(np.float64)
    values = values.reshape(-1, len(rows), mean[0].size)[..., :MOST_OUTPUTS]
    low, high = np.quantile(values, INTERVAL, axis=0)
    return {
        "mean": decimals(mean.reshape(len(rows), -1)[:, :MOST_OUTPUTS]),
        "sd": decimals(values.std(0)),
        "low": decimals(low),
        "high": decimals(high),
        "of": int(mean[0].size),
    }
