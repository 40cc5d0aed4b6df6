"""How a training run is spread over processes; one process is the plain case."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from .objective import Objective
from .training_data import Batch


class Team(ABC):
    """The processes of a run while it lasts: all that a training loop asks of them.

    Attributes:
        rank: Number of this process, from 0.
        size: How many there are.
        device: Where this one has the model and its part of a batch.
        scales_loss: Whether gradients overflow now and then, and such steps are left
            out, as in 16 bits.
    """

    rank: int = 0
    size: int = 1
    device: torch.device
    scales_loss: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    @abstractmethod
    def prepare(
        self, objective: Objective, optimiser: torch.optim.Optimizer, example: Any
    ) -> torch.optim.Optimizer:
        """Take up what is to be trained; the optimiser to step with.

        Args:
            objective: The same in every process.
            optimiser: Of its parameters.
            example: The arguments ``(x, y, index)`` of a few examples.

        Raises:
            ValueError: If the objective cannot be split.
        """

    @abstractmethod
    def part(self, rows: Int[Tensor, " batch"]) -> tuple[Int[Tensor, " part"], float]:
        """The rows of a batch that this process takes.

        Returns:
            The rows, at least one, and their share: how much their mean counts in the
            mean of all processes' means.
        """

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """The objective's loss of this process's part of a batch."""

    @abstractmethod
    def mean(self, loss: Tensor, batch: Batch) -> float:
        """The loss of the whole batch, the same number in every process."""

    @abstractmethod
    def backward(self, loss: Tensor, batch: Batch) -> None:
        """Leave in ``.grad`` the gradient of the whole batch's loss."""

    @abstractmethod
    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any process."""

    @abstractmethod
    def collect(self) -> list[dict[str, Tensor]]:
        """Make what is kept of each example whole in every process.

        Returns:
            What each process has of its own, for :meth:`restore`.
        """

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Run the ``with`` block in the main process before it runs in the others."""
        yield

    @abstractmethod
    def restore(self, own: list[dict[str, Tensor]], step: int) -> None:
        """Go on from a checkpoint that the objective has taken up.

        Args:
            own: What :meth:`collect` gave.
            step: Of the run.

        Raises:
            ValueError: If the processes stand at different steps.
        """


class Strategy(ABC):
    """A choice of how to spread a run over processes: a value, as a method is."""

    @property
    @abstractmethod
    def is_main(self) -> bool:
        """Whether this process is the one that writes files."""

    @abstractmethod
    def processes(self, device: torch.device) -> AbstractContextManager[Team]:
        """The processes, for the time of a run.

        Args:
            device: Where the model is.
        """


@dataclass(frozen=True)
class SingleProcess(Strategy):
    """This process alone, whatever started it."""

    is_main: ClassVar[bool] = True

    @contextmanager
    def processes(self, device: torch.device) -> Iterator[Team]:
        """This process."""
        yield OneProcess(device)


class OneProcess(Team):
    """A run in this process: every batch whole, nothing to tell anybody."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._objective: Objective | None = None

    def prepare(
        self, objective: Objective, optimiser: torch.optim.Optimizer, example: Any
    ) -> torch.optim.Optimizer:
        """Any objective will do."""
        self._objective = objective
        return optimiser

    def part(self, rows: Tensor) -> tuple[Tensor, float]:
        """All rows."""
        return rows, 1.0

    def loss(self, batch: Batch) -> Tensor:
        """The loss."""
        assert self._objective is not None
        loss: Tensor = self._objective(batch.x, batch.y, batch.rows)
        return loss

    def mean(self, loss: Tensor, batch: Batch) -> float:
        """The loss as a number."""
        return float(loss.item())

    def backward(self, loss: Tensor, batch: Batch) -> None:
        """The plain backward pass."""
        loss.backward()

    def any(self, flag: bool) -> bool:
        """The flag."""
        return flag

    def collect(self) -> list[dict[str, Tensor]]:
        """There is nothing to bring together."""
        return []

    def restore(self, own: list[dict[str, Tensor]], step: int) -> None:
        """The objective's own state is all there is."""
