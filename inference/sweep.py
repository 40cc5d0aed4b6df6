"""A list of independent runs, trained by workers of which any may die."""

from __future__ import annotations

import sys
import time
import traceback
import warnings
from collections import Counter, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .backends.base import Backend, Ended, Pool, WorkerDiedError
from .backends.told import Told
from .sweep_folder import SweepFolder
from .training_job import Job, Work, empty_run

if TYPE_CHECKING:
    from xarray import DataTree


def train_all(
    work: Work,
    jobs: Sequence[Job],
    backend: Backend,
    *,
    folder: SweepFolder | None = None,
    progress: bool = False,
) -> dict[str, DataTree]:
    """Train every job once.

    A run whose worker died is begun again, after the others, up to the backend's
    ``retries``; this is told, and the run gets the attribute ``deaths``. A run that
    raised an error, or whose worker died too often, becomes a node with the attribute
    ``error``, which is told, too.

    Args:
        work: What jobs need besides themselves, by task.
        jobs: Jobs of different names.
        backend: Who trains.
        folder: Gets each run as soon as it is there, and has those that were there;
            not those that raised an error, which a restarted sweep tries again.
        progress: Show progress on stderr; told is there then, else by warnings.

    Returns:
        A tree each job, by its name, in the order of the jobs.

    Raises:
        Exception: The first run's error, if every run raised one.
        RuntimeError: If no worker can be had.
        TypeError: If the work cannot be sent to the workers.
    """
    sweep = _Sweep(jobs, backend.retries, folder, progress)
    if sweep.waiting:
        with backend.open(work, progress=progress) as pool:
            sweep.train(pool)
    return {job.name: sweep.found[job.name] for job in jobs}


class _Sweep:
    """The state of a sweep: what waits, what is there, who died."""

    def __init__(
        self,
        jobs: Sequence[Job],
        retries: int,
        folder: SweepFolder | None,
        progress: bool,
    ) -> None:
        self._folder, self._progress, self._retries = folder, progress, retries
        self._n_jobs = len(jobs)
        self._tasks = {job.task for job in jobs}
        self.found: dict[str, DataTree] = folder.finished(jobs) if folder else {}
        self._any_finished = bool(self.found)
        self.waiting = deque(job for job in jobs if job.name not in self.found)
        self._begun: dict[str, float] = {}
        self._told: set[Told] = set()
        self._deaths: Counter[str] = Counter()
        if self.found:
            self._show(f"{len(self.found)} of {self._n_jobs} were done before")

    def train(self, pool: Pool) -> None:
        """Train what waits."""
        under_way, first_error = 0, None
        while self.waiting or under_way:
            while self.waiting and under_way < pool.n_workers:
                job = self.waiting.popleft()
                self._begin(job)
                pool.submit(job)
                under_way += 1
            ended = self._warned(pool.collect())
            under_way -= 1
            if not isinstance(ended.result, Exception):
                self._keep(ended.job, ended.result)
            elif not self._again(ended.job, ended.result):
                first_error = first_error or ended.result
                self._give_up(ended.job, ended.result)
        if first_error and not self._any_finished:
            raise first_error

    def _begin(self, job: Job) -> None:
        self._begun[job.name] = time.perf_counter()
        known = len(self.found) + len(self._begun)
        self._show(f"[{known}/{self._n_jobs}] {self._title(job)}")
        self._note("started", job)

    def _warned(self, ended: Ended) -> Ended:
        """Issue what a worker's run warned of; the same words are told of one run.

        Where the filters make an error of a warning, it is the run's, as it would be
        in one process: it must not end the others.
        """
        for told in ended.told:
            if told in self._told:
                continue
            try:
                told.issue(self._title(ended.job))
            except Warning as error:
                return ended._replace(result=type(error)(told.text))
            self._told.add(told)
        return ended

    def _keep(self, job: Job, tree: DataTree) -> None:
        """A run is there."""
        seconds = time.perf_counter() - self._begun.pop(job.name)
        if self._deaths[job.name]:
            tree.attrs["deaths"] = self._deaths[job.name]
        if self._folder:
            self._folder.save(job, tree)
        self.found[job.name] = tree
        self._any_finished = True
        self._note("finished", job, seconds=round(seconds, 3))
        done = f"{len(self.found)} of {self._n_jobs} done"
        self._show(f"{self._title(job)}: {seconds:.1f} s ({done})")

    def _again(self, job: Job, error: Exception) -> bool:
        """Whether the run is to be begun again: its worker is to blame, or chance."""
        if not isinstance(error, WorkerDiedError):
            return False
        self._deaths[job.name] += 1
        deaths = self._deaths[job.name]
        self._note("died", job, why=str(error))
        if deaths > self._retries:
            return False
        self._tell(
            f"{self._title(job)}: {error}; it is begun again ({deaths} of at most "
            f"{self._retries} times)"
        )
        del self._begun[job.name]
        self.waiting.append(job)  # the last ones run with fewer beside them
        return True

    def _give_up(self, job: Job, error: Exception) -> None:
        """A run is not to be had: the others go on."""
        why = " ".join(str(error).split())
        if isinstance(error, WorkerDiedError):
            why = f"{why}, {self._deaths[job.name]} times"
        else:
            why = f"{type(error).__name__}: {why}"
        del self._begun[job.name]
        attrs = {**job.attrs, "error": why}
        if self._deaths[job.name]:
            attrs["deaths"] = self._deaths[job.name]
        self.found[job.name] = empty_run(attrs)
        lines = "".join(traceback.format_exception(error))
        self._note("failed", job, why=why, traceback=lines)
        self._tell(f"{self._title(job)} failed: {why}")

    def _title(self, job: Job) -> str:
        task = f"{job.task}, " if len(self._tasks) > 1 else ""
        return f"{task}{job.label}, seed {job.seed}"

    def _note(self, event: str, job: Job, **more: object) -> None:
        if self._folder:
            self._folder.note(event, job, **more)

    def _show(self, line: str) -> None:
        if self._progress:
            print(line, file=sys.stderr, flush=True)

    def _tell(self, line: str) -> None:
        """What must be known even where no progress is shown."""
        self._show(line)
        if not self._progress:
            warnings.warn(line, RuntimeWarning, stacklevel=2)
