"""Heads: what turns the last activation into a distribution of y.

Distributions do not validate: :meth:`target` checks y, which torch's checks of every
route's likelihood would do again at a sixth of a small step's time.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from .categorical import Categorical, categorical_of, single
from .checks import all_finite, values_are_checked


class CategoricalHead(nn.Module):
    """p(y | h) = Categorical(softmax(W h + b)), y in 0 .. out_features - 1.

    Args:
        in_features: Width of h.
        out_features: Number of classes.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)

    def forward(self, h: Float[Tensor, "*batch into"]) -> Categorical:
        """The distribution of y, of the batch shape of ``h``."""
        return categorical_of(self.linear, h)

    def target(self, y: Tensor, n: int) -> Tensor:
        """Check y: (N,) whole numbers in 0 .. classes - 1.

        Raises:
            ValueError: Names what was given and what is accepted.
        """
        classes = self.linear.out_features
        if y.shape != (n,):
            raise ValueError(
                f"y must have shape ({n},), one class an example, got {tuple(y.shape)}"
            )
        labels = y.long()
        if not values_are_checked(y):
            return labels
        if y.is_floating_point() and not torch.equal(labels.to(y.dtype), y):
            raise ValueError(
                "y must hold classes as whole numbers for a categorical head, got "
                f"{_culprit(y, labels.to(y.dtype) != y)}"
            )
        low, high = map(int, labels.aminmax())
        if low < 0 or high >= classes:
            wrong = (labels < 0) | (labels >= classes)
            raise ValueError(
                f"y must hold classes 0 .. {classes - 1}, got {_culprit(y, wrong)}"
            )
        return labels


class NormalHead(nn.Module):
    """p(y | h) = Normal(W h + b, exp(s)), with one learned log scale s an output.

    Args:
        in_features: Width of h.
        out_features: Number of outputs; the scale starts at 1.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)
        self.log_scale = nn.Parameter(torch.zeros(out_features))

    def forward(self, h: Float[Tensor, "*batch into"]) -> dist.Independent:
        """The distribution of y (event dim 1), of the batch shape of ``h``."""
        normal = dist.Normal(
            single(self.linear(h)), self.log_scale.exp(), validate_args=False
        )
        return dist.Independent(normal, 1, validate_args=False)

    def target(self, y: Tensor, n: int) -> Tensor:
        """Check y: (N, outputs) finite numbers; (N,) where there is one output.

        Raises:
            ValueError: Names what was given and what is accepted.
        """
        y = _rows(y, n, self.linear.out_features).to(self.log_scale.dtype)
        if values_are_checked(y) and not all_finite(y):
            raise ValueError(f"y must be finite, got {_culprit(y, ~torch.isfinite(y))}")
        return y


class BernoulliHead(nn.Module):
    """p(y | h) = Bernoulli(sigmoid(W h + b)), independent over the outputs.

    Args:
        in_features: Width of h.
        out_features: Number of outputs.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)

    def forward(self, h: Float[Tensor, "*batch into"]) -> dist.Independent:
        """The distribution of y (event dim 1), of the batch shape of ``h``."""
        bernoulli = dist.Bernoulli(logits=single(self.linear(h)), validate_args=False)
        return dist.Independent(bernoulli, 1, validate_args=False)

    def target(self, y: Tensor, n: int) -> Tensor:
        """Check y: (N, outputs) of 0 and 1; (N,) where there is one output.

        Raises:
            ValueError: Names what was given and what is accepted.
        """
        y = _rows(y, n, self.linear.out_features).to(self.linear.weight.dtype)
        wrong = (y != 0) & (y != 1)
        if values_are_checked(y) and wrong.any():
            raise ValueError(f"y must hold 0 and 1, got {_culprit(y, wrong)}")
        return y


Head = CategoricalHead | NormalHead | BernoulliHead
HEADS: Mapping[str, type[Head]] = {
    "categorical": CategoricalHead,
    "normal": NormalHead,
    "bernoulli": BernoulliHead,
}


def _rows(y: Tensor, n: int, outputs: int) -> Tensor:
    if outputs == 1 and y.dim() == 1:
        y = y.unsqueeze(-1)
    if y.shape != (n, outputs):
        raise ValueError(f"y must have shape ({n}, {outputs}), got {tuple(y.shape)}")
    return y


def _culprit(y: Tensor, wrong: Tensor) -> str:
    """The first wrong entry, for a message."""
    place = wrong.nonzero()[0].tolist()
    return f"{y[tuple(place)].item()} at row {place[0]}"
