"""Exact quantities of a routed program: marginal likelihood and route posterior."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .chunks import sum_all_routes
from .plan import check_memory
from .program import RoutedProgram, all_routes
from .tables import tabulate_routes


class RoutePosterior(NamedTuple):
    """Every route and its posterior probability.

    Attributes:
        routes: (P, sites) int64 choices in program order, the last changing fastest.
        log_probs: (N, P) log p(a | x_n, y_n). With static sites (1, P) over those
            alone: log p(a | x, y) of all examples together.
        names: Names of the sites.
    """

    routes: Int[Tensor, "routes sites"]
    log_probs: Float[Tensor, "examples routes"]
    names: tuple[str, ...]


def log_marginal(
    model: Callable[..., Any], *args: Any, memory_limit: int | None = None
) -> Float[Tensor, "*batch"]:
    """log p(y | x) with the routes summed out, by enumeration.

    Exact; differentiable in the parameters. A plate's scale is left aside.
    Cost: one evaluation of the program at each of its routes, as one run or, where that
    does not fit into memory, in chunks; and three plain runs to read its structure and
    to see that it broadcasts.

    Args:
        model: Any Pyro program with route sites.
        *args: What it takes: ``x, y`` for most; ``y`` may be ``None`` where a
            ``pyro.factor`` stands for the likelihood.
        memory_limit: Bytes that the sum may take; by default what is free.

    Returns:
        (N,) log p(y_n | x_n). Where a site is static the examples are coupled: shape
        (), log sum_a p(a) prod_n p(y_n | x_n, a).

    Raises:
        ValueError: If the program cannot be routed, or the sum would not fit; before
            the memory is taken.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(x, y=None):
        ...     with pyro.plate("data", len(x)):
        ...         a = pyro.sample("a", dist.Categorical(logits=torch.zeros(2)))
        ...         pyro.sample("y", dist.Normal(x * (1.0 - a), 1.0), obs=y)
        >>> log_marginal(model, torch.tensor([0.0]), torch.tensor([0.0]))
        tensor([-0.9189])
    """
    program = RoutedProgram(model)
    n = program.structure(*args).n_examples
    return sum_all_routes(program, args, n, memory_limit=memory_limit)


def route_posterior(
    model: Callable[..., Any], *args: Any, memory_limit: int | None = None
) -> RoutePosterior:
    """The posterior p(a | x, y) over whole routes, by enumeration.

    Exact; differentiable. Cost: as :func:`log_marginal`, and the table itself.

    Args:
        model: Any Pyro program with route sites.
        *args: What it takes, as for :func:`log_marginal`.
        memory_limit: Bytes that the table may take; by default what is free.

    Returns:
        All routes and their log-probabilities.

    Raises:
        ValueError: If the program cannot be routed, or the table would not fit; before
            the memory is taken.
    """
    program = RoutedProgram(model)
    structure = program.structure(*args)
    if not structure.sites:
        raise ValueError("every routing site is given: there is no posterior to list")
    check_memory(structure, structure.n_examples, memory_limit)
    joint = tabulate_routes(program.enumerate(*args), structure)
    sites = structure.static_sites or structure.sites
    return RoutePosterior(
        routes=all_routes(sites).to(joint.device),
        log_probs=torch.log_softmax(joint, -1),
        names=tuple(site.name for site in sites),
    )
