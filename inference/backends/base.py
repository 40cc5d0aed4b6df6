"""What a backend is: workers that take the runs of a comparison one by one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NamedTuple

from ...models.checks import check_count
from ..training_job import Job, Work
from .told import Told, keeping_warnings

if TYPE_CHECKING:
    from xarray import DataTree


class WorkerDiedError(RuntimeError):
    """A worker ended in the middle of a run; says how."""


class Ended(NamedTuple):
    """How a job ended.

    Attributes:
        job: The job.
        result: The run, or why there is none.
        told: Warnings that were kept, for the process that collects it to issue.
    """

    job: Job
    result: DataTree | Exception
    told: tuple[Told, ...] = ()


class Pool(ABC):
    """Workers between a backend's ``open`` and the end of its ``with`` block."""

    @property
    @abstractmethod
    def n_workers(self) -> int:
        """How many jobs may be under way at once."""

    @abstractmethod
    def submit(self, job: Job) -> None:
        """Give a free worker a job; there must be one."""

    @abstractmethod
    def collect(self) -> Ended:
        """Wait until a job that is under way has ended.

        Its result is a :class:`WorkerDiedError` where the worker, not the run, failed.

        Raises:
            RuntimeError: If no worker can be had at all.
        """


class Backend(ABC):
    """Where runs are trained. Concrete ones are frozen dataclasses of options.

    Attributes:
        retries: How often a run is begun again whose worker died.
    """

    retries: int = 0

    @abstractmethod
    def open(self, work: Work, *, progress: bool) -> AbstractContextManager[Pool]:
        """Make workers ready for jobs of this work, for a ``with`` block.

        Args:
            work: What jobs need besides themselves, by task.
            progress: Show how each run goes, where runs follow each other.

        Raises:
            TypeError: If the work cannot be sent to the workers.
            ModuleNotFoundError: If a package is missing.
        """


def attempt(work: Work, job: Job, *, progress: bool = False) -> Ended:
    """Train one run; what is wrong with it must not end the others."""
    try:
        return Ended(job, work[job.task](job, progress=progress))
    except Exception as error:
        return Ended(job, error)


def attempt_silently(work: Work, job: Job) -> Ended:
    """As :func:`attempt`, in a worker: its warnings come back with the run."""
    with keeping_warnings() as told:
        ended = attempt(work, job)
    return ended._replace(told=tuple(told))


def check_workers(workers: int | None, threads: int, retries: int) -> None:
    """Refuse counts that are none.

    Raises:
        ValueError: Names the count.
    """
    if workers is not None:
        check_count("workers", workers)
    check_count("threads", threads)
    check_count("retries", retries, least=0)
