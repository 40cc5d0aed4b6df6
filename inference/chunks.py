"""Exact sums over more routes and examples than fit into memory at once."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .parts import whole_or_parts
from .plan import MOST_ROUTES, check_memory, free_memory
from .program import RoutedProgram
from .structure import Structure
from .tables import logsumexp, sum_routes


def sum_all_routes(
    program: RoutedProgram,
    args: tuple[Any, ...],
    n_examples: int,
    *,
    data_scale: float = 1.0,
    memory_limit: int | None = None,
) -> Float[Tensor, "*batch"]:
    """log sum_a p(y, a | x), in chunks where it does not fit into memory at once.

    Chunks are of some examples each (:func:`~latentroute.inference.parts.example_parts`
    says when), or, where those cannot be told apart or one is too many, of some routes:
    the first sites are held at one choice each and the others enumerated. A chunk's
    backward pass runs it again. The same result, at twice the forward's cost.

    Args:
        program: The program.
        args: Its arguments.
        n_examples: Examples in the batch.
        data_scale: As for :func:`sum_routes`.
        memory_limit: Bytes that the sum may take; by default what is free.

    Returns:
        (N,), or () where the examples are coupled.

    Raises:
        ValueError: If not even a chunk fits, or the routes are too many for the time.
    """
    structure = program.structure(*args)
    limit = free_memory() if memory_limit is None else memory_limit

    def part(prefix: tuple[int, ...], *chunk: Any) -> Tensor:
        terms = program.enumerate(*chunk, prefix=prefix)
        return sum_routes(terms, structure, data_scale=data_scale)

    parts = whole_or_parts(program, args, n_examples, limit)
    if len(parts) > 1:
        sums = [checkpoint(part, (), *chunk, use_reentrant=False) for chunk in parts]
        return torch.cat(sums)
    n_held = _sites_to_hold(structure, n_examples, limit)
    if not n_held:
        check_memory(structure, n_examples, limit)
        return part((), *args)
    sums = [
        checkpoint(part, prefix, *args, use_reentrant=False)
        for prefix in itertools.product(*map(range, structure.n_choices[:n_held]))
    ]
    return logsumexp(torch.stack(sums), 0).squeeze(0)


def marginal_loss(
    program: RoutedProgram, args: tuple[Any, ...], data_scale: float, memory_limit: int
) -> Float[Tensor, ""]:
    """Minus the mean log p(y | x) of a batch, every route summed out.

    Args:
        program: The program.
        args: Its arguments; the first one has a row an example.
        data_scale: Examples of the data for each one of the batch.
        memory_limit: Bytes that the sum may take.
    """
    n = len(args[0])
    value = sum_all_routes(
        program, args, n, data_scale=data_scale, memory_limit=memory_limit
    )
    if program.structure(*args).coupled:
        return -value / (n * data_scale)
    return -value.mean()


def _sites_to_hold(structure: Structure, n_examples: int, limit: int) -> int:
    """The fewest first sites whose choices are taken one at a time; 0 if none helps."""
    if structure.n_routes > MOST_ROUTES:
        return 0
    for n_held, site in enumerate((None, *structure.sites)):
        # One dynamic choice for all examples is no term of a coupled sum.
        if site is not None and structure.coupled and not site.static:
            return 0
        if structure.enumeration_bytes(n_examples, n_held) <= limit:
            return n_held
    return 0
