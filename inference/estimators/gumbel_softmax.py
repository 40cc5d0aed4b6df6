"""The Gumbel-softmax (Concrete) relaxation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ...models.checks import check_count
from ..objective import Method, Model, Objective
from ..schedules import Exponential, Schedule
from .relaxation import (
    RelaxedObjective,
    check_no_guide,
    check_temperature,
    gumbel_like,
    largest_one_hot,
)


@dataclass(frozen=True)
class GumbelSoftmax(Method):
    r"""Choices replaced by a softmax of noisy log-probabilities.

    .. math::
        \mathrm{E}_g \log p(y \mid x, w_0, .., w_{L-1}), \quad
        w_l = \mathrm{softmax}((\log p(\cdot \mid z_l) + g_l) / \tau), \quad
        g_{lm} \sim \mathrm{Gumbel}(0, 1)

    where a layer gives sum_m w_lm f_m(z_l). The gradient is unbiased for this relaxed
    objective, whose value tends to the router-as-guide ELBO as the temperature tends to
    0 while the gradient's variance grows without bound; for the ELBO it is biased. The
    KL term of the papers is absent: the router is its own guide. Cost: S runs, of all
    M modules a layer.

    Args:
        temperature: Of the softmax, positive.
        n_samples: S, weights drawn for each example.
        hard: Give the program the largest weight's choice alone, with the soft weights'
            gradient (straight-through Gumbel-softmax).

    References:
        Jang, Gu, Poole 2016, arXiv:1611.01144, equation 2 and section 2.2; Maddison,
        Mnih, Teh 2016, arXiv:1611.00712, equation 10.
    """

    temperature: Schedule = field(default_factory=lambda: Exponential(1.0, 0.1, 1000))
    n_samples: int = 4
    hard: bool = False

    summary: ClassVar[str] = "Gumbel-softmax weights in place of choices"
    wiring: ClassVar[str] = "relaxed ELBO"
    unbiased_for: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        check_count("n_samples", self.n_samples)

    def objective(
        self, model: Model, guide: Callable[..., Any] | None, **options: Any
    ) -> Objective:
        """The objective of the model; it takes no guide."""
        check_no_guide("gumbel-softmax", guide)
        return RelaxedObjective(
            model,
            self._weights,
            self.n_samples,
            **options,
        )

    def _weights(self, log_probs: Tensor, step: int) -> Tensor:
        weights = gumbel_softmax(log_probs, self.temperature(step))
        if self.hard:
            return largest_one_hot(weights) + (weights - weights.detach())
        return weights


def gumbel_softmax(
    log_probs: Float[Tensor, "*batch m"], temperature: float
) -> Float[Tensor, "*batch m"]:
    """softmax((log p + g) / temperature), g standard Gumbel numbers."""
    return torch.softmax((log_probs + gumbel_like(log_probs)) / temperature, -1)
