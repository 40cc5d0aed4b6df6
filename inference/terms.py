"""Log-probabilities of one run of a routed program, per sample and example."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from ..models.routing import ProgramError, Site
from .structure import RouteSite, Structure, in_data_plate, n_examples


class Terms(NamedTuple):
    """Log-probabilities of one run, per sample and example.

    Batch shapes are (*enumerated sites, the last one first; samples; N), each of which
    may be absent or 1 where a term does not depend on it. A static site's term, and
    what is observed outside the data plate, have N = 1.
    """

    likelihood: Tensor  # log p(y | x, a), what is observed in the data plate
    static_likelihood: Tensor  # what is observed outside it
    prior: dict[str, Tensor]  # log p(a_l | z_l) for each route site
    routes: dict[str, Tensor]  # a_l as an index 0 .. M_l - 1
    sites: dict[str, Site]  # every sample statement, as it ran
    dims: dict[str, int]  # where each enumerated site stands
    runs: tuple[Terms, ...] = ()  # the plain runs, of a program that does not broadcast
    coupled: bool = (
        True  # whether anything stands outside the plate, as far as is known
    )


def read_terms(sites: dict[str, Site], structure: Structure) -> Terms:
    """The terms of one run."""
    routes = {s.name: s for s in structure.sites}
    prior, index = {}, {}
    for site in sites.values():
        if site.name in routes:
            prior[site.name] = _log_prob(site, structure.nesting)
            index[site.name] = _drop_plates(
                routes[site.name].choice_of(site.value), structure.nesting
            )
    missing = [name for name in structure.names if name not in prior]
    if missing:
        raise ProgramError(
            f"the program does not sample the routing site {missing[0]!r}: it must "
            f"sample each of {list(structure.names)} (it has {list(sites)})"
        )
    like = next(iter(prior.values())) if prior else torch.zeros(())
    likelihood, outside = read_likelihoods(sites, structure, like)
    coupled = structure.coupled
    return Terms(likelihood, outside, prior, index, sites, {}, coupled=coupled)


def read_likelihoods(
    sites: dict[str, Site], structure: Structure, like: Tensor
) -> tuple[Tensor, Tensor]:
    """The log-probability of what is observed in the data plate, and outside it.

    Zeros, of the type of ``like``, where nothing is.
    """
    n, routes = n_examples(sites), set(structure.names)
    inside: list[Tensor] = []
    outside: list[Tensor] = []
    for site in sites.values():
        if site.name not in routes:
            term = _log_prob(site, structure.nesting)
            (inside if in_data_plate(site) else outside).append(term)
    like = next(iter(inside + outside), like)
    likelihood = sum(inside[1:], inside[0]) if inside else like.new_zeros(n)
    if likelihood.shape[-1] != n:
        likelihood = likelihood.expand(*likelihood.shape[:-1], n)
    return likelihood, sum(outside[1:], outside[0]) if outside else like.new_zeros(1)


def choice_log_probs(site: Site, nesting: int) -> Float[Tensor, "*batch m"]:
    """log p(a | z) of every choice at a site: (*lead, N or 1, M)."""
    values = site.fn.log_prob(site.fn.enumerate_support(expand=False))  # (M, *batch)
    return torch.stack([_drop_plates(value, nesting) for value in values], -1)


def _log_prob(site: Site, nesting: int) -> Tensor:
    """A site's log-probability, free of the plates' scale, other plates summed.

    A scale by ``poutine.scale`` stays: it is the model's own (a tempered likelihood).
    """
    log_prob = site.fn.log_prob(site.value)
    scale = site.scale
    for frame in site.frames:
        if frame.full_size is not None and frame.full_size != frame.size:
            scale = scale * frame.size / frame.full_size
    if site.mask is not None or not isinstance(scale, int | float) or scale != 1.0:
        log_prob = scale_and_mask(log_prob, scale, site.mask)
    plates = [f.dim for f in site.frames if f.dim != -1]
    if plates:
        log_prob = log_prob.sum(plates, keepdim=True)
    return _drop_plates(log_prob, nesting)


def _drop_plates(term: Tensor, nesting: int) -> Tensor:
    """(*lead, 1, .., 1, N or 1) -> (*lead, N or 1): at least one dimension is left."""
    if term.dim() == 0:
        return term.unsqueeze(0)
    for _ in range(min(nesting, term.dim()) - 1):
        term = term.squeeze(-2)
    return term


def _map(terms: list[Terms], join: Callable[[list[Tensor]], Tensor]) -> Terms:
    """Join the runs' terms one by one."""
    first = terms[0]
    return Terms(
        join([t.likelihood for t in terms]),
        join([t.static_likelihood for t in terms]),
        {name: join([t.prior[name] for t in terms]) for name in first.prior},
        {name: join([t.routes[name] for t in terms]) for name in first.routes},
        first.sites,
        first.dims,
        coupled=first.coupled,
    )


def expand_terms(terms: Terms, n_samples: int) -> Terms:
    """Give terms that do not depend on a route their dimension of samples."""

    def expand(terms: list[Tensor]) -> Tensor:
        (term,) = terms
        shape = (n_samples, term.shape[-1])
        return term if term.shape == shape else term.expand(shape)

    return _map([terms], expand)


def split_terms(terms: Terms, n_first: int) -> tuple[Terms, Terms]:
    """The first of (C, N) routes, and the others."""
    return (
        _map([terms], lambda values: values[0][:n_first]),
        _map([terms], lambda values: values[0][n_first:]),
    )


def stack_terms(runs: list[Terms]) -> Terms:
    """Runs of natural shape as one with a dimension of samples."""
    return _map(runs, torch.stack)._replace(runs=tuple(runs))


def enumerate_terms(
    runs: list[Terms], sites: tuple[RouteSite, ...], *, n_held: int = 0
) -> Terms:
    """Runs at every route as one of shape (M_{L-1}, .., M_0, N).

    The first ``n_held`` sites are held at one choice: their sizes are 1.
    """
    sizes = tuple(1 if i < n_held else s.n_choices for i, s in enumerate(sites))
    static = {site.name for site in sites if site.static}

    def join(values: list[Tensor]) -> Tensor:
        table: Tensor = torch.stack(values).unflatten(0, sizes)
        return table.permute(*reversed(range(len(sizes))), table.dim() - 1)

    def alone(table: Tensor) -> Tensor:
        """What stands outside the plate depends on the static sites alone."""
        for i, site in enumerate(sites):
            if not site.static:
                table = table.narrow(-2 - i, 0, 1)
        return table

    terms = _map(runs, join)
    prior = {name: alone(t) if name in static else t for name, t in terms.prior.items()}
    outside = alone(terms.static_likelihood)
    return terms._replace(static_likelihood=outside, prior=prior, runs=tuple(runs))
