"""Stochastic beam search: whole routes drawn without replacement."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

# (C, N, l) choices at the first l sites -> (C, N, M) log p of the next one's
Peek = Callable[[Tensor], Tensor]


class DrawnSet(NamedTuple):
    """Distinct routes of each example, in the order in which they were drawn.

    Attributes:
        routes: (C, N, L).
        log_p: (C, N) float64 log p(a | x); -inf for routes that fill up where fewer
            than C are possible.
        log_rest: (N,) float64 log-probability of all other routes together, summed as
            they are left out, so that it is right however small.
    """

    routes: Int[Tensor, "routes examples sites"]
    log_p: Float[Tensor, "routes examples"]
    log_rest: Float[Tensor, " examples"]


@torch.no_grad()
def draw_without_replacement(
    peek: Peek, n_choices: tuple[int, ...], start: Tensor, n_samples: int
) -> DrawnSet:
    """S routes an example without replacement, in proportion to their probability.

    Each partial route carries a Gumbel variable whose location is its log-probability;
    its continuations' Gumbels are drawn so that their maximum is its own, and the S
    largest go on. So the routes are the S largest of independent Gumbels over all
    routes, which is sampling without replacement. In float64 throughout.
    Cost: at each site, the program up to it at S partial routes; no gradient.

    Args:
        peek: Log-probabilities of the next site's choices.
        n_choices: M_l of each site.
        start: (N,) any tensor of the device in question, one entry a route.
        n_samples: S; where there are fewer routes, all of them are given.

    References:
        Kool, van Hoof, Welling 2019, arXiv:1903.06059, algorithm 1.
    """
    n = len(start)
    device = start.device
    zeros = torch.zeros(1, n, dtype=torch.float64, device=device)
    found = DrawnSet(
        torch.zeros(1, n, 0, dtype=torch.long, device=device),
        zeros,
        torch.full_like(zeros[0], -torch.inf),
    )
    gumbel = zeros  # the greatest of all; its value tells nothing of which it is
    for m in n_choices:
        step = peek(found.routes).double()  # (C, N, M)
        log_p = found.log_p.unsqueeze(-1) + step
        children = _gumbels_below(gumbel, log_p)
        flat = log_p.transpose(1, 2).flatten(0, 1)  # (C * M, N)
        gumbel, kept = (
            children.transpose(1, 2)
            .flatten(0, 1)
            .topk(min(n_samples, len(flat)), dim=0)
        )
        found = _keep(found, flat, kept, m)
    return found


def _keep(found: DrawnSet, log_p: Tensor, kept: Tensor, m: int) -> DrawnSet:
    """The routes that go on, (C', N) of C * M; the others join the rest."""
    n_sites = found.routes.shape[-1]
    parents = (kept // m).unsqueeze(-1).expand(*kept.shape, n_sites)
    routes = torch.cat(
        [found.routes.gather(0, parents), (kept % m).unsqueeze(-1)], dim=-1
    )
    left_out = log_p.scatter(0, kept, -torch.inf).logsumexp(0)
    return DrawnSet(
        routes, log_p.gather(0, kept), torch.logaddexp(found.log_rest, left_out)
    )


def _gumbels_below(
    parent: Float[Tensor, "routes examples"], log_p: Float[Tensor, "routes examples m"]
) -> Float[Tensor, "routes examples m"]:
    """Gumbels at locations log_p, given that their maximum is the parent's.

    -inf for a continuation of probability zero. (arXiv:1903.06059, appendix B.3.)
    """
    free = log_p - torch.empty_like(log_p).exponential_().log()
    top = free.amax(-1, keepdim=True)
    # log(1 - exp(free - top)): -inf where free is the maximum, 0 where it is -inf
    gap = (free - top).nan_to_num(-torch.inf, neginf=-torch.inf)
    v = parent.unsqueeze(-1) - free + torch.log(-torch.expm1(gap))
    below = parent.unsqueeze(-1) - v.relu() - torch.log1p(torch.exp(-v.abs()))
    return below.masked_fill(torch.isneginf(log_p), -torch.inf)
