"""One run after another in this process."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from ..training_job import Job, Work
from .base import Backend, Ended, Pool, attempt


@dataclass(frozen=True)
class Serial(Backend):
    """One run after another in this process, on the threads that torch has."""

    def open(self, work: Work, *, progress: bool) -> AbstractContextManager[Pool]:
        """As :meth:`Backend.open`; there is nothing to make ready."""
        return nullcontext(_Here(work, progress))


class _Here(Pool):
    """This process as the only worker."""

    def __init__(self, work: Work, progress: bool) -> None:
        self._work, self._progress = work, progress
        self._jobs: list[Job] = []

    @property
    def n_workers(self) -> int:
        return 1

    def submit(self, job: Job) -> None:
        self._jobs.append(job)

    def collect(self) -> Ended:
        return attempt(self._work, self._jobs.pop(), progress=self._progress)
