"""Runs as chains of one tree, with the modules' labels matched across them."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from .groups import dataset
from .matching import layers_of, match_layers, one_hot
from .relabel import CHAIN_PREFIX, by_chain, frequencies, relabelled, routes

if TYPE_CHECKING:
    import xarray as xr


def join_chains(
    trees: Sequence[xr.DataTree],
    *,
    reference: NDArray[np.generic] | None = None,
    layers: Sequence[Sequence[str]] | None = None,
) -> xr.DataTree:
    """Runs of one method from other seeds, as the chains of one tree.

    Labels are matched by :func:`match_chains`. What has a chain dimension (`route`,
    `log_likelihood`, `training`, …) is put end to end; predictions without one, such as
    `predictive_probs`, become the mean over runs; data must be the same in all.
    Weights keep their own run's order of modules.

    Args:
        trees: Runs on the same data with as many draws each; a run may have several
            chains.
        reference: As in :func:`match_chains`.
        layers: As in :func:`match_chains`.

    Returns:
        A run with one chain for each chain of the runs. Its attributes are those that
        all runs agree on, with `seeds` (JSON) and the sum of `wall_time` where they
        are known.

    Raises:
        TypeError: These are not runs, but a comparison of them, say.
        ValueError: No run, or runs of other methods, data, sites, groups or numbers of
            draws.
    """
    import xarray as xr

    if isinstance(trees, xr.DataTree):
        raise TypeError(
            "trees: got a DataTree, expected a list of runs of one method: "
            "[run.tree for run in runs(tree) if run.method == 'exact'], say"
        )
    trees = list(trees)
    if not trees:
        raise ValueError("join_chains needs at least one run, got none")
    for i, tree in enumerate(trees):
        _check_same(trees[0], tree, i)
    parts = [by_chain(tree) for tree in trees]
    joined: xr.DataTree = xr.DataTree.from_dict(
        {name: _joined(name, [groups[name] for groups in parts]) for name in parts[0]}
    )
    joined.attrs = _joined_attrs(trees)
    return match_chains(joined, reference=reference, layers=layers)


def match_chains(
    tree: xr.DataTree,
    *,
    reference: NDArray[np.generic] | None = None,
    layers: Sequence[Sequence[str]] | None = None,
) -> xr.DataTree:
    """Give the modules of every chain the labels of the first chain, layer by layer.

    The assignment of largest co-use on p(a|x,y), layer by layer
    (:func:`latentroute.analysis.matching.match_modules`). Every variable with the
    dimensions `site` and `module` is permuted alike, and `route` relabelled. Three
    symmetries are left as they are: of the weights inside a module, of the order of
    slots, and of the layers of a purely additive network. Labels that switch *within*
    a chain are :func:`match_draws`'s.

    Args:
        tree: A run with one or more chains.
        reference: (N, L, R) probabilities of modules to match to in place of the first
            chain's, R <= M: the true routes as ``one_hot(routes, R)``, another run's
            ``route_probs``.
        layers: Names of the sites that share modules, such as the steps of a recurrent
            program; others are layers by themselves. By default the K slots
            ``route_{l}_{k}`` of a layer.

    Returns:
        A new tree. Its `routing` holds `permutation` (chain, site, module), the label
        here of the module that the chain itself called `module`, and
        `chain_route_probs` and `chain_router_probs`, whose means over chains
        `route_probs` and `router_probs` are. Of several chains that the tree has only
        the mean of, `chain_route_probs` are the frequencies of their draws, and the
        router's are left out where a label changed: a mean cannot be relabelled.

    Raises:
        ValueError: The reference or a layer does not fit the tree.
    """
    groups = by_chain(tree)
    routing = groups["routing"]
    found = routing["chain_route_probs"].transpose("chain", "obs", "site", "module")
    probs = found.values
    target = probs[0] if reference is None else np.asarray(reference)
    _check_reference(target, probs)
    shared = _layers(routing, layers)
    n_choices = routing["n_choices"].values.tolist()
    labels = np.stack([match_layers(target, p, n_choices, shared) for p in probs])
    return relabelled(tree, groups, labels, ["chain"])


def match_draws(tree: xr.DataTree) -> xr.DataTree:
    """Match the labels of every draw of routes to those of the most probable draw.

    For chains in which modules trade places between draws (Marin et al. 2005's pivot,
    with the draw of the largest `lp` in its place). One assignment a draw and layer;
    its co-use is that of single routes, so it needs more than a few examples.

    Args:
        tree: A run with draws of the weights.

    Returns:
        A new tree whose `permutation` is (chain, draw, site, module), and whose
        `route_probs` and `chain_route_probs` are the frequencies of the relabelled
        draws. The router's probabilities are means over draws, which cannot be taken
        apart again: they are left out.

    References:
        Marin, Mengersen, Robert 2005, Bayesian Modelling and Inference on Mixtures of
        Distributions, section 3.3.
    """
    groups = by_chain(tree)
    routing = groups["routing"]
    route = routes(groups["posterior"])  # (chain, draw, obs, site)
    n_choices = routing["n_choices"].values.tolist()
    n_modules = routing.sizes["module"]
    best = dataset(tree, "sample_stats")["lp"].transpose("chain", "draw").values
    pivot = one_hot(route[np.unravel_index(best.argmax(), best.shape)], n_modules)
    layers = layers_of(_sites(routing))
    labels = np.stack(
        [
            [
                match_layers(pivot, one_hot(draw, n_modules), n_choices, layers)
                for draw in chain
            ]
            for chain in route
        ]
    )
    dropped = [str(n) for n, v in routing.items() if {"obs", "module"} <= set(v.dims)]
    groups["routing"] = routing.drop_vars(dropped)
    matched = relabelled(tree, groups, labels, ["chain", "draw"])
    probs = frequencies(routes(matched["posterior"].to_dataset()), n_modules)
    dims = ["chain", "obs", "site", "module"]
    out = matched["routing"].to_dataset().assign(chain_route_probs=(dims, probs))
    matched["routing"] = out.assign(route_probs=out["chain_route_probs"].mean("chain"))
    return matched


def _joined(name: str, groups: list[xr.Dataset]) -> xr.Dataset:
    """One group of all runs: end to end along the chain, else the mean or the same."""
    import xarray as xr

    first = groups[0]
    variables: dict[Hashable, xr.DataArray] = {}
    for key, values in first.items():
        every = [group[key] for group in groups]
        if "chain" in values.dims:
            # trainings may be of other lengths, draws may not
            join: Any = "outer" if name == "training" else "exact"
            variables[key] = xr.concat(
                [v.drop_vars("chain", errors="ignore") for v in every],
                "chain",
                join=join,
                coords="minimal",
                compat="override",
            )
        elif name.startswith("predictive_"):
            variables[key] = xr.concat(every, "run").mean("run").astype(values.dtype)
        elif f"{CHAIN_PREFIX}{key}" not in first:  # whose mean is taken after matching
            variables[key] = values
    joined = xr.Dataset(variables, attrs=first.attrs)
    n_chains = joined.sizes.get("chain")
    return joined if n_chains is None else joined.assign_coords(chain=range(n_chains))


def _joined_attrs(trees: list[xr.DataTree]) -> dict[str, Any]:
    """What all runs say alike, all seeds, and the time that all took."""
    first = trees[0].attrs
    same = {
        str(k): v for k, v in first.items() if all(t.attrs.get(k) == v for t in trees)
    }
    for name in ("seed", "wall_time"):
        same.pop(name, None)
    seeds = [tree.attrs["seed"] for tree in trees if "seed" in tree.attrs]
    times = [
        float(tree.attrs["wall_time"]) for tree in trees if "wall_time" in tree.attrs
    ]
    if "exact" in first:
        same["exact"] = min(int(tree.attrs["exact"]) for tree in trees)
    if seeds:
        same["seeds"] = json.dumps(seeds)
    if len(times) == len(trees):
        same["wall_time"] = sum(times)
    return same


def _check_same(first: xr.DataTree, tree: xr.DataTree, i: int) -> None:
    """Refuse runs that are not chains of one thing."""
    methods = [t.attrs["method"] for t in (first, tree) if "method" in t.attrs]
    if len(set(methods)) > 1:
        raise ValueError(
            f"run {i}: got the method {methods[1]!r}, expected that of the first run, "
            f"{methods[0]!r} (compare methods with summary or compare_elpd)"
        )
    expected, got = set(first.children), set(tree.children)
    if expected != got:
        raise ValueError(
            f"run {i}: got groups {sorted(got)}, expected those of the first run, "
            f"{sorted(expected)} (a run that failed has none: leave it out)"
        )
    for group in ("routing", "observed_data", "constant_data"):
        if group not in first.children:
            continue
        ours, theirs = dataset(first, group), dataset(tree, group)
        names = [n for n in ours if group != "routing" or n == "n_choices"]
        if any(n not in theirs or not ours[n].identical(theirs[n]) for n in names):
            raise ValueError(
                f"run {i}: got another {group!r} than the first run, expected the same "
                "examples and sites in all chains"
            )
    for name in ("posterior", "log_likelihood"):
        draws = [dataset(t, name).sizes["draw"] for t in (first, tree)]
        if draws[0] != draws[1]:
            raise ValueError(
                f"run {i}: got {draws[1]} draws, expected {draws[0]} as in the first "
                "run (evaluate all with the same draws=)"
            )


def _check_reference(
    target: NDArray[np.generic], probs: Float[np.ndarray, "chains obs sites modules"]
) -> None:
    n, sites, modules = probs.shape[1:]
    if target.ndim != 3 or target.shape[:2] != (n, sites) or target.shape[2] > modules:
        raise ValueError(
            f"reference: got shape {target.shape}, expected probabilities ({n}, "
            f"{sites}, R) with R at most {modules}"
        )


def _layers(
    routing: xr.Dataset, layers: Sequence[Sequence[str]] | None
) -> list[list[int]]:
    """Positions of the sites that share modules."""
    names, choices = _sites(routing), routing["n_choices"].values
    if layers is None:
        found = layers_of(names)
    else:
        listed = [site for layer in layers for site in layer]
        if len(set(listed)) < len(listed) or not set(listed) <= set(names):
            raise ValueError(
                f"layers: got {[list(layer) for layer in layers]}, expected each site "
                f"at most once, of {names}"
            )
        rest = [[i] for i, name in enumerate(names) if name not in listed]
        found = [[names.index(site) for site in layer] for layer in layers if layer]
        found += rest
    for layer in found:
        if len({int(choices[i]) for i in layer}) > 1:
            raise ValueError(
                f"layers: got {[names[i] for i in layer]} with "
                f"{[int(choices[i]) for i in layer]} choices, expected as many in all"
            )
    return found


def _sites(routing: xr.Dataset) -> list[str]:
    return [str(site) for site in routing["site"].values]
