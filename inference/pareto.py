"""The shape of the largest importance weights: whether their mean can be trusted."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

_LEAST_TAIL = 5


def pareto_k(log_weights: Float[Tensor, "samples *batch"]) -> Float[Tensor, "*batch"]:
    """Shape k of a generalised Pareto distribution fitted to the largest weights.

    Below 0.7 means of the weights can be trusted, beyond it not, and their error is too
    small. Weights of discrete routes repeat: those that exceed the cut-off count, so
    that ties with it (which ArviZ's PSIS refuses) do no harm. Without ties it is
    ArviZ's value.

    Args:
        log_weights: (S, *batch), unnormalised or not.

    Returns:
        (*batch,) k in float64; -inf where the largest fifth of the weights are alike
        (there is no tail), NaN where fewer than five exceed the cut-off.

    References:
        Vehtari, Simpson, Gelman, Yao, Gabry 2024, arXiv:1507.02646, section 3.1; the
        fit is that of Zhang and Stephens 2009 with a weak prior on k.
    """
    flat = log_weights.detach().double().cpu().flatten(1)
    shapes = [_shape(column) for column in flat.T]
    return torch.tensor(shapes, dtype=torch.double).reshape(log_weights.shape[1:])


def _shape(log_weights: Tensor) -> float:
    s = len(log_weights)
    n_tail = math.floor(min(s / 5, 3 * math.sqrt(s)))
    if n_tail < _LEAST_TAIL:
        return math.nan
    ordered = log_weights.sort().values
    ordered = ordered - ordered[-1]
    exceeding = ordered[-n_tail:].exp() - ordered[-n_tail - 1].exp()
    exceeding = exceeding[exceeding > 0]
    if not len(exceeding):
        return -math.inf
    return _fit(exceeding) if len(exceeding) >= _LEAST_TAIL else math.nan


def _fit(exceeding: Tensor) -> float:
    """k of sorted positive values by Zhang and Stephens's empirical Bayes."""
    n = len(exceeding)
    n_grid = 30 + int(math.sqrt(n))
    quarter = exceeding[int(n / 4 + 0.5) - 1]
    steps = torch.arange(1, n_grid + 1, dtype=torch.double) - 0.5
    grid = (1 - torch.sqrt(n_grid / steps)) / (3 * quarter) + 1 / exceeding[-1]
    k = torch.log1p(-grid.unsqueeze(-1) * exceeding).mean(-1)
    log_likelihood = n * (torch.log(-grid / k) - k - 1)
    slope = (grid * torch.softmax(log_likelihood, 0)).sum()
    shape = float(torch.log1p(-slope * exceeding).mean())
    return (n * shape + 10 * 0.5) / (n + 10)
