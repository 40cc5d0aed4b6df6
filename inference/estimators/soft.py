"""Soft routing: mixtures of activations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from ..objective import Method, Model, Objective
from ..schedules import Constant, Schedule
from .relaxation import RelaxedObjective, check_no_guide, check_temperature


@dataclass(frozen=True)
class Soft(Method):
    r"""Each layer gives its modules' values averaged by the router's probabilities.

    .. math::
        \log p(y \mid x, w_0, .., w_{L-1}), \quad
        w_l = \mathrm{softmax}(\log p(\cdot \mid z_l) / \tau), \quad
        z_{l+1} = \sum_m w_{lm} f_m(z_l)

    Another model, with no latent routes: a mixture of activations, not of likelihoods.
    What is evaluated after training is the routed model, at the parameters that this
    one ended with; the two agree where the router is certain. Deterministic. Cost: one
    run, of all M modules a layer.

    Args:
        temperature: Of the softmax, positive; a falling one ends in hard choices.

    References:
        Jacobs, Jordan, Nowlan, Hinton 1991, Adaptive mixtures of local experts,
        equation 1.1 (whose remedy, a mixture of likelihoods, is ``exact``).
    """

    temperature: Schedule = field(default_factory=lambda: Constant(1.0))

    summary: ClassVar[str] = "mixture of activations: another model"
    wiring: ClassVar[str] = "soft routing"
    unbiased_for: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        check_temperature(self.temperature)

    def objective(
        self, model: Model, guide: Callable[..., Any] | None, **options: Any
    ) -> Objective:
        """The objective of the model; it takes no guide."""
        check_no_guide("soft", guide)
        return RelaxedObjective(
            model,
            lambda log_probs, step: torch.softmax(
                log_probs / self.temperature(step), -1
            ),
            1,
            **options,
        )
