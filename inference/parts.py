"""Examples taken some at a time, where a run on all of them is too large."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .precision import full_precision
from .program import RoutedProgram
from .structure import untouched_randomness
from .terms import Terms

PART_BYTES = 2**28  # what a run on some of the examples makes


def example_parts(
    program: RoutedProgram,
    args: tuple[Any, ...],
    n_examples: int,
    bytes_of: Callable[[int], int],
    limit: int,
) -> list[tuple[Any, ...]]:
    """The arguments of runs on some examples each, which make 256 MiB or less.

    Tensors with a row an example are cut. Cost: two plain runs, which see to it that an
    example has the same terms in a part as among all.

    Args:
        program: The program.
        args: Its arguments.
        n_examples: N, how many examples they hold.
        bytes_of: What a run on so many examples makes.
        limit: Bytes that a part may take, at most.

    Returns:
        The parts in order. The arguments themselves as the only one where they are
        small enough, where not even one example or a plain run of all fits, and where
        examples cannot be told apart: something stands outside the data plate, or the
        program reads its data from elsewhere or looks at the whole batch.
    """
    most = min(PART_BYTES, limit)
    structure = program.structure(*args)
    plain = structure.enumeration_bytes(n_examples, len(structure.sites))
    if structure.coupled or max(bytes_of(1), plain) > limit:
        return [args]
    if bytes_of(n_examples) <= most:
        return [args]
    size = n_examples * most // bytes_of(n_examples)
    size = max(1, size + (bytes_of(size + 1) <= most))  # what rounding took
    cuts = [slice(at, at + size) for at in range(0, n_examples, size)]
    parts = [tuple(_cut(a, n_examples, rows) for a in args) for rows in cuts]
    if not _alike(program, args, n_examples, parts[-1], cuts[-1]):
        return [args]
    return parts


def whole_or_parts(
    program: RoutedProgram, args: tuple[Any, ...], n_examples: int, limit: int
) -> list[tuple[Any, ...]]:
    """The arguments of an enumeration of every route, as one run or in parts.

    With gradients, whose parts are run again, one run is taken where it fits; without,
    where it is no larger than a part.

    Args:
        program: The program.
        args: Its arguments.
        n_examples: N, how many examples they hold.
        limit: Bytes that the enumeration may take.
    """
    bytes_of = program.structure(*args).enumeration_bytes
    if torch.is_grad_enabled() and bytes_of(n_examples) <= limit:
        return [args]
    return example_parts(program, args, n_examples, bytes_of, limit)


def _cut(value: Any, n_examples: int, rows: slice) -> Any:
    has_rows = isinstance(value, Tensor) and value.dim() and len(value) == n_examples
    return value[rows] if has_rows else value


def _alike(
    program: RoutedProgram,
    args: tuple[Any, ...],
    n_examples: int,
    part: tuple[Any, ...],
    rows: slice,
) -> bool:
    """Whether a part's examples have the same terms as among all.

    The last part tells more than the first: it has other row numbers.
    """
    sizes = torch.tensor(program.structure(*args).n_choices)
    places = torch.arange(n_examples).unsqueeze(-1) + torch.arange(len(sizes))
    routes = places % sizes  # (N, L)
    try:
        with torch.no_grad(), untouched_randomness(), full_precision():
            among_all = _table(program.given(*args, routes=routes), n_examples)
            own = program.given(*part, routes=routes[rows])
            alone = _table(own, len(routes[rows]))
    except (RuntimeError, ValueError, IndexError, TypeError):
        return False
    tolerance = 1e-3 if alone.dtype != torch.float64 else 1e-8
    return torch.allclose(
        among_all[:, rows], alone, rtol=tolerance, atol=tolerance, equal_nan=True
    )


def _table(terms: Terms, n_examples: int) -> Tensor:
    """Every term of each example: (terms, N)."""
    each = [terms.likelihood, *terms.prior.values()]
    if terms.likelihood.shape[-1] != n_examples:
        raise ValueError("the data plate is not of the examples passed")
    return torch.stack([term.expand(n_examples) for term in each])
