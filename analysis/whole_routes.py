"""Distributions over whole routes, where they can be listed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .arrays import entropy

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]


class RouteTable(NamedTuple):
    """Probabilities of every route of some examples.

    Attributes:
        names: The L sites.
        n_choices: Choices at each.
        routes: (P, L) int64 all routes.
        router: (N, P) p(a|x_n).
        posterior: (N, P) p(a|x_n,y_n).
    """

    names: tuple[str, ...]
    n_choices: tuple[int, ...]
    routes: NDArray[np.int64]
    router: Floats
    posterior: Floats


def route_table(
    model: Callable[..., Any], x: Tensor, y: Tensor | None = None
) -> RouteTable:
    """Router and posterior over whole routes by enumeration.

    Cost: every route of every example, all at once; smaller batches need less memory.

    Args:
        model: A Pyro program `model(x, y=None)` with routing sites in its data plate.
        x: Inputs, examples first.
        y: Targets.

    Returns:
        The table.

    Raises:
        ValueError: A site is static: all examples share its route; or there are too
            many routes to list for this many examples.
    """
    import torch

    from ..inference.program import RoutedProgram
    from ..inference.weighted import enumerated_routes, enumerates

    program = RoutedProgram(model)
    structure = program.structure(x, y)
    if structure.coupled:
        raise ValueError(
            f"model: got static sites among {structure.names}, expected dynamic ones "
            "(a route that all inputs share tells nothing about any)"
        )
    if not enumerates(structure, len(x)):
        raise ValueError(
            f"model: got {structure.n_routes} routes of {len(x)} examples, too many to "
            "list (take smaller batches; beyond 65,536 routes none are small enough)"
        )
    with torch.no_grad():
        listed = enumerated_routes(program, (x, y), structure)
    return RouteTable(
        names=structure.names,
        n_choices=structure.n_choices,
        routes=listed.routes[:, 0].cpu().numpy(),
        router=listed.router.exp().T.double().cpu().numpy(),
        posterior=listed.posterior.exp().T.double().cpu().numpy(),
    )


def marginals(
    routes: NDArray[np.int64], probs: Floats, n_choices: tuple[int, ...]
) -> Floats:
    """(N, L, M) probabilities of each site's choices, from (N, P) of whole routes."""
    sites = np.zeros((len(probs), len(n_choices), max(n_choices)))
    for i, m in enumerate(n_choices):
        for choice in range(m):
            sites[:, i, choice] = probs[:, routes[:, i] == choice].sum(-1)
    return sites


def entropies_in_turn(
    routes: NDArray[np.int64], probs: Floats, n_choices: tuple[int, ...]
) -> Floats:
    r"""(N, L) H(A_l | A_{<l}, X = x_n): how unsure each decision is when it is made.

    By the chain rule, as differences of the entropies of the first decisions; they add
    up to the entropy of the whole route. Not `h_a`, which does not know the earlier
    decisions and is never smaller.

    Args:
        routes: (P, L) all routes.
        probs: (N, P) their probabilities.
        n_choices: Choices at each site.
    """
    codes = np.zeros(len(routes), dtype=np.int64)
    before, found = np.zeros(len(probs)), []
    for i, m in enumerate(n_choices):
        codes = codes * m + routes[:, i]
        _, group = np.unique(codes, return_inverse=True)
        sums = np.zeros((group.max() + 1, len(probs)))
        np.add.at(sums, group, probs.T)
        so_far = entropy(np.ascontiguousarray(sums.T))
        found.append(np.maximum(so_far - before, 0.0))
        before = so_far
    return np.stack(found, -1)
