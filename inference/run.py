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
from .divergence import (
    CURE,
    Diverged,
    Moment,
    bad_gradients,
    bad_parameters,
    diverged,
    finite_gradients,
)
from .divergence import FILE_NAME as DIVERGED_NAME
from .history import History
from .metrics import Metrics
from .objective import Objective
from .sampler import Sampler
from .signals import Stopped
from .strategy import Team
from .training_data import Batch


@dataclass
class Run:
    """A training run: what a checkpoint holds, and one step of it.

    Args:
        objective: What is trained; a :class:`Sampler` moves itself.
        optimiser: Of its parameters.
        folder: For checkpoints, if any are wanted.
        settings: What a resumed run must agree in.
        metrics: Where what is measured is written.
        team: The processes that take part, of which one writes files.
    """

    objective: Objective
    optimiser: torch.optim.Optimizer
    folder: Path | None
    settings: dict[str, Any]
    metrics: Metrics
    team: Team

    def __post_init__(self) -> None:
        self.step = 0
        self.seconds = 0.0
        self.history = History()

    def train(
        self,
        batches: Iterator[Batch],
        steps: int,
        *,
        measure_every: int,
        save_every: int,
        measure: Callable[[], dict[str, Any]],
        show: Callable[[dict[str, Any]], None],
        stop: Callable[[], bool],
    ) -> None:
        """Go on to step ``steps``, or until ``stop`` says so after a step.

        Raises:
            Diverged: If the loss becomes NaN or infinite; names step, site and method.
            Stopped: If ``stop`` says so, once all is saved.
        """
        begun = time.perf_counter() - self.seconds
        self.history.reserve(steps)
        self.metrics.begin(self.step)
        while self.step < steps:
            self._update(next(batches))
            last = self.step == steps
            if last or self.step % measure_every == 0:
                self.seconds = time.perf_counter() - begun
                with self._naming_nan():
                    measured = measure()
                self.history.measure({"seconds": self.seconds, **measured})
                self.metrics.write(self.history[-1])
            show(self.history[-1])
            stopped = stop()
            if last or stopped or self.step % save_every == 0:
                self.seconds = time.perf_counter() - begun
                self._save(ended=last)
            if stopped:
                raise Stopped(
                    f"SIGTERM: saved step {self.step} of {steps} in {self.folder}; "
                    "resume it to go on"
                )

    def _update(self, batch: Batch) -> None:
        self.step += 1
        objective, rows = self.objective, (batch.x, batch.y, batch.rows)
        if isinstance(objective, Sampler):
            self._moment = Moment(rows, {})
            value = self._advance(objective, *rows)
        else:
            self._moment = Moment(rows, objective.get_extra_state())
            value = self._descend(batch)
        self.history.append(value)

    def _advance(
        self, objective: Sampler, x: Tensor, y: Tensor | None, index: Tensor
    ) -> float:
        """One step of an objective that moves itself; the loss where it ends."""
        try:
            return objective.advance(x, y, index)
        except FloatingPointError as error:
            what, _, cure = str(error).partition(": ")
            raise self._diverged(what, cure=cure or CURE) from error

    def _descend(self, batch: Batch) -> float:
        """One step of the optimiser; the loss before it."""
        self.optimiser.zero_grad()
        with self._naming_nan():
            loss = self.team.loss(batch)
        value = self.team.mean(loss, batch)
        if not math.isfinite(value):
            here = not torch.isfinite(loss)  # not in another process's part alone
            raise self._diverged(f"the loss is {value}", saves=here)
        self.team.backward(loss, batch)
        self._check_gradient()
        self.optimiser.step()
        return value

    def _check_gradient(self) -> None:
        """Stop before a gradient spoils the parameters, as Adam never mends them."""
        groups = self.optimiser.param_groups
        trained = [p for group in groups for p in group["params"]]
        if self.team.scales_loss or finite_gradients(trained):
            return
        raise self._diverged(f"{bad_gradients(self.objective)} not finite")

    @contextmanager
    def _naming_nan(self) -> Iterator[None]:
        """Say the step where a distribution is not to be had of NaN."""
        try:
            yield
        except (ValueError, RuntimeError) as error:
            if not _refuses_nan(error):
                raise
            raise self._diverged("a distribution's parameters are NaN") from error

    def _diverged(self, what: str, cure: str = CURE, *, saves: bool = True) -> Diverged:
        rank = self.team.rank
        return diverged(
            what,
            self.objective,
            self._moment,
            step=self.step,
            method=self.settings["method"].partition("(")[0],
            folder=self.folder if saves else None,
            name=f"diverged.{rank}.pt" if rank else DIVERGED_NAME,
            cure=cure,
        )

    def _save(self, *, ended: bool) -> None:
        own = self.team.collect()
        if self.folder is None:
            return
        if bad_parameters(self.objective):
            raise self._diverged("the step left a parameter that is not finite")
        if not self.team.is_main:
            return
        self.metrics.sync()
        state = {
            "settings": self.settings,
            "step": self.step,
            "ended": ended,
            "seconds": self.seconds,
            "history": self.history.state(),
            "objective": self.objective.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "processes": own,
        }
        save_checkpoint(self.folder, state)

    def resume(self) -> None:
        """Take up the folder's checkpoint, if there is one.

        Raises:
            ValueError: If there is no folder, or its checkpoint is of another run.
        """
        if self.folder is None:
            raise ValueError("resume=True needs checkpoint=, the folder to resume from")
        with self.team.main_first():
            state = load_checkpoint(self.folder, self.settings)
        if state is None:
            self.team.restore([], 0)
            return
        try:
            self.objective.load_state_dict(state["objective"])
            self.optimiser.load_state_dict(state["optimiser"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise ValueError(
                f"the checkpoint in {self.folder} is of another model: its parameters "
                "have other names or shapes"
            ) from error
        self.step, self.seconds = state["step"], state["seconds"]
        self.history.restore(state["history"])
        self.team.restore(state.get("processes", []), self.step)


def _refuses_nan(error: Exception) -> bool:
    """Whether a distribution refuses its parameters, or torch to sample from them."""
    text = str(error)
    return "nan" in text and (
        "found invalid values" in text or "probability tensor contains" in text
    )
