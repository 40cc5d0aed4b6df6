"""What a figure shows of a tree: which runs, and their routes as plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..groups import dataset
from ..relabel import CHAIN_PREFIX
from ..runs import Run, finished
from ..summary import pointwise_log_lik

if TYPE_CHECKING:
    import xarray as xr

Floats = NDArray[np.float64]
EXAMPLE = ("obs", "site", "module")


def best_runs(tree: xr.DataTree) -> list[Run]:
    """Each method's run with the highest test log-likelihood, in the tree's order.

    Raises:
        ValueError: No run finished.
    """
    return [max(found, key=_log_lik) for found in finished(tree).values()]


def best_run(tree: xr.DataTree) -> Run:
    """The run with the highest test log-likelihood of all.

    Raises:
        ValueError: No run finished.
    """
    return max(best_runs(tree), key=_log_lik)


def _log_lik(run: Run) -> float:
    return float(pointwise_log_lik(run.tree).mean())


def site_names(tree: xr.DataTree) -> list[str]:
    """The route sites of a run, in program order."""
    return [str(site) for site in dataset(tree, "routing")["site"].values]


def n_choices(tree: xr.DataTree) -> list[int]:
    """How many modules each site chooses from."""
    return [int(m) for m in dataset(tree, "routing")["n_choices"].values]


def probabilities(tree: xr.DataTree, name: str) -> Floats:
    """(N, L, M) `route_probs` or `router_probs` of a run, a mean over its chains.

    Raises:
        ValueError: The run has none (labels matched draw by draw leave no router).
    """
    routing = dataset(tree, "routing")
    if name not in routing:
        raise ValueError(f"routing: got {list(routing)}, expected {name!r} among them")
    return np.asarray(routing[name].transpose(*EXAMPLE).values, dtype=np.float64)


def chain_probabilities(tree: xr.DataTree, name: str) -> Floats:
    """(chains, N, L, M) the same chain by chain, where a run kept it so."""
    routing = dataset(tree, "routing")
    kept = f"{CHAIN_PREFIX}{name}"
    if kept not in routing:
        return probabilities(tree, name)[None]
    values = routing[kept].transpose("chain", *EXAMPLE).values
    return np.asarray(values, dtype=np.float64)


def n_chains(found: Sequence[Run]) -> int:
    """Seeds and chains of some runs, all together."""
    return sum(dataset(run.tree, "posterior").sizes["chain"] for run in found)


def true_routes(tree: xr.DataTree) -> NDArray[np.int64] | None:
    """(N, L) true modules of a run's sites; None where they are not known."""
    if "constant_data" not in tree.children:
        return None
    known = dataset(tree, "constant_data").get("routes_true")
    if known is None or known.shape[1] != len(site_names(tree)):
        return None
    truth: NDArray[np.int64] = known.values.astype(np.int64)
    return truth


def run_name(run: Run) -> str:
    """Method and seed in words."""
    return f"{run.method}, {run.seed.replace('_', ' ')}"
