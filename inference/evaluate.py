"""What a trained program says about examples: routes, likelihoods, predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from pyro.poutine.util import site_is_factor
from torch import Tensor, nn

from ..models.routing import Site
from .parts import PART_BYTES
from .plan import free_memory
from .program import RoutedProgram
from .random import RandomStream
from .structure import Structure, in_data_plate
from .terms import Terms
from .weighted import (
    MOST_ROUTES,
    WeightedRoutes,
    by_route,
    draw_routes,
    enumerated_routes,
    enumerates,
    sampled_routes,
)

_IMPORTANCE_SAMPLES = 512


class Evaluation(NamedTuple):
    """Everything analysis asks of a program and some examples, detached.

    M is the largest number of choices; sites with fewer are padded with zeros.

    Attributes:
        names: The L routing sites in program order.
        n_choices: Choices at each.
        log_marginal: (N,) log p(y_n | x_n), routes summed out. Where a site is static,
            each example on its own: log sum_a p(a) p(y_n | x_n, a).
        route_probs: (N, L, M) posterior p(a_l | x_n, y_n); static sites given all
            examples.
        router_probs: (N, L, M) p(a_l | x_n), earlier routes summed out.
        routes: (draws, N, L) whole routes drawn from the posterior.
        predictive: (N, classes) p(y = c | x_n) of a categorical target, else (N, D) the
            predictive mean; ``None`` where only factors are observed.
        y_draws: (draws, N, ...) drawn from p(y | x_n); ``None`` likewise.
        exact: Whether routes were summed out by enumeration; otherwise by
            self-normalised importance sampling from the router, whose log_marginal is
            biased low.
        coupled: Whether a static site joins the examples, so that the sum of
            log_marginal is not the log-probability of all of them together.
    """

    names: tuple[str, ...]
    n_choices: tuple[int, ...]
    log_marginal: Float[Tensor, " examples"]
    route_probs: Float[Tensor, "examples sites choices"]
    router_probs: Float[Tensor, "examples sites choices"]
    routes: Int[Tensor, "draws examples sites"]
    predictive: Tensor | None
    y_draws: Tensor | None
    exact: bool
    coupled: bool = False


def evaluate(
    model: Callable[..., Any],
    x: Tensor,
    y: Tensor | None = None,
    *,
    draws: int = 100,
    seed: int | None = 0,
    max_routes: int = MOST_ROUTES,
) -> Evaluation:
    """Evaluate a program on examples.

    Exact by enumeration, some examples at a time, where all routes of one example fit
    into memory and are at most ``max_routes``; otherwise by importance sampling with
    512 routes an example. Examples coupled by a static site are taken at once.

    Args:
        model: A Pyro program ``model(x, y=None)`` with routing sites.
        x: Inputs, examples first.
        y: Targets.
        draws: Number of posterior routes and predictive targets drawn an example; 0:
            none, and no predictive distribution.
        seed: Of the draws.
        max_routes: Routes that are enumerated, at most; 65,536 or fewer.

    Returns:
        The evaluation, on the CPU.

    Raises:
        ValueError: If the program cannot be routed.
    """
    program = RoutedProgram(model)
    return evaluate_program(
        program, x, y, draws=draws, seed=seed, max_routes=max_routes
    )


@torch.no_grad()
def evaluate_program(
    program: RoutedProgram,
    x: Tensor,
    y: Tensor | None = None,
    *,
    draws: int = 100,
    seed: int | None = 0,
    max_routes: int = MOST_ROUTES,
) -> Evaluation:
    """As :func:`evaluate`, of a program that is read and tried out once for many."""
    model = program.model
    structure = program.structure(x, y)
    exact, size = _chunk_size(structure, len(x), draws, max_routes)
    parts: list[_Part] = []
    with RandomStream(seed)(), evaluation_mode(model):
        for start in range(0, len(x), size):
            rows = slice(start, start + size)
            args = (x[rows], None if y is None else y[rows])
            weighted = (
                enumerated_routes(program, args, structure)
                if exact
                else sampled_routes(program, args, structure, _IMPORTANCE_SAMPLES)
            )
            parts.append(_summarise(weighted, program, args, structure, draws))
    joined: Any = [
        _cat(field, dim)
        for field, dim in zip(zip(*parts, strict=True), _DIMS, strict=True)
    ]
    found = Evaluation(structure.names, structure.n_choices, *joined, exact=exact)  # type: ignore[misc]
    return found._replace(coupled=structure.coupled)


@contextmanager
def evaluation_mode(model: Callable[..., Any]) -> Iterator[None]:
    """Turn dropout and the like off meanwhile."""
    training = isinstance(model, nn.Module) and model.training
    if isinstance(model, nn.Module):
        model.train(False)
    try:
        yield
    finally:
        if isinstance(model, nn.Module):
            model.train(training)


class _Part(NamedTuple):
    log_marginal: Tensor
    route_probs: Tensor
    router_probs: Tensor
    routes: Tensor
    predictive: Tensor | None
    y_draws: Tensor | None


_DIMS = (0, 0, 0, 1, 0, 1)  # the examples' dimension of each field of a part


def _chunk_size(
    structure: Structure, n: int, draws: int, max_routes: int
) -> tuple[bool, int]:
    """Whether to enumerate, and how many examples at once."""
    together = n if structure.coupled else 1
    exact = structure.n_routes <= max_routes and enumerates(structure, together)
    if structure.coupled:
        return exact, n
    plain = max(sum(structure.stage_bytes) // structure.n_examples, 1)
    sampled = plain * max(draws, 0 if exact else _IMPORTANCE_SAMPLES)
    one = max(structure.enumeration_bytes(1), sampled) if exact else sampled
    return exact, max(1, min(PART_BYTES, free_memory()) // max(one, 1))


def _summarise(
    weighted: WeightedRoutes,
    program: RoutedProgram,
    args: tuple[Any, ...],
    structure: Structure,
    draws: int,
) -> _Part:
    """Marginals, draws and predictions from weighted routes."""
    posterior, router = weighted.posterior.exp(), weighted.router.exp()
    n = posterior.shape[1]
    routes = weighted.routes.expand(-1, n, -1)  # (R, N, L)
    drawn = routes[:0]
    target = None
    if draws:
        drawn = draw_routes(weighted, structure, draws)
        target = _target(weighted.terms)
    predictive = y_draws = None
    if target is not None:
        mean = _mean_by_route(target, weighted, structure)
        predictive = torch.einsum("rn,rnd->nd", router.to(mean), mean).cpu()
        y_draws = _draw_targets(program.sample(*args, n_samples=draws), draws)
    return _Part(
        log_marginal=weighted.log_marginal.cpu(),
        route_probs=_marginals(routes, posterior, structure).cpu(),
        router_probs=_marginals(routes, router, structure).cpu(),
        routes=drawn.cpu(),
        predictive=predictive,
        y_draws=y_draws,
    )


def _marginals(
    routes: Tensor, weight: Tensor, structure: Structure
) -> Float[Tensor, "examples sites choices"]:
    """Each site's probabilities from the weights of whole routes."""
    _, n, n_sites = routes.shape
    probs = weight.new_zeros(n, n_sites, max(structure.n_choices, default=0))
    for i in range(n_sites):
        probs[:, i].scatter_add_(-1, routes[..., i].T, weight.T)
    return probs


