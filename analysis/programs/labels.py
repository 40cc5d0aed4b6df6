"""Dims and coords of a program's sites, from their plates, loops and names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..groups import Group
from .layout import Layout, SiteLayout
from .names import split_number

Variables = dict[str, tuple[list[str], NDArray[Any]]]


class Family(NamedTuple):
    """Sites of a loop that become one variable: `x_0`, `x_1`, … as `x`.

    Attributes:
        name: Of the variable.
        dim: Of the loop.
        members: The sites in the order of their numbers.
        numbers: Their numbers: the coordinate.
    """

    name: str
    dim: str
    members: tuple[str, ...]
    numbers: tuple[int, ...]


class Labels:
    """Names the axes of sites' values.

    Args:
        layout: The program's statements.
        dims: Variable -> names of its axes after chain and draw, in place of ours.

    Raises:
        ValueError: `dims` names no variable, or another number of axes than it has.
    """

    def __init__(
        self, layout: Layout, dims: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self._sites = layout.sites
        self.families = find_families(layout)
        self._of = {m: family for family in self.families for m in family.members}
        self._dims = {name: list(given) for name, given in (dims or {}).items()}
        self._used: set[str] = set()

    @property
    def coords(self) -> dict[str, NDArray[np.int64]]:
        """Coordinates of the loops."""
        return {f.dim: np.array(f.numbers, dtype=np.int64) for f in self.families}

    def site(
        self, name: str, values: NDArray[Any], n_lead: int
    ) -> tuple[list[str], NDArray[Any]]:
        """Dims after the leading ones, and values without Pyro's axes of size one.

        Args:
            name: The site.
            values: (*lead, *shape of the site).
            n_lead: How many axes lead: 2 for chain and draw.
        """
        site = self._sites[name]
        stem = self._of[name].name if name in self._of else name
        n_axes = values.ndim - n_lead
        plates = {p.dim - site.event_dim: p for p in site.plates}
        # a deterministic value says nothing of its event: what lies right of a plate
        n_event = site.event_dim if site.kind != "deterministic" else 0
        leftmost = min(plates, default=0) if site.kind == "deterministic" else -n_axes
        dims: list[str] = []
        squeezed = []
        for axis in range(-n_axes, 0):
            plate = plates.get(axis)
            size = values.shape[axis]
            if plate is not None and size == plate.size:
                dims.append(plate.name)
            elif leftmost <= axis < -n_event and size == 1:
                squeezed.append(axis)
            else:
                n_own = sum(dim.startswith(f"{stem}_dim_") for dim in dims)
                dims.append(f"{stem}_dim_{n_own}")
        return dims, values.squeeze(tuple(squeezed))

    def group(self, sites: Mapping[str, NDArray[Any]], n_lead: int) -> Variables:
        """The variables of a group, sites of one loop stacked along it.

        Args:
            sites: Site -> values (*lead, *shape).
            n_lead: How many axes lead.
        """
        named = {n: self.site(n, values, n_lead) for n, values in sites.items()}
        return self.stack(named, n_lead)

    def stack(self, named: Variables, n_lead: int) -> Variables:
        """Sites of a loop as one variable; names and dims as asked."""
        result: Variables = {}
        for name, (dims, values) in named.items():
            family = self._of.get(name)
            if family is None or not set(family.members) <= set(named):
                result[name] = (dims, values)
            elif family.name not in result:
                each = [named[member][1] for member in family.members]
                stacked = np.stack(each, axis=n_lead)
                result[family.name] = ([family.dim, *dims], stacked)
        return {
            name.replace("/", "."): (self._renamed(name, dims), values)
            for name, (dims, values) in result.items()
        }

    def check_used(self) -> None:
        """Refuse names of axes for variables that there are not.

        Raises:
            ValueError: Names them.
        """
        unknown = sorted(set(self._dims) - self._used)
        if unknown:
            raise ValueError(
                f"dims: got {unknown[0]!r}, which is no variable of the tree"
            )

    def _renamed(self, name: str, dims: list[str]) -> list[str]:
        if name not in self._dims:
            return dims
        self._used.add(name)
        if len(self._dims[name]) != len(dims):
            raise ValueError(
                f"dims of {name!r}: got {self._dims[name]}, expected as many as {dims}"
            )
        return self._dims[name]


def check_coords(groups: Mapping[str, Group], coords: Mapping[str, Any]) -> None:
    """Refuse labels of dims that there are not, or of another size.

    Raises:
        ValueError: Names the dim.
    """
    sizes = {
        dim: size
        for group in groups.values()
        for dims, values in group.variables.values()
        for dim, size in zip(dims, values.shape[-len(dims) :], strict=False)
    }
    for dim, labels in coords.items():
        if sizes.get(dim) != len(labels):
            raise ValueError(
                f"coords of {dim!r}: got {len(labels)} labels, expected one each of "
                f"{sizes} (dims and their sizes)"
            )


def find_families(layout: Layout) -> list[Family]:
    """The sites that are one variable at the steps of a Python loop that Pyro knows.

    Numbered alike, of one kind, shape and plates, at least one of them in a
    `pyro.markov` or `for … in pyro.plate` loop. The dim is the plate's name, or `step`.
    """
    stems: dict[str, list[tuple[int, SiteLayout]]] = {}
    for site in layout.sites.values():
        parts = split_number(site.name)
        if parts is not None:
            stems.setdefault(parts[0], []).append((parts[1], site))
    families: list[Family] = []
    taken: dict[str, tuple[int, ...]] = {name: () for name in layout.plates}
    for stem, numbered in stems.items():
        sites = [site for _, site in numbered]
        loops = [site.loop for site in sites if site.loop is not None]
        if len(sites) < 2 or not loops or not _alike(sites) or stem in layout.sites:
            continue
        numbered.sort(key=lambda pair: pair[0])
        numbers = tuple(number for number, _ in numbered)
        dim = loops[0] or "step"
        if taken.setdefault(dim, numbers) != numbers or dim in layout.sites:
            dim = f"{stem}_{loops[0] or 'step'}"
        members = tuple(site.name for _, site in numbered)
        families.append(Family(stem, dim, members, numbers))
    return families


def _alike(sites: Sequence[SiteLayout]) -> bool:
    return (
        len({(s.kind, s.value.shape, s.event_dim, s.plates) for s in sites}) == 1
        and len({s.support is None for s in sites}) == 1
    )
