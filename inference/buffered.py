"""What training on buffered routes shares: rows, ranks, and who competes."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..guides.buffer import RouteBuffer, Score
from .structure import Structure
from .terms import Terms


def buffer_rows(
    buffer: RouteBuffer, n_examples: int, index: Tensor | None, *, static: bool
) -> Int[Tensor, " batch"]:
    """Rows of the buffer that a batch's routes stand in: (B,), or (1,) if static."""
    device = buffer.routes.device
    if static:
        return torch.zeros(1, dtype=torch.long, device=device)
    if index is None:
        return torch.arange(n_examples, device=device)
    return index.to(device)


def rank_routes(
    terms: Terms, structure: Structure, scale: float, by: Score
) -> Float[Tensor, "routes examples"]:
    """What routes are ranked by; static routes by what all examples say.

    Args:
        terms: Of (C, N) routes.
        structure: The program's sites, all dynamic or all static.
        scale: N / B: how many examples each of the batch stands for.
        by: The joint, the likelihood or the prior, in logarithms.
    """
    likelihood = terms.likelihood
    if structure.static_sites:
        total = scale * likelihood.sum(-1, keepdim=True)
        likelihood = total + terms.static_likelihood
    prior = torch.stack([terms.prior[name] for name in structure.names]).sum(0)
    if by == "likelihood":
        return likelihood
    return prior.expand_as(likelihood) if by == "prior" else likelihood + prior


def candidates(
    terms: Terms,
    structure: Structure,
    scale: float,
    by: Score,
    *,
    filled: Bool[Tensor, "capacity batch"] | None = None,
) -> tuple[Int[Tensor, "routes batch sites"], Float[Tensor, "routes batch"]]:
    """Candidates of an E-step and what they are ranked by.

    Args:
        terms: Of (C, N) routes, the incumbents first, if they compete.
        structure: As for :func:`rank_routes`.
        scale: As for :func:`rank_routes`.
        by: As for :func:`rank_routes`.
        filled: Which incumbents there are; ``None``: they do not compete.
    """
    routes = torch.stack([terms.routes[name] for name in structure.names], -1)
    scores = rank_routes(terms, structure, scale, by)
    if filled is None:
        return routes, scores
    k = len(filled)
    # An empty place repeats the first incumbent, so it counts as a duplicate.
    routes[:k] = routes[:k].where(filled.unsqueeze(-1), routes[:1])
    incumbent = scores[:k].masked_fill(~filled, -math.inf)
    return routes, torch.cat([incumbent, scores[k:]])
