"""Baselines: what a score-function reward is compared with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..models.checks import check_count


class Advantage(NamedTuple):
    """Rewards less a baseline, detached, and what trains the baseline.

    Attributes:
        value: (S, N) advantages.
        loss: A scalar to add to the loss, or ``None``.
    """

    value: Float[Tensor, "samples examples"]
    loss: Float[Tensor, ""] | None


class BaselineState(nn.Module, ABC):
    """A baseline at work: what it has learned so far."""

    @abstractmethod
    def forward(self, reward: Float[Tensor, "samples examples"], x: Any) -> Advantage:
        """The advantages of detached rewards; x is what a learned baseline may see."""


class Baseline(ABC):
    """A choice of baseline; no choice biases the gradient."""

    least_samples: int = 1  # S that it needs

    @abstractmethod
    def start(self, x: Any) -> BaselineState:
        """The baseline before training, for inputs like x."""


@dataclass(frozen=True)
class NoBaseline(Baseline):
    """The reward itself: unbiased, and the noisiest."""

    def start(self, x: Any) -> BaselineState:
        """The baseline before training."""
        return _Nothing()


@dataclass(frozen=True)
class LeaveOneOut(Baseline):
    """The mean reward of an example's other samples; needs two.

    References:
        Kool, van Hoof, Welling 2019, Buy 4 REINFORCE samples, get a baseline for free.
    """

    least_samples = 2

    def start(self, x: Any) -> BaselineState:
        """The baseline before training."""
        return _LeaveOneOut()


@dataclass(frozen=True)
class MovingAverage(Baseline):
    """A decaying average of the mean rewards of past batches.

    One number for all examples (Pyro's is one for each position in the batch, which
    shuffled batches make meaningless).

    Args:
        decay: Weight of the past, in [0, 1).
    """

    decay: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {self.decay}")

    def start(self, x: Any) -> BaselineState:
        """The baseline before training."""
        return _MovingAverage(self.decay)


@dataclass(frozen=True)
class LearnedBaseline(Baseline):
    """A network of x, trained beside the model to predict the reward.

    Args:
        hidden_features: Width of its one hidden layer.

    References:
        Mnih, Gregor 2014, arXiv:1402.0030, section 2.3.1.
    """

    hidden_features: int = 32

    def __post_init__(self) -> None:
        check_count("hidden_features", self.hidden_features)

    def start(self, x: Any) -> BaselineState:
        """The baseline before training; x must be a tensor, examples first."""
        return _Learned(x[0].numel(), self.hidden_features).to(x)


def leave_one_out(reward: Float[Tensor, "samples *batch"]) -> Tensor:
    """Each sample's reward less the mean of the other samples'."""
    s = len(reward)
    return (reward - reward.mean(0, keepdim=True)) * (s / (s - 1))


class _Nothing(BaselineState):
    def forward(self, reward: Tensor, x: Any) -> Advantage:
        return Advantage(reward, None)


class _LeaveOneOut(BaselineState):
    def forward(self, reward: Tensor, x: Any) -> Advantage:
        return Advantage(leave_one_out(reward), None)


class _MovingAverage(BaselineState):
    mean: Tensor
    started: Tensor

    def __init__(self, decay: float) -> None:
        super().__init__()
        self._decay = decay
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def forward(self, reward: Tensor, x: Any) -> Advantage:
        advantage = reward - self.mean
        now = reward.mean().to(self.mean)
        past = torch.where(self.started, self.mean, now)
        self.mean = self._decay * past + (1 - self._decay) * now
        self.started = torch.ones_like(self.started)
        return Advantage(advantage, None)


class _Learned(BaselineState):
    def __init__(self, into: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(into, hidden), nn.Tanh(), nn.Linear(hidden, 1)
        )

    def forward(self, reward: Tensor, x: Any) -> Advantage:
        predicted = self.layers(x.flatten(1)).squeeze(-1)
        loss = (reward - predicted).square().mean()
        return Advantage(reward - predicted.detach(), loss)
