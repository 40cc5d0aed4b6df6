"""A normal distribution over the weights of a model."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Laplace, Normal, kl_divergence


class Prior(ABC):
    """A prior of every weight, independent of the others."""

    @abstractmethod
    def distribution(self, like: Tensor) -> Distribution:
        """The prior of one weight, in the precision and on the device of ``like``."""


@dataclass(frozen=True)
class NormalPrior(Prior):
    """Normal(mean, scale).

    Args:
        mean: Of each weight.
        scale: Standard deviation of each weight, positive.
    """

    mean: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        _check_scale(self.scale)

    def distribution(self, like: Tensor) -> Distribution:
        """The prior of one weight."""
        return Normal(like.new_tensor(self.mean), like.new_tensor(self.scale))


@dataclass(frozen=True)
class LaplacePrior(Prior):
    """Laplace(0, scale): more weights near zero, and more far from it.

    Args:
        scale: Mean distance of a weight from zero, positive.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        _check_scale(self.scale)

    def distribution(self, like: Tensor) -> Distribution:
        """The prior of one weight."""
        return Laplace(like.new_tensor(0.0), like.new_tensor(self.scale))


class WeightGuide(nn.Module):
    r"""q(w) = Normal(mu, sigma), independent over the weights.

    .. math:: w = \mu + \sigma \epsilon, \quad \epsilon \sim \mathrm{Normal}(0, 1)

    The means are the model's own parameters, by identity: whatever evaluates the model
    evaluates it at the posterior mean. Only log sigma is the guide's, one vector.

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
        _check_scale(scale)
        self._means = tuple(means)  # in a tuple: the model's, not the guide's
        size = sum(mean.numel() for mean in means)
        start = means[0].detach().new_full((size,), math.log(scale))
        self.log_scale = nn.Parameter(start)

    @property
    def log_scales(self) -> list[Tensor]:
        """Log sigma of each tensor of weights, in its shape."""
        parts = self.log_scale.split([mean.numel() for mean in self._means])
        return [
            part.to(mean).reshape(mean.shape)
            for part, mean in zip(parts, self._means, strict=True)
        ]

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

    def divergence(self, prior: Prior) -> Float[Tensor, ""]:
        """KL(q || prior), summed over the weights, in nats."""
        terms = [
            kl_divergence(Normal(mean, log_scale.exp()), prior.distribution(mean))
            for mean, log_scale in zip(self._means, self.log_scales, strict=True)
        ]
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


def _check_scale(scale: float) -> None:
    if not 0 < scale < math.inf:
        raise ValueError(f"scale must be positive, got {scale}")
