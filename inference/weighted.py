"""Weighted routes of each example: every route, or routes drawn from a proposal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .parts import example_parts
from .plan import free_memory
from .program import RoutedProgram, all_routes
from .structure import Structure
from .terms import Terms

MOST_ROUTES = 2**16


class WeightedRoutes(NamedTuple):
    """Routes of each example with their log-weights under posterior and router.

    Attributes:
        routes: (R, N or 1, L).
        posterior: (R, N) log, normalised over R; static sites given all examples.
        router: (R, N) log, normalised over R.
        log_marginal: (N,) log p(y_n | x_n), each example on its own.
        terms: Of the run, enumerated or sampled.
    """

    routes: Int[Tensor, "routes #examples sites"]
    posterior: Float[Tensor, "routes examples"]
    router: Float[Tensor, "routes examples"]
    log_marginal: Float[Tensor, " examples"]
    terms: Terms


def enumerates(structure: Structure, n_examples: int) -> bool:
    """Whether all routes of that many examples are listed rather than sampled."""
    return (
        structure.n_routes <= MOST_ROUTES
        and structure.enumeration_bytes(n_examples) <= free_memory()
    )


def listed_parts(
    program: RoutedProgram, args: tuple[Any, ...]
) -> list[tuple[Any, ...]]:
    """The arguments of runs that list all routes of some examples each.

    None where routes are too many, or where examples must be taken at once
    (:func:`~latentroute.inference.parts.example_parts`) and do not fit into memory.
    """
    structure = program.structure(*args)
    n, limit = structure.n_examples, free_memory()
    if structure.n_routes > MOST_ROUTES:
        return []
    parts = example_parts(program, args, n, structure.enumeration_bytes, limit)
    fits = len(parts) > 1 or structure.enumeration_bytes(n) <= limit
    return parts if fits else []


def enumerated_routes(
    program: RoutedProgram, args: tuple[Any, ...], structure: Structure
) -> WeightedRoutes:
    """Every route, with exact weights."""
    terms = program.enumerate(*args)
    dynamic, static = joint_parts(terms, structure)
    sizes = tuple(reversed(structure.n_choices))
    inner = [-2 - i for i, site in enumerate(structure.sites) if not site.static]
    outer = [-2 - i for i, site in enumerate(structure.sites) if site.static]
    total = torch.logsumexp(dynamic, inner, keepdim=True) if inner else dynamic
    posterior = dynamic - total
    if outer:
        shared = static + total.sum(-1, keepdim=True)
        posterior = posterior + shared - torch.logsumexp(shared, outer, keepdim=True)
    n = dynamic.shape[-1]
    prior = sum(terms.prior.values(), torch.zeros(())).expand(*sizes, n)
    joint = (terms.likelihood + prior).expand(*sizes, n)
    return WeightedRoutes(
        routes=all_routes(structure.sites).unsqueeze(1).to(joint.device),
        posterior=by_route(posterior, structure),
        router=by_route(prior, structure),
        log_marginal=torch.logsumexp(by_route(joint, structure), 0),
        terms=terms,
    )


def sampled_routes(
    program: RoutedProgram, args: tuple[Any, ...], structure: Structure, n_samples: int
) -> WeightedRoutes:
    """Routes drawn from the router, weighted by their likelihood."""
    terms = program.sample(*args, n_samples=n_samples)
    s, n = terms.likelihood.shape
    log_weight = importance_log_weights(terms, terms.prior, structure)
    return WeightedRoutes(
        routes=stack_routes(terms, structure),
        posterior=torch.log_softmax(log_weight, 0).expand(s, n),
        router=torch.full_like(terms.likelihood, -math.log(s)),
        log_marginal=torch.logsumexp(terms.likelihood, 0) - math.log(s),
        terms=terms,
    )


def importance_log_weights(
    terms: Terms, log_q: Mapping[str, Tensor], structure: Structure
) -> Float[Tensor, "samples #examples"]:
    """log p(y, a_s | x) - log q(a_s): (S, N), or (S, 1) where examples are coupled.

    Args:
        terms: Of S sampled routes.
        log_q: Log-probabilities of the choices under what drew them, by site;
            ``terms.prior`` itself where that was the router.
        structure: The program's sites.
    """
    if log_q is terms.prior:  # the two cancel, where both are -inf too
        ratios = {}
    else:
        ratios = {name: log_p - log_q[name] for name, log_p in terms.prior.items()}
    return _together(terms, ratios, structure)


def log_joint_of(
    terms: Terms, structure: Structure
) -> Float[Tensor, "routes #examples"]:
    """log p(y, a | x) of given routes: (C, N), or (C, 1) where examples are coupled."""
    return _together(terms, terms.prior, structure)


def _together(
    terms: Terms, factors: Mapping[str, Tensor], structure: Structure
) -> Tensor:
    """The likelihood and a factor for each site; coupled examples added up."""
    static = {site.name for site in structure.static_sites}
    inner, outer = terms.likelihood, terms.static_likelihood
    for name, factor in factors.items():
        if name in static:
            outer = outer + factor
        else:
            inner = inner + factor
    return inner.sum(-1, keepdim=True) + outer if structure.coupled else inner


def joint_parts(terms: Terms, structure: Structure) -> tuple[Tensor, Tensor]:
    """What stands in the data plate, (*sites, N), and outside it, (*static sites, 1).

    Args:
        terms: Of an enumerated run.
        structure: The program's sites.
    """
    dynamic, static = terms.likelihood, terms.static_likelihood
    for site in structure.sites:
        if site.static:
            static = static + terms.prior[site.name]
        else:
            dynamic = dynamic + terms.prior[site.name]
    sizes = tuple(reversed(structure.n_choices))
    return dynamic.expand(*sizes, terms.likelihood.shape[-1]), static


def by_route(table: Tensor, structure: Structure) -> Tensor:
    """(M_{L-1}, .., M_0, N, ...) -> (R, N, ...), the last site changing fastest."""
    n_sites = len(structure.sites)
    sizes = tuple(reversed(structure.n_choices))
    table = table.expand(*sizes, *table.shape[n_sites:])
    order = [*reversed(range(n_sites)), *range(n_sites, table.dim())]
    return table.permute(order).reshape(-1, *table.shape[n_sites:])


def stack_routes(terms: Terms, structure: Structure) -> Int[Tensor, "s examples sites"]:
    """The routes of a sampled run as one tensor."""
    shape = terms.likelihood.shape
    return torch.stack(
        [terms.routes[name].expand(shape) for name in structure.names], -1
    )


def draw_routes(
    weighted: WeightedRoutes, structure: Structure, draws: int
) -> Int[Tensor, "draws examples sites"]:
    """Draw whole routes by their weights, all examples of a draw together.

    Static sites have one choice for all examples of a draw, and each example's dynamic
    sites are drawn given it.
    """
    weight = weighted.posterior.exp().T  # (N, R)
    routes = weighted.routes.expand(-1, len(weight), -1)
    static = [i for i, site in enumerate(structure.sites) if site.static]
    if not static:
        picked = torch.multinomial(weight, draws, replacement=True).T
    else:
        shared = routes[:, 0, static]  # (R, static sites)
        drawn = shared[torch.multinomial(weight[0], draws, replacement=True)]
        picked = drawn.new_empty(draws, len(weight))
        for choice in drawn.unique(dim=0):
            at = (drawn == choice).all(-1)
            allowed = weight * (shared == choice).all(-1)
            n = int(at.sum())
            picked[at] = torch.multinomial(allowed, n, replacement=True).T
    return routes.gather(0, picked.unsqueeze(-1).expand(-1, -1, routes.shape[-1]))
