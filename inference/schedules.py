"""Schedules: a number that changes with the step, as a value."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Constant:
    """The same number at every step.

    Args:
        value: The number.
    """

    value: float

    def __call__(self, step: int) -> float:
        """The number at a step."""
        return self.value


@dataclass(frozen=True)
class Linear:
    """From ``start`` to ``end`` in equal differences over ``steps`` steps.

    Args:
        start: At step 0.
        end: From step ``steps`` on.
        steps: How many steps it takes, at least 1.
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        _check_steps(self.steps)

    def __call__(self, step: int) -> float:
        """The number at a step."""
        done = min(step / self.steps, 1.0)
        return self.start + (self.end - self.start) * done


@dataclass(frozen=True)
class Exponential:
    """From ``start`` to ``end`` in equal ratios over ``steps`` steps.

    Args:
        start: At step 0, positive.
        end: From step ``steps`` on, positive.
        steps: How many steps it takes, at least 1.
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        _check_steps(self.steps)
        if min(self.start, self.end) <= 0:
            raise ValueError(
                f"start and end must be positive, got {self.start} and {self.end}"
            )

    def __call__(self, step: int) -> float:
        """The number at a step."""
        done = min(step / self.steps, 1.0)
        return self.start * math.exp(math.log(self.end / self.start) * done)


Schedule = Constant | Linear | Exponential


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