def _target(terms: Terms) -> Site | None:
    """The observed site that predictions are of: the last that is no factor."""
    sites = [
        site
        for site in terms.sites.values()
        if site.observed
        and in_data_plate(site)
        and not site_is_factor({"type": "sample", "fn": site.fn})
        and "route" not in site.infer
    ]
    return sites[-1] if sites else None


def _mean_by_route(
    target: Site, weighted: WeightedRoutes, structure: Structure
) -> Float[Tensor, "routes examples outputs"]:
    """Predictive mean or probabilities at each route."""
    n_routes, n = weighted.posterior.shape
    terms, plates = weighted.terms, structure.nesting - 1
    if terms.runs:
        each = [_mean(run.sites[target.name], 0, n, plates) for run in terms.runs]
        return torch.stack(each)
    if terms.dims:  # an enumerated run
        mean = _mean(target, len(structure.sites), n, plates)
        return by_route(mean, structure)
    return _mean(target, 1, n, plates).expand(n_routes, -1, -1)


def _mean(site: Site, n_lead: int, n: int, plates: int) -> Tensor:
    """(*lead, N, D): class probabilities of a categorical target, else its mean.

    Plates around the data's, ``plates`` of them, count among the outputs.
    """
    fn = site.fn
    is_categorical = (
        fn.has_enumerate_support
        and hasattr(fn, "probs")
        and (fn.probs.dim() > len(fn.batch_shape) + len(fn.event_shape))
    )
    mean = fn.probs if is_categorical else fn.mean
    event = 1 if is_categorical else len(fn.event_shape)
    mean = mean.flatten(-event) if event else mean.unsqueeze(-1)
    lead = n_lead + plates + 2 - mean.dim()
    mean = mean[(None,) * lead] if lead > 0 else mean
    mean = mean.movedim(-2, -2 - plates).flatten(-1 - plates)
    return mean.expand(*mean.shape[:-2], n, mean.shape[-1])


def _draw_targets(terms: Terms, draws: int) -> Tensor:
    """(S, N, *plates, *event): a target for each sampled route."""
    targets = [_target(run) for run in terms.runs or (terms,)]
    fns = [target.fn for target in targets if target is not None]
    if terms.runs:
        drawn = torch.stack([fn.sample() for fn in fns])
    else:
        (fn,) = fns
        left = (draws,) + (1,) * _depth(targets[0])
        drawn = fn.expand(torch.broadcast_shapes(fn.batch_shape, left)).sample()
    return drawn.movedim(_depth(targets[0]), 1).cpu()


def _depth(target: Site | None) -> int:
    """How deep the plates around a target are nested."""
    frames = () if target is None else target.frames
    return max((-frame.dim for frame in frames), default=1)


def _cat(field: tuple[Any, ...], dim: int) -> Any:
    return None if field[0] is None else torch.cat(field, dim)
