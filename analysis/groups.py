"""Named groups of labelled arrays, and the DataTree made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Group:
    """One group of a tree before it is labelled.

    Args:
        variables: Name -> (dims after the sample dims, values with the sample axes).
        sample_dims: Dims that lead every variable; ArviZ's own by default.
    """

    variables: Mapping[str, tuple[list[str], NDArray[Any]]]
    sample_dims: list[str] = field(default_factory=lambda: ["chain", "draw"])


def build_tree(
    groups: Mapping[str, Group],
    coords: Mapping[str, Any],
    *,
    attrs: Mapping[str, Any],
) -> xr.DataTree:
    """The groups as one DataTree in ArviZ's conventions.

    Args:
        groups: Name of the group -> its arrays.
        coords: Dimension -> labels, for all groups; others count from 0.
        attrs: Attributes of every group, beside those that ArviZ sets.
    """
    from arviz_base import from_dict

    # group by group: one name (y) has other dims in another group
    trees = {
        name: from_dict(
            {name: {var: values for var, (_, values) in group.variables.items()}},
            dims={var: dims for var, (dims, _) in group.variables.items()},
            sample_dims=group.sample_dims,
            coords=dict(coords),
            attrs={name: dict(attrs)},
        )
        for name, group in groups.items()
    }
    import xarray as xr

    return xr.DataTree.from_dict(
        {name: tree[name].to_dataset() for name, tree in trees.items()}
    )


def with_variables(
    tree: xr.DataTree,
    groups: Mapping[str, Mapping[str, tuple[list[str], NDArray[Any]]]],
) -> xr.DataTree:
    """A tree with more variables by chain and draw in groups that it has.

    Args:
        tree: The tree, which is changed.
        groups: Group -> name -> (dims after chain and draw, values); a variable that
            is there already is replaced.
    """
    for group, variables in groups.items():
        values = dataset(tree, group)
        for name, (dims, array) in variables.items():
            values[name] = (["chain", "draw", *dims], array)
        for dim in sorted(set(values.dims) - set(values.coords), key=str):
            values = values.assign_coords({dim: np.arange(values.sizes[dim])})
        tree[group].dataset = values
    return tree


def dataset(tree: xr.DataTree, group: str) -> xr.Dataset:
    """One group of a run as a Dataset.

    Raises:
        ValueError: The tree has no such group.
    """
    if group not in tree.children:
        raise ValueError(
            f"tree: got groups {list(tree.children)}, expected {group!r} among them "
            "(a run has it: tree['method/seed_0'] of a comparison, or to_datatree's)"
        )
    return tree.children[group].to_dataset()
