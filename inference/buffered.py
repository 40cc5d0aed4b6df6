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


def join_incumbents(
    places: Int[Tensor, "capacity batch sites"],
    filled: Bool[Tensor, "capacity batch"],
    incumbent: Float[Tensor, "capacity batch"],
    routes: Int[Tensor, "samples batch sites"],
    scores: Float[Tensor, "samples batch"],
) -> tuple[Tensor, Tensor]:
    """Candidates of an E-step and their ranks, the incumbents first."""
    incumbent = incumbent.masked_fill(~filled, -math.inf)
    # An empty place repeats the first incumbent, so it counts as a duplicate.
    places = torch.where(filled.unsqueeze(-1), places, places[:1])
    return torch.cat([places, routes]), torch.cat([incumbent, scores])
