"""Whole routes as one number, for tables and figures of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from .groups import dataset

if TYPE_CHECKING:
    import xarray as xr

MOST_PATHS = int(np.iinfo(np.int64).max)


def encode_paths(
    routes: Int[NDArray[np.integer], "*batch sites"], n_choices: Sequence[int]
) -> Int[NDArray[np.int64], "*batch"]:
    r"""The number of each whole route, the last site's choice changing fastest.

    .. math:: (a_0, .., a_{L-1}) \mapsto \sum_l a_l \prod_{k > l} M_k

    Args:
        routes: (*batch, L) choices.
        n_choices: M_l of each site.

    Raises:
        ValueError: There are more routes than int64 counts, or other sites than these.

    Example:
        >>> encode_paths(np.array([[0, 0], [0, 2], [1, 0]]), (2, 3))
        array([0, 2, 3])
    """
    strides = _strides(n_choices)
    routes = np.asarray(routes)
    if routes.shape[-1] != len(strides):
        raise ValueError(
            f"routes: got {routes.shape[-1]} sites, expected {len(strides)}, as many "
            "as n_choices"
        )
    return np.asarray((routes.astype(np.int64) * strides).sum(-1))


def decode_paths(
    paths: Int[NDArray[np.integer], "*batch"], n_choices: Sequence[int]
) -> Int[NDArray[np.int64], "*batch sites"]:
    """The choices of whole routes from their numbers: undoes :func:`encode_paths`.

    Args:
        paths: (*batch) numbers.
        n_choices: M_l of each site.

    Raises:
        ValueError: There are more routes than int64 counts.

    Example:
        >>> decode_paths(np.array([0, 2, 3]), (2, 3)).tolist()
        [[0, 0], [0, 2], [1, 0]]
    """
    strides = _strides(n_choices)
    digits = np.asarray(paths, dtype=np.int64)[..., None] // strides
    return np.asarray(digits % np.array(n_choices, dtype=np.int64))


def paths(tree: xr.DataTree) -> xr.DataArray:
    """The whole route of each draw and example as one number.

    Made of `posterior.route` when asked for, and not stored: so it agrees with the
    labels of the modules, however they were matched.

    Args:
        tree: A run.

    Returns:
        `path` (chain, draw, obs) int64; its attribute `n_choices` decodes it.

    Raises:
        ValueError: The tree is no run, or has more routes than int64 counts.
    """
    n_choices = dataset(tree, "routing")["n_choices"].values.tolist()
    route = dataset(tree, "posterior")["route"].transpose(..., "site")
    path = route.isel(site=0, drop=True).astype(np.int64)
    path = path.copy(data=encode_paths(route.values, n_choices))
    path.attrs["n_choices"] = n_choices
    return path.rename("path")


def top_paths(tree: xr.DataTree, n: int = 10) -> xr.Dataset:
    """The whole routes that most examples take, and what each example gives them.

    Counted over all draws of all chains: a share of S draws has a standard error of at
    most 1 / (2 sqrt S).

    Args:
        tree: A run; with several chains, of matched labels.
        n: How many routes at most, the most used first.

    Returns:
        A Dataset along `path`, whose coordinate reads "0-2-1":

        - `route` (path, site): its choices;
        - `use` (path): its share of all draws of all examples;
        - `prob` (obs, path): its share of an example's draws. What is missing to one
          is on other routes.

    Raises:
        ValueError: The tree is no run, or has more routes than int64 counts.
    """
    found = paths(tree)
    flat = found.transpose("obs", "chain", "draw").values
    flat = flat.reshape(len(flat), -1)
    numbers, counts = np.unique(flat, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:n]
    numbers, counts = numbers[order], counts[order]
    route = decode_paths(numbers, found.attrs["n_choices"])
    prob = np.stack([(flat == number).mean(1) for number in numbers], -1)
    labels = np.array(["-".join(map(str, row)) for row in route.tolist()])
    sites = dataset(tree, "posterior")["site"]
    result: xr.Dataset = found.coords.to_dataset()[["obs"]]
    return result.assign(
        route=(("path", "site"), route),
        use=(("path",), counts / flat.size),
        prob=(("obs", "path"), prob),
    ).assign_coords(path=labels, site=sites.values)


def _strides(n_choices: Sequence[int]) -> NDArray[np.int64]:
    """What one step of each site's choice adds to the number of a route."""
    if math.prod(n_choices) > MOST_PATHS:
        raise ValueError(
            f"n_choices: got {list(n_choices)}, whose whole routes are more than int64 "
            "counts; look at sites one by one"
        )
    sizes = [*n_choices[1:], 1]
    return np.array([math.prod(sizes[i:]) for i in range(len(sizes))], dtype=np.int64)
