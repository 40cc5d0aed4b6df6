"""What can be summed out exactly: a budget of evaluations, a limit of memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Literal

import torch

from ..models.checks import check_count
from .structure import RouteSite, Structure, read_structure

Treatment = Literal["enumerate", "sample"]
MOST_ROUTES = 2**22  # that are summed one by one, for want of time


class EnumerationPlan(Mapping[str, Treatment]):
    """Which routing sites to enumerate and which to sample.

    A mapping from a site's name to ``"enumerate"`` or ``"sample"``, in program order.

    Attributes:
        evaluations: Evaluations an example that the plan takes: the statements that
            follow site l run once for each choice at the enumerated sites up to l,
            and the sum of that over l is counted.
    """

    def __init__(
        self, sites: Sequence[RouteSite], treatment: Sequence[Treatment]
    ) -> None:
        self._treatment: dict[str, Treatment] = {
            site.name: t for site, t in zip(sites, treatment, strict=True)
        }
        self.evaluations = _evaluations(sites, treatment)

    def __getitem__(self, name: str) -> Treatment:
        return self._treatment[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._treatment)

    def __len__(self) -> int:
        return len(self._treatment)

    def __repr__(self) -> str:
        return f"EnumerationPlan({self._treatment}, evaluations={self.evaluations})"


def plan_enumeration(
    model: Callable[..., Any], *args: Any, budget: int
) -> EnumerationPlan:
    """Choose which sites to enumerate so that evaluations stay within a budget.

    Sites are taken in program order, each enumerated where the rest can still be
    sampled within the budget: enumerating an early site takes most variance, since
    later sites are then drawn once for each of its choices. ``plan="enumerate"`` or
    ``plan="sample"`` at a site (:func:`latentroute.models.route`) is kept.

    Args:
        model: Any Pyro program with route sites.
        *args: What it takes, ``y`` included.
        budget: Evaluations an example, at most.

    Returns:
        The plan.

    Raises:
        ValueError: If even the cheapest plan takes more than the budget.

    Example:
        >>> import torch
        >>> from latentroute.models import LayeredNetwork
        >>> net = LayeredNetwork(2, 2, n_layers=3, n_modules=4, hidden_features=4)
        >>> x, y = torch.zeros(5, 2), torch.zeros(5, dtype=torch.long)
        >>> plan_enumeration(net, x, y, budget=12)
        EnumerationPlan({'route_0': 'enumerate', 'route_1': 'sample', \
'route_2': 'sample'}, evaluations=12)
    """
    return plan_sites(read_structure(model, *args).sites, budget)


def plan_sites(sites: Sequence[RouteSite], budget: int) -> EnumerationPlan:
    """The plan of :func:`plan_enumeration` for the sites of a program.

    Raises:
        ValueError: If even the cheapest plan takes more than the budget.
    """
    check_count("budget", budget)
    treatment = asked(sites)
    least = _evaluations(sites, treatment)
    if least > budget:
        raise ValueError(
            f"budget must be at least {least} evaluations an example for the sites "
            f"{[site.name for site in sites]}, got {budget}"
        )
    for i, site in enumerate(sites):
        if site.plan != "auto":
            continue
        treatment[i] = "enumerate"
        if _evaluations(sites, treatment) > budget:
            treatment[i] = "sample"
    return EnumerationPlan(sites, treatment)


def asked(sites: Sequence[RouteSite]) -> list[Treatment]:
    """Only the sites enumerated at which the program asks for it."""
    return ["enumerate" if s.plan == "enumerate" else "sample" for s in sites]


def check_memory(
    structure: Structure, n_examples: int, memory_limit: int | None = None
) -> None:
    """Refuse an enumeration that would not fit, before any of it is made.

    Args:
        structure: The program's sites, and what one run makes.
        n_examples: Examples in the batch.
        memory_limit: Bytes; by default what the machine has free.

    Raises:
        ValueError: With the routes, the bytes, and the ways out.
    """
    needed = structure.enumeration_bytes(n_examples)
    limit = free_memory() if memory_limit is None else memory_limit
    if needed <= limit:
        return
    runs = [(m, len(list(same))) for m, same in groupby(structure.n_choices)]
    choices = " x ".join(f"{m}^{n}" if n > 1 else f"{m}" for m, n in runs)
    raise ValueError(
        f"enumerating {structure.n_routes:,} routes ({choices}) of {n_examples:,} "
        f"examples would take about {_amount(needed)}, and {_amount(limit)} may be "
        "used: take fewer examples at once, a method that samples (score-function, "
        "topk-buffer), fewer layers or modules, or raise memory_limit"
    )


class MemoryLimit:
    """Bytes that a step may take: as asked for, or what was free at the first step.

    Args:
        asked: Bytes; ``None``: what is free when it is first called.
    """

    def __init__(self, asked: int | None) -> None:
        self._limit = asked

    def __call__(self) -> int:
        """The limit in bytes."""
        if self._limit is None:
            self._limit = free_memory()
        return self._limit


def free_memory() -> int:
    """Bytes that can be had now, of the GPU where one is in use."""
    if torch.cuda.is_initialized():
        return int(torch.cuda.mem_get_info()[0])
    try:
        with open("/proc/meminfo") as lines:
            fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):
        return 4 * 2**30  # a machine that tells nothing


def _evaluations(sites: Sequence[RouteSite], treatment: Sequence[Treatment]) -> int:
    paths, total = 1, 0
    for site, how in zip(sites, treatment, strict=True):
        paths *= site.n_choices if how == "enumerate" else 1
        total += paths
    return total


def _amount(n_bytes: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n_bytes >= size:
            return f"{n_bytes / size:,.1f} {unit}"
    return f"{n_bytes} bytes"
