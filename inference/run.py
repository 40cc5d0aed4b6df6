"""The steps of a training run, and what a checkpoint of it holds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checkpoint import load_checkpoint, save_checkpoint
from .objective import Objective
from .sampler import Sampler


@dataclass
class Run:
    """A training run: what a checkpoint holds, and one step of it.

    Args:
        objective: What is trained; a :class:`Sampler` moves itself.
        optimiser: Of its parameters.
        folder: For checkpoints, if any are wanted.
        settings: What a resumed run must agree in.
    """

    objective: Objective
    optimiser: torch.optim.Optimizer
    folder: Path | None
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        self.step = 0
        self.seconds = 0.0
        self.history: list[dict[str, Any]] = []

    def train(
        self,
        batches: Iterator[tuple[Tensor, Tensor | None, Tensor]],
        steps: int,
        *,
        measure_every: int,
        save_every: int,
        measure: Callable[[], dict[str, Any]],
        show: Callable[[dict[str, Any]], None],
    ) -> None:
        """Go on to step ``steps``.

        Raises:
            FloatingPointError: If the loss becomes NaN or infinite; names the step.
        """
        begun = time.perf_counter() - self.seconds
        while self.step < steps:
            self._update(*next(batches))
            last = self.step == steps
            if last or self.step % measure_every == 0:
                self.seconds = time.perf_counter() - begun
                with self._naming_nan():
                    measured = measure()
                self.history[-1] |= {"seconds": self.seconds, **measured}
            show(self.history[-1])
            if last or self.step % save_every == 0:
                self.seconds = time.perf_counter() - begun
                self._save()

    def _update(self, x: Tensor, y: Tensor | None, index: Tensor) -> None:
        self.step += 1
        if isinstance(self.objective, Sampler):
            value = self.objective.advance(x, y, index)
        else:
            value = self._descend(self.objective, x, y, index)
        self.history.append({"step": self.step, "loss": value})

    def _descend(
        self, objective: Objective, x: Tensor, y: Tensor | None, index: Tensor
    ) -> float:
        """One step of the optimiser; the loss before it."""
        self.optimiser.zero_grad()
        with self._naming_nan():
            loss = objective(x, y, index)
        value: float = loss.item()
        if not math.isfinite(value):
            raise self._diverged(f"the loss is {value}")
        loss.backward()
        self.optimiser.step()
        return value

    @contextmanager
    def _naming_nan(self) -> Iterator[None]:
        """Say the step where a distribution is not to be had of NaN."""
        try:
            yield
        except (ValueError, RuntimeError) as error:
            if not _refuses_nan(error):
                raise
            raise self._diverged("a distribution's parameters are NaN") from error

    def _diverged(self, what: str) -> FloatingPointError:
        return FloatingPointError(
            f"{what} at step {self.step}: try a smaller lr, and look at the model's "
            "log-probabilities"
        )

    def _save(self) -> None:
        if self.folder is None:
            return
        state = {
            "settings": self.settings,
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
            "objective": self.objective.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        save_checkpoint(self.folder, state)

    def resume(self) -> None:
        """Take up the folder's checkpoint, if there is one.

        Raises:
            ValueError: If there is no folder, or its checkpoint is of another run.
        """
        if self.folder is None:
            raise ValueError("resume=True needs checkpoint=, the folder to resume from")
        state = load_checkpoint(self.folder, self.settings)
        if state is None:
            return
        self.step, self.seconds = state["step"], state["seconds"]
        self.history = state["history"]
        try:
            self.objective.load_state_dict(state["objective"])
        except RuntimeError as error:
            raise ValueError(
                f"the checkpoint in {self.folder} is of another model: its parameters "
                "have other names or shapes"
            ) from error
        self.optimiser.load_state_dict(state["optimiser"])


def _refuses_nan(error: Exception) -> bool:
    """Whether a distribution refuses its parameters, or torch to sample from them."""
    text = str(error)
    return "nan" in text and (
        "found invalid values" in text or "probability tensor contains" in text
    )
