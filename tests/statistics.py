"""Statistical tests with a stated rate of false alarms for the whole suite.

Every call says what it may cost: an upper bound of the probability that right code
fails it, were the seeds drawn anew. Calls add theirs to ``LEDGER``; the suite fails
where the sum exceeds ``SUITE_RATE``. Seeds are fixed, so right code that passes once
passes always.

Two kinds of test:

- *Unbiased gradients*: of n draws, the mean lies within 4 standard errors of
  the truth in at least 99% of coordinates, and its debiased squared bias is below 1% of
  ||g||^2. One attempt fails right code with probability at most D * 7e-5 (any
  coordinate beyond 4 standard errors, t with >= 249 degrees of freedom, union over the
  D coordinates) plus 0.001 (bias: the noise of the mean is asserted to be below a
  thousandth of ||g||^2, so its square would have to exceed eleven times its
  expectation: P(chi^2_1 > 11) = 9e-4). Up to 4 attempts with streams of their own must
  all fail before the test does: with D <= 150 at most (0.0115)^4 < 2e-8.
- *Frequencies and means*: each compared number may fail with probability 5e-10 (exact
  binomial tails; Student's t for means).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from scipy.stats import binom, t
from torch import Tensor

SUITE_RATE = 1e-6
COMPARISON_RATE = 5e-10
ATTEMPTS = 4


@dataclass
class Ledger:
    """What the tests that ran may cost in false alarms."""

    entries: list[float] = field(default_factory=list)

    def spend(self, rate: float) -> None:
        self.entries.append(rate)

    @property
    def total(self) -> float:
        return sum(self.entries)


LEDGER = Ledger()


class Verdict(NamedTuple):
    """What one attempt says about an estimator."""

    unbiased: bool
    far: float  # share of coordinates beyond 4 standard errors
    squared_bias: float  # debiased, relative to ||g||^2
    noise: float  # of the mean, relative to ||g||^2


def judge(draws: Tensor, truth: Tensor) -> Verdict:
    """The criterion above on (n, D) draws, or means of as many draws each."""
    n = len(draws)
    assert n >= 250, "too few to trust the standard errors"
    mean, variance = draws.mean(0), draws.var(0)
    error = (variance / n).sqrt()
    # Coordinates without noise must be right up to rounding.
    rounding = 1e-9 * truth.abs().max()
    far = ((mean - truth).abs() > 4 * error + rounding).double().mean().item()
    size = truth.square().sum().item()
    noise = (variance / n).sum().item() / size
    squared_bias = (mean - truth).square().sum().item() / size - noise
    return Verdict(far <= 0.01 and squared_bias < 0.01, far, squared_bias, noise)


def assert_unbiased(draw: Callable[[int], Tensor], truth: Tensor) -> None:
    """Fail where the mean of the draws is not the truth in any of 4 attempts.

    Args:
        draw: From a seed, (n, D) draws, n >= 250; streams of different seeds are
            independent.
        truth: (D,).
    """
    n, verdicts = 0, []
    for attempt in range(ATTEMPTS):
        draws = draw(1000 + attempt)
        n = len(draws)
        verdict = judge(draws, truth)
        assert verdict.noise < 1e-3, f"too noisy to tell: {verdict}; take more draws"
        verdicts.append(verdict)
        if verdict.unbiased:
            break
    once = truth.numel() * 2 * float(t.sf(4, n - 1)) + 1e-3
    LEDGER.spend(once**ATTEMPTS)
    assert verdicts[-1].unbiased, f"biased: {verdicts}"


def assert_frequencies(drawn: Tensor, probs: Tensor) -> None:
    """Fail where counts of independent draws do not follow their probabilities.

    Args:
        drawn: (draws,) whole numbers, or (draws, N): N tables.
        probs: (cells,) or (N, cells).
    """
    drawn, probs = drawn.reshape(len(drawn), -1), probs.reshape(-1, probs.shape[-1])
    n, cells = len(drawn), probs.shape[-1]
    for column, p in zip(drawn.T, probs, strict=True):
        counts = torch.bincount(column, minlength=cells)
        assert len(counts) == cells, f"a draw out of range: {column.max()}"
        for count, chance in zip(counts.tolist(), p.tolist(), strict=True):
            # Rounding must make no impossible event of one that is nearly so.
            chance = min(max(chance, 0.0), 1.0)
            tail = min(binom.cdf(count, n, chance), binom.sf(count - 1, n, chance), 0.5)
            LEDGER.spend(COMPARISON_RATE)
            assert tail > COMPARISON_RATE / 2, (
                f"{count} of {n} where {chance:.4g} was expected"
            )


def assert_mean(draws: Tensor, expected: Tensor) -> None:
    """Fail where the means of independent draws (n, ...) are not as expected."""
    n = len(draws)
    error = (draws.var(0) / n).sqrt()
    z = (draws.mean(0) - expected) / error.clamp_min(1e-12)
    for _ in range(z.numel()):
        LEDGER.spend(COMPARISON_RATE)
    most = float(t.isf(COMPARISON_RATE / 2, n - 1))
    assert (z.abs() < most).all(), f"z = {z}"
