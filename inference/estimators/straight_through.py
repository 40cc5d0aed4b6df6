"""The straight-through estimator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ...models.checks import check_count
from ..objective import Method, Model, Objective
from .relaxation import RelaxedObjective, check_no_guide, sampled_one_hot


@dataclass(frozen=True)
class StraightThrough(Method):
    r"""Sampled choices forwards, the probabilities' gradient backwards.

    .. math::
        w_l = \mathrm{onehot}(a_l) + p_l - \mathrm{stop}(p_l), \quad
        a_l \sim p_l = p(\cdot \mid z_l)

    The loss is a draw of the router-as-guide ELBO; its gradient is that ELBO's to first
    order: right on average where log p(y | x, w) is linear in w, biased otherwise.
    Cost: S runs, of all M modules a layer.

    Args:
        n_samples: S, routes drawn for each example.

    References:
        Bengio, Léonard, Courville 2013, arXiv:1308.3432, section 4; for categorical
        choices Jang, Gu, Poole 2016, arXiv:1611.01144, section 3.1.
    """

    n_samples: int = 4

    summary: ClassVar[str] = "sampled choices, with the probabilities' gradient"
    wiring: ClassVar[str] = "router-as-guide ELBO"
    unbiased_for: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        check_count("n_samples", self.n_samples)

    def objective(
        self, model: Model, guide: Callable[..., Any] | None, **options: Any
    ) -> Objective:
        """The objective of the model; it takes no guide."""
        check_no_guide("straight-through", guide)
        return RelaxedObjective(
            model,
            lambda log_probs, step: straight_through(
                log_probs, sampled_one_hot(log_probs)
            ),
            self.n_samples,
            **options,
        )


def straight_through(
    log_probs: Float[Tensor, "*batch m"], chosen: Float[Tensor, "*batch m"]
) -> Float[Tensor, "*batch m"]:
    """The unit vectors ``chosen``, with the gradient of the probabilities."""
    probs = torch.softmax(log_probs, -1)
    return chosen + (probs - probs.detach())
