"""Exact sums over more routes than fit into memory at once."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .plan import MOST_ROUTES, check_memory, free_memory
from .program import RoutedProgram
from .structure import Structure
from .tables import sum_routes


def sum_all_routes(
    program: RoutedProgram,
    args: tuple[Any, ...],
    n_examples: int,
    *,
    data_scale: float = 1.0,
    memory_limit: int | None = None,
) -> Float[Tensor, "*batch"]:
    """log sum_a p(y, a | x), in chunks where the routes do not fit into memory at once.

    A chunk holds the first sites at one choice each and enumerates the others; its
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
    n_held = _sites_to_hold(structure, n_examples, limit)

    def part(prefix: tuple[int, ...]) -> Tensor:
        terms = program.enumerate(*args, prefix=prefix)
        return sum_routes(terms, structure, data_scale=data_scale)

    if not n_held:
        check_memory(structure, n_examples, limit)
        return part(())
    parts = [
        checkpoint(part, prefix, use_reentrant=False)
        for prefix in itertools.product(*map(range, structure.n_choices[:n_held]))
    ]
    return torch.logsumexp(torch.stack(parts), 0)


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
