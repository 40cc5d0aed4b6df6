"""ReinMax: straight-through to second order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ...models.checks import check_count
from ..objective import Method, Model, Objective
from ..schedules import Constant, Schedule
from .relaxation import (
    RelaxedObjective,
    check_no_guide,
    check_temperature,
    sampled_one_hot,
)


@dataclass(frozen=True)
class ReinMax(Method):
    r"""Sampled choices forwards, Heun's second-order gradient backwards.

    With D = onehot(a), a ~ p = softmax(s), and J(p) = diag(p) - p p^T the Jacobian of
    the softmax at p, the weights' gradient in the scores s is

    .. math::
        2\, J\!\left(\tfrac12 (D + \mathrm{softmax}(s / \tau))\right)
        - \tfrac12\, J(p).

    The loss is a draw of the router-as-guide ELBO. At one site and temperature 1 its
    gradient is right on average where log p(y | x, w) is quadratic in w
    (straight-through: linear), biased otherwise. Cost: S runs, of all M modules a
    layer.

    Args:
        temperature: Of the softmax that is averaged with D; 1 is second order, more has
            less variance.
        n_samples: S, routes drawn for each example.

    References:
        Liu, Dong, Liu, Yu, Gao 2023, arXiv:2304.08612, algorithm 2. The scores are the
        log-probabilities, so a router's logits need no other treatment.
    """

    temperature: Schedule = field(default_factory=lambda: Constant(1.0))
    n_samples: int = 4

    summary: ClassVar[str] = "sampled choices, with a second-order gradient"
    wiring: ClassVar[str] = "router-as-guide ELBO"
    unbiased_for: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        check_count("n_samples", self.n_samples)

    def objective(
        self, model: Model, guide: Callable[..., Any] | None, **options: Any
    ) -> Objective:
        """The objective of the model; it takes no guide."""
        check_no_guide("reinmax", guide)
        return RelaxedObjective(
            model,
            lambda log_probs, step: reinmax(
                log_probs, sampled_one_hot(log_probs), self.temperature(step)
            ),
            self.n_samples,
            **options,
        )


def reinmax(
    log_probs: Float[Tensor, "*batch m"],
    chosen: Float[Tensor, "*batch m"],
    temperature: float,
) -> Float[Tensor, "*batch m"]:
    """The unit vectors ``chosen``, with ReinMax's gradient.

    A softmax's Jacobian at a detached point is applied to the scores themselves, so
    that probabilities that underflow cost nothing (the paper's form takes logarithms).
    """
    probs = torch.softmax(log_probs, -1).detach()
    middle = (chosen + torch.softmax(log_probs / temperature, -1).detach()) / 2
    # Of a forbidden choice the score is -inf, and its gradient zero.
    scores = log_probs.masked_fill(torch.isneginf(log_probs), 0.0)
    surrogate = 2 * _along(middle, scores) - 0.5 * _along(probs, scores)
    return chosen + (surrogate - surrogate.detach())


def _along(point: Tensor, scores: Tensor) -> Tensor:
    """J(point) scores: linear in the scores."""
    return point * (scores - (point * scores).sum(-1, keepdim=True))
