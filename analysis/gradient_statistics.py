"""What draws of a gradient say of their bias and variance."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .importance_bound import Truth

Verdict = Literal["unbiased", "biased", "unclear"]

MOST_FAR = 0.01  # share of coordinates that may lie beyond 4 standard errors
MOST_BIAS = 0.01  # squared, relative to |g|^2
LEAST_BIAS = 1e-4  # below it, routes too rare to be drawn pass for bias
ROUNDING = 1e-10  # squared and relative, as float32's sums are
LEAST_DRAWS = 250  # for standard errors that can be trusted


class GradientStatistics(NamedTuple):
    """Bias and variance of an estimator, against the gradient g of its objective.

    Attributes:
        squared_bias: |E draw - g|^2 / |g|^2, debiased: the variance of the mean is
            taken off, so that it may be negative.
        squared_bias_error: Its standard error.
        variance: Trace of one draw's covariance.
        cosine: Between the mean of the draws and g.
        far: Share of coordinates whose mean lies beyond 4 standard errors of g.
        squared_norm: |g|^2.
        verdict: ``"biased"`` where the squared bias is 4 standard errors from zero and
            at least 1e-4, and it is over 1% or more than 1% of coordinates are far;
            ``"unbiased"`` where neither is, and the error leaves no doubt;
            ``"unclear"`` where more draws are needed.
    """

    squared_bias: float
    squared_bias_error: float
    variance: float
    cosine: float
    far: float
    squared_norm: float
    verdict: Verdict

    @property
    def bias(self) -> float:
        """|E draw - g| / |g|, 0 where the debiased square is negative."""
        return math.sqrt(max(self.squared_bias, 0.0))

    @property
    def bias_error(self) -> float:
        """How far one standard error of the square would raise the bias."""
        raised = max(self.squared_bias, 0.0) + self.squared_bias_error
        return math.sqrt(raised) - self.bias


def gradient_statistics(
    draws: Float[Tensor, "calls d"], truth: Truth, *, copies: int = 1
) -> GradientStatistics:
    r"""Compare draws of a gradient with the truth.

    .. math::
        \hat b^2 = \lVert \bar g - g \rVert^2 - \mathrm{tr}\, V / n, \quad
        \mathrm{var}(\hat b^2) \approx 4\, d^\top V d / n + 2\, \mathrm{tr}\, V^2 / n^2

    Args:
        draws: Means of ``copies`` independent draws each; V is their covariance and
            d = mean - g.
        truth: g, and its own error where it is not exact.
        copies: Draws in each mean.
    """
    if not draws.shape[1]:
        nan = math.nan
        return GradientStatistics(nan, nan, nan, nan, nan, nan, "unclear")
    tolerance = 1e-9 if draws.dtype == torch.float64 else 1e-4
    draws, g = draws.double(), truth.gradient.double()
    n, size = len(draws), g.square().sum().item()
    mean = draws.mean(0)
    off = mean - g
    centred = draws - mean
    rounding = tolerance * g.abs().max()
    own_error = truth.error.double().square()
    if n > 1:
        trace = centred.square().sum().item() / (n - 1)
        wide = draws.shape[1] > n
        gram = centred @ centred.T if wide else centred.T @ centred
        trace_square = gram.square().sum().item() / (n - 1) ** 2
        along = (centred @ off).square().sum().item() / (n - 1)
        error = centred.square().sum(0) / (n - 1) / n
        if trace <= (rounding**2).item():
            trace = 0.0
    else:  # nothing left to chance
        trace = trace_square = along = 0.0
        error = torch.zeros_like(mean)
    relative = size if size > 0 else math.nan
    own = own_error.sum().item()
    squared = (off.square().sum().item() - trace / n - own) / relative
    noise = 4 * along / n + 2 * trace_square / n**2
    noise += 4 * (own_error * off.square()).sum().item() + 2 * own**2
    squared_error = math.sqrt(noise) / relative
    far = (off.abs() > 4 * (error + own_error).sqrt() + rounding).double().mean().item()
    cosine = torch.nn.functional.cosine_similarity(mean, g, dim=0).item()
    return GradientStatistics(
        squared_bias=squared,
        squared_bias_error=squared_error,
        variance=trace * copies,
        cosine=cosine,
        far=far,
        squared_norm=size,
        verdict=_verdict(squared, squared_error, far, n),
    )


def _verdict(squared: float, error: float, far: float, n: int) -> Verdict:
    certain = n == 1  # no randomness: any difference is bias
    if squared > max(4 * error, ROUNDING if certain else LEAST_BIAS) and (
        far > MOST_FAR or squared > MOST_BIAS
    ):
        return "biased"
    resolved = certain or (n >= LEAST_DRAWS and error < MOST_BIAS / 4)
    if resolved and squared < MOST_BIAS and (certain or far <= MOST_FAR):
        return "unbiased"
    return "unclear"
