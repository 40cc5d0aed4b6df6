"""Labels of modules in a run tree: which there are, and the tree under others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from .groups import dataset

if TYPE_CHECKING:
    import xarray as xr

CHAIN_PREFIX = "chain_"  # of a variable of `routing` kept by chain, beside its mean
PERMUTATION = "permutation"


def by_chain(tree: xr.DataTree) -> dict[str, xr.Dataset]:
    """The groups of a run, `routing` with its probabilities by chain and its labels.

    Where there are several chains and `routing` has only their mean, each chain's
    `route_probs` are the frequencies of its draws.
    """
    import xarray as xr

    groups = {str(name): node.to_dataset() for name, node in tree.children.items()}
    routing, route = dataset(tree, "routing"), dataset(tree, "posterior")["route"]
    n_chains = route.sizes["chain"]
    for name in _means(routing):
        kept = f"{CHAIN_PREFIX}{name}"
        if n_chains == 1:
            routing[kept] = routing[name].expand_dims("chain")
        elif name == "route_probs":
            drawn = route.transpose("chain", "draw", "obs", "site").values
            probs = frequencies(drawn, routing.sizes["module"])
            routing[kept] = (["chain", "obs", "site", "module"], probs)
    if PERMUTATION not in routing:
        sizes = (n_chains, routing.sizes["site"], routing.sizes["module"])
        own = np.broadcast_to(np.arange(sizes[-1]), sizes).copy()
        routing[PERMUTATION] = xr.DataArray(own, dims=["chain", "site", "module"])
    return groups | {"routing": routing}


def relabelled(
    tree: xr.DataTree,
    groups: dict[str, xr.Dataset],
    labels: Int[np.ndarray, "*sample sites modules"],
    sample: list[str],
) -> xr.DataTree:
    """The groups under new labels, as a tree with the old one's attributes."""
    import xarray as xr

    dims = [*sample, "site", "module"]
    new = xr.DataArray(labels, dims=dims)
    inverse = xr.DataArray(labels.argsort(-1), dims=dims)
    for name, group in groups.items():
        own = {
            variable: _permuted(values, inverse)
            for variable, values in group.items()
            if set(dims) <= set(values.dims) and variable != PERMUTATION
        }
        groups[name] = group.assign(own)
    groups["posterior"] = groups["posterior"].assign(
        route=_recoded(groups["posterior"]["route"], new)
    )
    routing = groups["routing"]
    # what an earlier matching says of the runs' own labels goes through this one
    was = routing[PERMUTATION].rename(module="own")
    total = _recoded(was, new).rename(own="module")
    means = {
        str(name).removeprefix(CHAIN_PREFIX): values.mean("chain").astype(values.dtype)
        for name, values in routing.items()
        if str(name).startswith(CHAIN_PREFIX)
    }
    if (labels != np.arange(labels.shape[-1])).any():
        lost = [name for name in _means(routing) if name not in means]
        routing = routing.drop_vars(lost)
    groups["routing"] = routing.assign({**means, PERMUTATION: total})
    result: xr.DataTree = xr.DataTree.from_dict(groups)
    result.attrs = dict(tree.attrs)
    return result


def _means(routing: xr.Dataset) -> list[str]:
    """Probabilities of `routing` that are kept only as a mean over chains."""
    return [
        str(name)
        for name, values in routing.items()
        if {"obs", "module"} <= set(values.dims)
        and "chain" not in values.dims
        and f"{CHAIN_PREFIX}{name}" not in routing
    ]


def _permuted(values: xr.DataArray, inverse: xr.DataArray) -> xr.DataArray:
    """`values` with its modules in the order of their new labels."""
    missing = [dim for dim in values.dims if dim not in inverse.dims]
    index = inverse.expand_dims(missing).transpose(*values.dims)
    axis = values.get_axis_num("module")
    return values.copy(data=np.take_along_axis(values.values, index.values, axis=axis))


def _recoded(codes: xr.DataArray, labels: xr.DataArray) -> xr.DataArray:
    """Old labels of modules as new ones: `labels` (*lead, module) at each of them."""
    lead = labels.dims[:-1]
    inner = [dim for dim in codes.dims if dim not in lead]
    sizes = {dim: labels.sizes[dim] for dim in lead if dim not in codes.dims}
    old = codes.expand_dims(sizes).transpose(*lead, *inner)
    flat = old.values.reshape(*labels.shape[:-1], -1).astype(np.int64)
    new = np.take_along_axis(labels.values, flat, axis=-1).reshape(old.shape)
    return old.copy(data=new.astype(codes.dtype)).transpose(..., *codes.dims[1:])


def routes(posterior: xr.Dataset) -> NDArray[Any]:
    """(chain, draw, obs, site) labels."""
    route = posterior["route"].transpose("chain", "draw", "obs", "site")
    return np.asarray(route.values)


def frequencies(
    route: NDArray[Any], n_modules: int
) -> Float[np.ndarray, "chains obs sites modules"]:
    """How often each chain's draws chose each module."""
    # one module at a time: no (chain, draw, obs, site, module) array
    return np.stack([(route == m).mean(1) for m in range(n_modules)], axis=-1)
