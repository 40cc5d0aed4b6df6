"""What an objective is whose tensors are drawn and not descended."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor

from .objective import Objective


class Sampler(Objective):
    """An objective that moves its tensors itself, towards draws of their posterior.

    ``fit`` calls :meth:`begin` once and :meth:`advance` at each step, on all the data
    in their own order, and leaves the optimiser aside. Called, it is a differentiable
    loss like any other.
    """

    @abstractmethod
    def begin(self, n_steps: int) -> None:
        """Say how many steps the whole run has, resumed parts included."""

    @abstractmethod
    def advance(self, x: Any, y: Any = None, index: Tensor | None = None) -> float:
        """One step on all data.

        Returns:
            The loss where it ends.

        Raises:
            FloatingPointError: If there is no way on.
        """
