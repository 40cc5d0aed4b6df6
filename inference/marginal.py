"""Exact quantities of a routed program: marginal likelihood and route posterior."""

from __future__ import annotations

from collections.abc import Callable
from itertools import starmap
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .chunks import sum_all_routes
from .parts import whole_or_parts
from .plan import check_memory, free_memory
from .program import RoutedProgram, all_routes
from .structure import Structure
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
    Cost: one evaluation of the program at each of its routes, as one run or in chunks:
    where the run does not fit into memory, and where no gradient is wanted, in 256 MiB
    and less of examples; and some plain runs to read its structure and to see that it
    broadcasts.

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

    Exact; differentiable. Cost: as :func:`log_marginal`, and the table itself; with
    gradients, which are those of a table joined from parts where it is made in parts,
    twice that.

    Args:
        model: Any Pyro program with route sites.
        *args: What it takes, as for :func:`log_marginal`.
        memory_limit: Bytes that may be taken beside the table, which must fit into
            what is free; by default all of that.

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
    limit = free_memory() if memory_limit is None else memory_limit
    parts = whole_or_parts(program, args, structure.n_examples, limit)
    if len(parts) == 1:
        check_memory(structure, structure.n_examples, limit)
    sites = structure.static_sites or structure.sites
    log_probs = _posterior_table(program, structure, parts)
    return RoutePosterior(
        routes=all_routes(sites).to(log_probs.device),
        log_probs=log_probs,
        names=tuple(site.name for site in sites),
    )


def _posterior_table(
    program: RoutedProgram, structure: Structure, parts: list[tuple[Any, ...]]
) -> Float[Tensor, "examples routes"]:
    """Log p(a | x, y) of every route, some examples at a time."""

    def part(*args: Any) -> Tensor:
        joint = tabulate_routes(program.enumerate(*args), structure)
        return torch.log_softmax(joint, -1)

    if len(parts) == 1:
        return part(*parts[0])
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(part, *p, use_reentrant=False) for p in parts])
    n, at = structure.n_examples, 0
    if 4 * n * structure.n_routes > free_memory():
        check_memory(structure, n)
    table = torch.empty(0)
    for rows in starmap(part, parts):
        if not at:
            table = rows.new_empty(n, rows.shape[1])
        table[at : at + len(rows)] = rows
        at += len(rows)
    return table
