"""Some sites summed out, the others sampled: rewards, and who earns them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..baselines import leave_one_out
from ..terms import Terms


class Weighted(NamedTuple):
    """A mixed run: (*enumerated sites, the last one first; S; N).

    Attributes:
        weight: Probability of the enumerated choices given the draws before them; adds
            up to one over them.
        reward: log p(y | x, a), an example's share; 0 where the weight is.
    """

    weight: Float[Tensor, "*sites samples examples"]
    reward: Float[Tensor, "*sites samples examples"]


def weigh(terms: Terms, n_data: float) -> Weighted:
    """Weights and rewards of a mixed run, differentiable.

    Args:
        terms: What :meth:`RoutedProgram.mixed` gives.
        n_data: Examples of the data, which share what is observed outside the plate.
    """
    reward = terms.likelihood + terms.static_likelihood / n_data
    log_weight = reward.new_zeros((1,) * (len(terms.dims) + 2))
    for name in terms.dims:
        log_weight = log_weight + terms.prior[name]
    reward, log_weight = torch.broadcast_tensors(reward, log_weight)
    weight = log_weight.exp()
    # A route of probability zero counts for nothing, whatever its likelihood.
    return Weighted(weight, torch.where(weight > 0, reward, 0.0))


def sum_out(values: Tensor, dims: Iterable[int]) -> Float[Tensor, "samples examples"]:
    """Sum the enumerated sites' dimensions away."""
    dims = tuple(dims)
    return values.sum(dims) if dims else values


def sampled_scores(
    weighted: Weighted,
    priors: Mapping[str, Tensor],
    dims: Mapping[str, int],
    *,
    static: Set[str],
) -> Float[Tensor, ""]:
    r"""The score-function part of the sampled sites: value 0, and their gradient.

    A draw at site l is made once for each choice d at the enumerated sites that it
    depends on; with w the probability of d, and r the mean reward given d over the
    other enumerated sites, it earns

    .. math:: w_{d s} (r_{d s} - \text{mean}_{s' \ne s} r_{d s'})

    unbiased, since neither w nor the other samples depend on the draw. Adding a
    constant to the reward changes no draw of it.

    Args:
        weighted: Of S samples, at least 2.
        priors: log p(a_l | z_l) of the sampled sites.
        dims: Where each enumerated site stands.
        static: Names of the static sites, which earn what all examples earn.
    """
    weight, reward = (values.detach() for values in weighted)
    total = weight.new_zeros(())
    for name, log_p in priors.items():
        others = [d for d in dims.values() if log_p.dim() < -d or log_p.shape[d] == 1]
        reached = weight.sum(others, keepdim=True) if others else weight
        earned = weight * reward
        earned = earned.sum(others, keepdim=True) if others else earned
        mean = torch.where(reached > 0, earned / reached, 0.0)
        advantage = reached * leave_one_out(mean.transpose(0, -2)).transpose(0, -2)
        if name in static:
            advantage = advantage.mean(-1, keepdim=True)
        score = torch.where(advantage != 0, advantage * (log_p - log_p.detach()), 0.0)
        total = total + sum_out(score, dims.values()).mean()
    return total
