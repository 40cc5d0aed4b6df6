"""How confident a router is and how evenly modules are used."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Entropies(NamedTuple):
    """Per-site entropies of a router over some examples, in nats.

    Attributes:
        h_a: (L,) mean_n H[p(a_l | x_n)]: small where the router is confident.
        h_b: (L,) H[mean_n p(a_l | x_n)]: log M where modules are used evenly.
    """

    h_a: Float[Tensor, " sites"]
    h_b: Float[Tensor, " sites"]


def router_entropies(probs: Float[Tensor, "examples sites choices"]) -> Entropies:
    """H(A_l | X) and H(A_l) of router probabilities, by the plug-in estimate.

    0 log 0 is 0, so padding with zeros changes nothing. H(A_l) of N examples is biased
    low (Jensen).

    References:
        Kirsch et al. 2018, arXiv:1811.05249, section 4 (H_a and H_b).
    """
    return Entropies(_entropy(probs).mean(0), _entropy(probs.mean(0)))


def _entropy(probs: Tensor) -> Tensor:
    return -torch.xlogy(probs, probs).sum(-1)
