"""A normal distribution over the weights of a model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class NormalPrior:
    """Independent normal prior of every weight.

    Args:
        mean: Of each weight.
        scale: Standard deviation of each weight, positive.
    """

    mean: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale must be positive, got {self.scale}")


class WeightGuide(nn.Module):
    r"""q(w) = Normal(mu, sigma), independent over the weights.

    .. math:: w = \mu + \sigma \epsilon, \quad \epsilon \sim \mathrm{Normal}(0, 1)

    The means are the model's own parameters, by identity: whatever evaluates the model
    evaluates it at the posterior mean. Only log sigma is the guide's.

    Args:
        means: The model's trained parameters, leaf tensors.
        scale: Standard deviation at the start.

    Raises:
        ValueError: If there are no weights, or the scale is not positive.
    """

    def __init__(self, means: Sequence[Tensor], *, scale: float = 0.05) -> None:
        super().__init__()
        if not means:
            raise ValueError("a guide over weights needs at least one trained tensor")
        if not 0 < scale < math.inf:
            raise ValueError(f"scale must be positive, got {scale}")
        self._means = tuple(means)  # in a tuple: the model's, not the guide's
        self.log_scales = nn.ParameterList(
            torch.full_like(mean, math.log(scale), requires_grad=False)
            for mean in means
        )

    def noise(self) -> list[Tensor]:
        """Standard normal draws, shaped like the weights."""
        return [torch.randn_like(mean) for mean in self._means]

    def weights(self, noise: Sequence[Tensor]) -> list[Tensor]:
        """The weights mu + sigma epsilon, differentiable in mu and sigma."""
        return [
            mean + log_scale.exp() * epsilon
            for mean, log_scale, epsilon in zip(
                self._means, self.log_scales, noise, strict=True
            )
        ]

    def divergence(self, prior: NormalPrior) -> Float[Tensor, ""]:
        """KL(q || prior), summed over the weights, in nats."""
        terms = []
        for mean, log_scale in zip(self._means, self.log_scales, strict=True):
            ratio = log_scale - math.log(prior.scale)
            shift = (mean - prior.mean) / prior.scale
            terms.append(0.5 * ((2 * ratio).exp() + shift.square() - 1) - ratio)
        return torch.stack([term.sum() for term in terms]).sum()

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """A draw from q in the place of the model's weights, inside ``with``."""
        with torch.no_grad():
            weights = self.weights(self.noise())
        with weights_at(self._means, weights):
            yield


@contextmanager
def weights_at(
    parameters: Sequence[Tensor], values: Sequence[Tensor]
) -> Iterator[None]:
    """Other values in the place of parameters, which are put back at the end.

    For any program, a bare function that closes over its tensors included. Gradients
    taken inside are those at the other values.
    """
    kept = [parameter.data for parameter in parameters]
    try:
        for parameter, value in zip(parameters, values, strict=True):
            parameter.data = value.detach()
        yield
    finally:
        for parameter, value in zip(parameters, kept, strict=True):
            parameter.data = value
