"""Soft weights that travel with a route, for relaxations of the discrete choice."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor


class Relaxation:
    """Weights over the modules in place of one choice.

    Attributes:
        weights: (*batch, M) differentiable weights.
        used: Whether a bank has mixed its modules by them: a program that uses the
            route in another way gets no gradient through it.
    """

    def __init__(self, weights: Float[Tensor, "*batch m"]) -> None:
        self.weights = weights
        self.used = False


def relax(
    route: Int[Tensor, "*batch"], weights: Float[Tensor, "*batch m"]
) -> Int[Tensor, "*batch"]:
    """The route, carrying weights that a :class:`ModuleBank` mixes its modules by."""
    route._relaxation = Relaxation(weights)  # type: ignore[attr-defined]
    return route


def relaxation_of(route: Tensor) -> Relaxation | None:
    """The relaxation that a route carries, if any."""
    return getattr(route, "_relaxation", None)
