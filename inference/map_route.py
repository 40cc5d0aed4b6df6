"""The most probable route of each example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..models.checks import check_count
from ..models.routing import Site
from .posterior import check_latent
from .program import RoutedProgram, all_routes
from .structure import Structure
from .terms import Terms
from .weighted import by_route, joint_parts, listed_parts, log_joint_of

_BEAM = 256


class MapRoute(NamedTuple):
    """The most probable routes found.

    Where a site is static the examples have one posterior together: N = 1 in all but
    ``routes``.

    Attributes:
        routes: (N, L) int64 choices in program order.
        log_joint: (N,) log p(y, a | x) of them.
        gap: (N,) the most by which another route's log p(y, a | x) can exceed it: 0
            where the route is known to be the best, inf where nothing can be said.
        uncovered: (N,) the router's probability of all routes that were never scored.
        names: Names of the sites.
    """

    routes: Int[Tensor, "examples sites"]
    log_joint: Float[Tensor, " #examples"]
    gap: Float[Tensor, " #examples"]
    uncovered: Float[Tensor, " #examples"]
    names: tuple[str, ...]


@torch.no_grad()
def map_route(
    model: Callable[..., Any], *args: Any, beam: int | None = None
) -> MapRoute:
    """The route of highest posterior probability, argmax_a p(a | x, y).

    Exact by enumeration, where all routes of an example fit into memory and are at most
    65,536; many examples are taken some at a time. Otherwise a beam search: of the
    routers' choices so far the ``beam`` most probable are kept at each decision, and at
    the end all kept routes are scored by the joint. It sees y only then: a route that
    the router thinks little of is not found.

    A route that was left out has a prior probability of at most that of the best
    choices dropped. Where the targets are discrete its likelihood is at most 1, which
    bounds its joint, and so the ``gap``. A density has no bound: then the gap is inf
    unless nothing was dropped, and ``uncovered`` is all that can be said.

    Cost: that of enumeration; a beam of B takes B peeks a decision and B evaluations.

    Args:
        model: Any Pyro program with route sites; for a beam search, all dynamic or all
            static.
        *args: What it takes: ``x, y`` for most.
        beam: Width of the beam; ``None``: enumerate where it can be done, else 256.

    Returns:
        The routes and what is known of them.

    Raises:
        ValueError: If the program cannot be routed, or has static and dynamic sites and
            is too large to enumerate.

    Example:
        >>> from latentroute.models import LayeredNetwork
        >>> net = LayeredNetwork(2, 3, n_layers=2, n_modules=4, hidden_features=4)
        >>> x, y = torch.zeros(5, 2), torch.zeros(5, dtype=torch.long)
        >>> map_route(net, x, y).gap
        tensor([0., 0., 0., 0., 0.])
    """
    program = RoutedProgram(model)
    structure = program.structure(*args)
    check_latent(structure)
    parts = listed_parts(program, args) if beam is None else []
    if parts:
        found = [_enumerated(program, part, structure) for part in parts]
        return MapRoute(
            torch.cat([part.routes for part in found]),
            torch.cat([part.log_joint for part in found]),
            torch.cat([part.gap for part in found]),
            torch.cat([part.uncovered for part in found]),
            structure.names,
        )
    if beam is not None:
        check_count("beam", beam)
    if len(structure.static_sites) not in (0, len(structure.sites)):
        raise ValueError(
            "a beam search takes a program whose routing sites are all dynamic or all "
            f"static; static here: {[s.name for s in structure.static_sites]}"
        )
    return _searched(program, args, structure, _BEAM if beam is None else beam)


def _enumerated(
    program: RoutedProgram, args: tuple[Any, ...], structure: Structure
) -> MapRoute:
    """The best dynamic choices given each static one, then the best static one."""
    dynamic, static = joint_parts(program.enumerate(*args), structure)
    sizes = tuple(reversed(structure.n_choices))
    score = by_route(dynamic, structure)  # (P, N)
    routes = all_routes(structure.sites).to(score.device)
    if structure.coupled:
        outside = by_route(static.expand(*sizes, 1), structure)
        columns = [i for i, site in enumerate(structure.sites) if site.static]
        _, group = routes[:, columns].unique(dim=0, return_inverse=True)
        totals = torch.stack(
            [
                score[group == g].amax(0).sum() + outside[group == g][0, 0]
                for g in range(int(group.max()) + 1)
            ]
        )
        log_joint, best = totals.max(0, keepdim=True)
        picked = score.where((group == best).unsqueeze(-1), -torch.inf).argmax(0)
    else:
        log_joint, picked = score.max(0)
    zero = torch.zeros_like(log_joint)
    return MapRoute(routes[picked], log_joint, zero, zero, structure.names)


def _searched(
    program: RoutedProgram, args: tuple[Any, ...], structure: Structure, beam: int
) -> MapRoute:
    routes, log_prior, dropped = _most_probable(program, args, structure, beam)
    terms = program.given(*args, routes=routes)
    joint = log_joint_of(terms, structure)
    if structure.static_sites:  # one route for all
        log_prior, dropped = log_prior[:, :1], dropped[:1]
    log_joint, best = joint.max(0)
    best = best.expand(structure.n_examples)
    index = best.reshape(1, -1, 1).expand(1, -1, routes.shape[-1])
    uncovered = (1 - log_prior.exp().sum(0)).clamp(0, 1)
    uncovered = uncovered.where(dropped > -torch.inf, 0.0)
    bound = dropped if _is_discrete(terms) else torch.full_like(dropped, torch.inf)
    bound = bound.where(dropped > -torch.inf, -torch.inf)
    return MapRoute(
        routes=routes.gather(0, index)[0],
        log_joint=log_joint,
        gap=(bound - log_joint).clamp_min(0),
        uncovered=uncovered,
        names=structure.names,
    )


def _most_probable(
    program: RoutedProgram, args: tuple[Any, ...], structure: Structure, beam: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Routes (B, N, L), their log p(a | x) (B, N), and the best dropped's (N,)."""
    n = structure.n_examples
    routes = torch.zeros(1, n, 0, dtype=torch.long)
    log_prior = torch.zeros(1, n)
    dropped = torch.full((n,), -torch.inf)
    for site in structure.sites:
        step = program.peek(*args, routes=routes)  # (B, N, M)
        routes, m = routes.to(step.device), site.n_choices
        total = log_prior.to(step).unsqueeze(-1) + step
        total = total.transpose(1, 2).flatten(0, 1)  # (B M, N)
        ordered, order = total.sort(dim=0, descending=True, stable=True)
        dropped = dropped.to(step)
        if len(ordered) > beam:
            dropped = torch.maximum(dropped, ordered[beam])
        log_prior, order = ordered[:beam], order[:beam].unsqueeze(-1)
        before = routes.gather(0, (order // m).expand(-1, -1, routes.shape[-1]))
        routes = torch.cat([before, order % m], -1)
    return routes, log_prior, dropped


def _is_discrete(terms: Terms) -> bool:
    """Whether all that is observed has probabilities, at most 1, not densities."""
    return all(_has_mass(site) for site in terms.sites.values() if site.observed)


def _has_mass(site: Site) -> bool:
    try:
        support = site.fn.support
    except NotImplementedError:
        return False
    return bool(getattr(support, "is_discrete", False))
