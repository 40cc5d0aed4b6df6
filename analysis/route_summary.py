"""The routes of each example in three numbers: mode, its probability, entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from .arrays import entropy
from .groups import dataset
from .truth import most_probable

if TYPE_CHECKING:
    import xarray as xr


def route_summary(tree: xr.DataTree) -> xr.Dataset:
    """Mode, its probability and entropy of p(a|x,y), by site and of whole routes.

    Label codes have no mean: this is what takes the place of ArviZ's summary. Sites are
    summed up from `route_probs`, which knows them exactly where the run does. Whole
    routes are counted over all draws of all chains: their entropy is biased low and at
    most log of the number of draws, and of several modes the one drawn first is given.

    Args:
        tree: A run; with several chains, of matched labels
            (:func:`latentroute.analysis.join_chains`).

    Returns:
        A Dataset; ``.to_dataframe()`` makes a table of it.

        - `mode` (obs, site): the most probable module; ties go to the one used most;
        - `mode_prob` (obs, site): its probability;
        - `entropy` (obs, site): H[p(a_l|x,y)] in nats;
        - `path_mode` (obs, site): the whole route drawn most often;
        - `path_prob` (obs): its share of the draws;
        - `path_entropy` (obs): of the whole routes drawn, in nats;
        - `n_draws` (): over which whole routes were counted.

    Raises:
        ValueError: The tree is no run.
    """
    import xarray as xr

    routing = dataset(tree, "routing")
    probs = routing["route_probs"].transpose("obs", "site", "module").values
    probs = probs.astype(np.float64)
    whole = drawn_modes(tree)
    per_site, per_example = ("obs", "site"), ("obs",)
    result = xr.Dataset(coords={dim: routing[dim] for dim in per_site})
    return result.assign(
        mode=(per_site, most_probable(probs).astype(whole.path.dtype)),
        mode_prob=(per_site, probs.max(-1)),
        entropy=(per_site, entropy(probs)),
        path_mode=(per_site, whole.path),
        path_prob=(per_example, whole.share),
        path_entropy=(per_example, whole.entropy),
        n_draws=whole.n_draws,
    )


class PathModes(NamedTuple):
    """The whole route of each example that was drawn most often."""

    path: Int[np.ndarray, "examples sites"]
    """Of several drawn as often, the one drawn first, whatever modules are called."""
    share: Float[np.ndarray, " examples"]
    """Its share of the draws."""
    entropy: Float[np.ndarray, " examples"]
    """Of the frequencies of whole routes, in nats."""
    n_draws: int


def drawn_modes(tree: xr.DataTree) -> PathModes:
    """The modes of whole routes over all draws of all chains of a run."""
    route = dataset(tree, "posterior")["route"]
    drawn = route.transpose("obs", "chain", "draw", "site").values
    return path_modes(drawn.reshape(len(drawn), -1, drawn.shape[-1]))


def chain_modes(tree: xr.DataTree) -> list[PathModes]:
    """The same of each chain by itself."""
    route = dataset(tree, "posterior")["route"]
    by_chain = route.transpose("chain", "obs", "draw", "site").values
    return [path_modes(routes) for routes in by_chain]


def path_modes(routes: NDArray[Any]) -> PathModes:
    """The same from (N, S, L) draws of whole routes."""
    n, draws, sites = routes.shape
    modes = np.empty((n, sites), dtype=routes.dtype)
    share, spread = np.empty((2, n))
    for i, drawn in enumerate(routes):
        _, first, counts = np.unique(
            drawn, axis=0, return_index=True, return_counts=True
        )
        modes[i] = drawn[first[counts == counts.max()].min()]
        share[i] = counts.max() / draws
        spread[i] = entropy(np.sort(counts) / draws)
    return PathModes(modes, share, spread, draws)
