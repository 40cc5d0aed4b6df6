"""Routes of a trained program where they are too many to list, and draws of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..guides.router import RouterGuide
from ..models.checks import check_count
from .pareto import pareto_k
from .parts import example_parts
from .plan import free_memory
from .program import RoutedProgram
from .proposal import Proposal
from .random import RandomStream
from .structure import Structure
from .weighted import (
    draw_routes,
    enumerated_routes,
    importance_log_weights,
    listed_parts,
    sampled_routes,
    stack_routes,
)

_RESAMPLED = 1024  # importance samples an example, at least, where routes are resampled


class ImportancePosterior(NamedTuple):
    """Weighted routes that stand for p(a | x, y), and how far to trust them.

    Where a site is static the examples are coupled: N = 1 in all but ``routes``, and
    ``log_marginal`` and its error have shape ().

    Attributes:
        routes: (S, N, L) int64, choices in program order.
        log_weights: (S, N) log, normalised over S: posterior means are weighted sums.
        log_marginal: (N,) estimate of log p(y_n | x_n); biased low, by about half its
            squared error.
        log_marginal_error: (N,) its standard error.
        ess: (N,) effective sample size 1 / sum w^2, of S.
        pareto_k: (N,) shape of the weights' tail: above 0.7 neither weights nor error
            are to be trusted (:func:`latentroute.inference.pareto.pareto_k`).
        names: Names of the sites.
    """

    routes: Int[Tensor, "samples examples sites"]
    log_weights: Float[Tensor, "samples #examples"]
    log_marginal: Float[Tensor, "*batch"]
    log_marginal_error: Float[Tensor, "*batch"]
    ess: Float[Tensor, " #examples"]
    pareto_k: Float[Tensor, " #examples"]
    names: tuple[str, ...]


class SampledRoutes(NamedTuple):
    """Routes drawn from the posterior.

    Attributes:
        routes: (n, N, L) int64; a static site has one choice for all examples of a
            draw.
        ess: (N,) how many independent draws those they were resampled from are worth;
            inf where the draws are exact.
        names: Names of the sites.
    """

    routes: Int[Tensor, "draws examples sites"]
    ess: Float[Tensor, " examples"]
    names: tuple[str, ...]


@torch.no_grad()
def importance_posterior(
    model: Callable[..., Any],
    *args: Any,
    n_samples: int = 1000,
    seed: int | None = 0,
    guide: Callable[..., Any] | None = None,
) -> ImportancePosterior:
    r"""The posterior over routes by self-normalised importance sampling.

    .. math::
        w_s \propto \frac{p(y, a_s \mid x)}{q(a_s)}, \quad
        \log \hat p(y \mid x) = \log \frac1S \sum_s \frac{p(y, a_s \mid x)}{q(a_s)}

    Cost: S evaluations an example, as one run. The error of log p is the delta
    method's; like the effective sample size it sees only routes that were drawn.

    Args:
        model: Any Pyro program with route sites.
        *args: What it takes: ``x, y`` for most.
        n_samples: S.
        seed: Of the draws; ``None``: torch's global stream.
        guide: Draws the routes: a Pyro program over the same sites, called with
            ``x, y``; it must give every route that the model allows a chance. By
            default the model's router.

    Returns:
        The routes, their weights and what they are worth.

    Raises:
        ValueError: If the program cannot be routed, or the guide misses a site.

    References:
        Owen 2013, Monte Carlo theory, methods and examples, chapter 9; Vehtari et al.
        2024, arXiv:1507.02646 (Pareto k).
    """
    check_count("n_samples", n_samples, least=2)
    program, structure = _read(model, args)
    proposal = Proposal(program, RouterGuide(model) if guide is None else guide)
    with RandomStream(seed)():
        index = args[2] if len(args) > 2 else None
        terms, log_q = proposal.draw(args, index, n_samples)
    log_ratio = importance_log_weights(terms, log_q, structure)
    log_weights = torch.log_softmax(log_ratio, 0)
    shape = () if structure.coupled else (-1,)
    ess = effective_sample_size(log_weights)
    relative = (n_samples / ess - 1).clamp_min(0) / (n_samples - 1)
    log_marginal = torch.logsumexp(log_ratio, 0) - math.log(n_samples)
    return ImportancePosterior(
        routes=stack_routes(terms, structure),
        log_weights=log_weights,
        log_marginal=log_marginal.reshape(shape),
        log_marginal_error=relative.sqrt().reshape(shape),
        ess=ess,
        pareto_k=pareto_k(log_ratio),
        names=structure.names,
    )


@torch.no_grad()
def sample_routes(
    model: Callable[..., Any], *args: Any, n: int = 1, seed: int | None = 0
) -> SampledRoutes:
    """Draw routes from the posterior p(a | x, y).

    Exact, by enumeration, where all routes of an example fit into memory and are at
    most 65,536; many examples are taken some at a time. Otherwise resampled, with
    replacement, from at least 1024 and 4 n importance samples an example: then ``ess``
    says what they are worth, and many draws are alike.

    Args:
        model: Any Pyro program with route sites.
        *args: What it takes: ``x, y`` for most.
        n: Draws.
        seed: Of the draws; ``None``: torch's global stream.

    Returns:
        The draws; with static sites, of all examples together.

    Raises:
        ValueError: If the program cannot be routed.

    Example:
        >>> from latentroute.models import LayeredNetwork
        >>> net = LayeredNetwork(2, 3, n_layers=2, n_modules=4, hidden_features=4)
        >>> x, y = torch.zeros(5, 2), torch.zeros(5, dtype=torch.long)
        >>> sample_routes(net, x, y, n=10).routes.shape
        torch.Size([10, 5, 2])
    """
    check_count("n", n)
    program, structure = _read(model, args)
    with RandomStream(seed)():
        drawn, ess = zip(*_drawn(program, args, structure, n), strict=True)
    return SampledRoutes(torch.cat(drawn, 1), torch.cat(ess), structure.names)


def _drawn(
    program: RoutedProgram, args: tuple[Any, ...], structure: Structure, n: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Draws of some examples at a time, and what they are worth."""
    listed = listed_parts(program, args)
    for part in listed:
        weighted = enumerated_routes(program, part, structure)
        exact = torch.full_like(weighted.log_marginal, math.inf)
        yield draw_routes(weighted, structure, n), exact
    if listed:
        return
    s = max(_RESAMPLED, 4 * n)

    def sampled_bytes(n_examples: int) -> int:
        return s * structure.enumeration_bytes(n_examples, len(structure.sites))

    n_examples = structure.n_examples
    for part in example_parts(program, args, n_examples, sampled_bytes, free_memory()):
        weighted = sampled_routes(program, part, structure, s)
        yield (
            draw_routes(weighted, structure, n),
            effective_sample_size(weighted.posterior),
        )


def effective_sample_size(
    log_weights: Float[Tensor, "samples examples"],
) -> Float[Tensor, " examples"]:
    """1 / sum_s w_s^2 of weights that are normalised over samples."""
    return torch.exp(-torch.logsumexp(2 * log_weights, 0))


def _read(
    model: Callable[..., Any], args: tuple[Any, ...]
) -> tuple[RoutedProgram, Structure]:
    program = RoutedProgram(model)
    structure = program.structure(*args)
    check_latent(structure)
    return program, structure


def check_latent(structure: Structure) -> None:
    """Refuse a program whose routes are all given.

    Raises:
        ValueError: There is nothing to infer.
    """
    if not structure.sites:
        raise ValueError("every routing site is given: there is no posterior of routes")
