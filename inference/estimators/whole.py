"""What methods share that weigh whole routes: one reward and one probability a route.

With static sites alone there is one route for all examples: it earns the mean of what
they say, and takes the place of an example.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from ..structure import Structure
from ..terms import Terms


class Scored(NamedTuple):
    """Whole routes, N examples (1 where routing is static), differentiable.

    Attributes:
        reward: (C, N) log p(y | x, a), an example's share.
        log_p: (C, N) log p(a | x).
    """

    reward: Float[Tensor, "routes examples"]
    log_p: Float[Tensor, "routes examples"]


def score_routes(terms: Terms, structure: Structure, n_data: float) -> Scored:
    """Reward and probability of the routes of a run.

    Args:
        terms: Of (C, N) routes.
        structure: The program's sites, all dynamic or all static.
        n_data: Examples of the data, which share what is observed outside the plate.
    """
    reward = terms.likelihood + terms.static_likelihood / n_data
    log_p = reward.new_zeros(1, 1)
    for prior in terms.prior.values():
        log_p = log_p + prior
    if structure.static_sites:
        reward = reward.mean(-1, keepdim=True)
    return Scored(reward, log_p.expand_as(reward))


def n_routed(structure: Structure, n_examples: int) -> int:
    """How many routes a batch has: one an example, or one in all."""
    return 1 if structure.static_sites else n_examples


def require_whole(method: str, structure: Structure) -> None:
    """Refuse programs whose routes belong to an example only in part.

    Raises:
        ValueError: Where some sites are static and others not.
    """
    static = [site.name for site in structure.static_sites]
    if static and len(static) < len(structure.sites):
        raise ValueError(
            f"{method} weighs whole routes, so the routing sites must be all dynamic "
            f"or all static, and only {static} are static: use score-function, "
            "local-enumeration or hybrid"
        )


def refuse_guide(method: str, guide: Callable[..., Any] | None) -> None:
    """Refuse a guide where the router is the proposal.

    Raises:
        ValueError: If there is one.
    """
    if guide is not None:
        raise ValueError(
            f"{method} takes no guide: its routes come from the model's router; with "
            "a guide of your own use score-function or importance"
        )
