"""Scores of routes shifted so that modules are used alike in a minibatch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

_ITERATIONS = 50


def balance_scores(
    scores: Float[Tensor, "candidates batch"],
    routes: Int[Tensor, "candidates batch sites"],
    n_choices: Sequence[int],
    temperature: float,
) -> Float[Tensor, "candidates batch"]:
    r"""Scores under a constraint of balanced use, by Sinkhorn's iteration.

    .. math::
        \max_p \sum_{n,c} p_n(c)\, s_n(c) + T \sum_n H(p_n)
        \quad \text{where} \quad
        \sum_n p_n(a_l = m) = B / M_l \text{ for each site and module}

    Its solution is p_n(c) proportional to exp((s_n(c) + sum_l u_{l, a_l}) / T). The
    prices u are found by scaling each site's use to its share in turn, the examples'
    normalisation being the other constraint; returned is s + u. The lower T, the
    nearer the best route alone is to balanced use, and the slower the iteration: 50
    rounds are done, so that use is balanced as far as they reach. A module that no
    candidate uses keeps its price.

    Args:
        scores: What routes are ranked by, in nats; -inf or NaN never counts.
        routes: The candidates; an example's repeated ones count once.
        n_choices: M_l of each site.
        temperature: T in nats, positive.

    Returns:
        The scores with the prices of their modules added. Cost: C^2 B comparisons, and
        50 L passes over the scores.

    References:
        Cuturi 2013, arXiv:1306.0895; Clark et al. 2022, arXiv:2202.01169 (balanced
        routes in a mixture of experts).
    """
    same = (routes.unsqueeze(0) == routes.unsqueeze(1)).all(-1)  # (C, C, B)
    earlier = torch.ones_like(same[..., 0]).tril(-1)
    repeated = (same & earlier.unsqueeze(-1)).any(1)
    counts = torch.isfinite(scores) & ~repeated
    base = (scores / temperature).where(counts, -torch.inf)
    prices = [scores.new_zeros(m) for m in n_choices]
    for _ in range(_ITERATIONS):
        for site, m in enumerate(n_choices):
            at = routes[..., site]
            shares = (base + _total(prices, routes)).softmax(0).nan_to_num(0.0)
            used = scores.new_zeros(m).index_add_(0, at.reshape(-1), shares.reshape(-1))
            # An example without a finite score takes no part.
            wanted = shares.sum() / m
            step = (wanted / used).log()
            prices[site] = prices[site] + step.where(used > 0, 0.0)
    return scores + temperature * _total(prices, routes)


def _total(prices: Sequence[Tensor], routes: Tensor) -> Tensor:
    """Prices of whole routes, in units of the temperature: (C, B)."""
    total = torch.zeros(routes.shape[:-1], device=routes.device, dtype=prices[0].dtype)
    for site, price in enumerate(prices):
        total = total + price[routes[..., site]]
    return total
