"""Worker processes on this machine, each of which may die without the others."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from ..training_job import Job, Work
from .base import (
    Backend,
    Ended,
    Pool,
    WorkerDiedError,
    attempt_silently,
    check_workers,
)
from .sending import naming_what_cannot_be_sent, sendable

_WORK_FILE = "work.pt"
_GRACE = 5.0  # seconds in which a worker that said goodbye must be gone


@dataclass(frozen=True)
class Processes(Backend):
    """Fresh Python processes on this machine (``spawn``).

    The standard library's pools give up all their work when one worker dies; here the
    run of a worker that dies is begun again by another one. Each worker imports the
    library once (some seconds) and then trains run after run. Data are written to a
    temporary file once, which all workers map: they share its memory. Workers end when
    this process does, however it ends.

    Tables are those of ``serial``, bit for bit where that has as many threads
    (``torch.set_num_threads(1)``).

    Args:
        workers: How many; by default the processors that this process may use.
        threads: Threads of torch in each.
        retries: How often a run is begun again whose worker died.
    """

    workers: int | None = None
    threads: int = 1
    retries: int = 2

    def __post_init__(self) -> None:
        check_workers(self.workers, self.threads, self.retries)

    @contextmanager
    def open(self, work: Work, *, progress: bool) -> Iterator[Pool]:
        """As :meth:`Backend.open`: what is sent must be picklable."""
        n_workers = self.workers or _n_processors()
        with tempfile.TemporaryDirectory(prefix="latentroute-") as folder:
            file = Path(folder) / _WORK_FILE
            with naming_what_cannot_be_sent(work, pickle.dumps):
                torch.save(dict(work), file)
            pool = _Processes(n_workers, self.threads, file)
            try:
                yield pool
            finally:
                pool.end()


class _Worker:
    """A process, what connects us, and the job that it has."""

    def __init__(self, threads: int, file: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve,
            args=(theirs, threads, str(file), gc.get_threshold()),
            name="latentroute",
        )
        self.process.start()
        theirs.close()  # or its end would not be seen
        self.job: Job | None = None

    def end(self, grace: float = 0.0) -> int | None:
        """End the process, if it has not ended by itself; its exit code."""
        self.process.join(grace)
        self.process.kill()
        self.process.join()
        code = self.process.exitcode
        self.process.close()
        self.connection.close()
        return code


class _Processes(Pool):
    """The worker processes; those that die are replaced when there is work."""

    def __init__(self, n_workers: int, threads: int, file: Path) -> None:
        self._n_workers, self._threads, self._file = n_workers, threads, file
        self._workers: list[_Worker] = []
        self._any_was_ready = False

    @property
    def n_workers(self) -> int:
        return self._n_workers

    def submit(self, job: Job) -> None:
        free = [worker for worker in self._workers if worker.job is None]
        if not free:
            free = [_Worker(self._threads, self._file)]
            self._workers += free
        worker, message = free[0], pickle.dumps(job)
        worker.job = job
        try:
            worker.connection.send_bytes(message)
        except OSError:  # it died meanwhile, which collect() finds
            pass

    def collect(self) -> Ended:
        while True:
            busy = [worker for worker in self._workers if worker.job is not None]
            parts = {w.connection: w for w in busy}
            parts |= {w.process.sentinel: w for w in busy}  # type: ignore[misc]
            worker = parts[wait(list(parts))[0]]  # type: ignore[index]
            ended = self._heard(worker)
            if ended is not None:
                return ended

    def _heard(self, worker: _Worker) -> Ended | None:
        """What a worker says, or how it ended; None where it has only become ready."""
        job = worker.job
        assert job is not None
        try:
            if not worker.connection.poll():
                raise EOFError  # dead, and it said nothing
            said: _Ready | Ended = pickle.loads(worker.connection.recv_bytes())
        except (EOFError, OSError):
            return Ended(job, self._buried(worker))
        if isinstance(said, _Ready):
            if said.refused:
                raise RuntimeError(said.refused)
            self._any_was_ready = True
            return None
        worker.job = None
        return said

    def _buried(self, worker: _Worker) -> WorkerDiedError:
        """How a dead worker ended; it is one no more."""
        self._workers.remove(worker)
        how = _how(worker.end(_GRACE))
        if not self._any_was_ready:
            raise RuntimeError(
                f"a worker process {how} before it was ready (its own message is "
                "above): a script must call this under `if __name__ == '__main__':`"
            )
        return WorkerDiedError(f"its worker {how}")

    def end(self) -> None:
        """End all workers, whatever they do."""
        for worker in self._workers:
            worker.end()
        self._workers = []


@dataclass(frozen=True)
class _Ready:
    """A worker's first message: that it is there, or why it cannot work."""

    refused: str = ""


def _serve(
    connection: Connection[Any, Any],
    threads: int,
    file: str,
    collected_after: tuple[int, int, int],
) -> None:
    """What a worker process does: job after job until its parent is gone."""
    gc.set_threshold(*collected_after)  # as its parent has it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        # Our parent's own file, in a folder that only this user can write to.
        work = torch.load(file, mmap=True, weights_only=False)
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        refused = (
            f"a worker process cannot read what it is sent ({why}): what a notebook or "
            "the prompt defines must move to a module, or to backend 'ray'"
        )
        connection.send_bytes(pickle.dumps(_Ready(refused)))
        return
    connection.send_bytes(pickle.dumps(_Ready()))
    while True:
        try:
            job = pickle.loads(connection.recv_bytes())
        except EOFError:
            return
        connection.send_bytes(sendable(attempt_silently(work, job)))


def _end_with_parent() -> None:
    """End this process as soon as its parent has ended, in whatever way."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _how(code: int | None) -> str:
    """An exit code in words."""
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    cause = "; was memory short?" if -code == signal.SIGKILL else ""
    return f"was ended by the signal {name}{cause}"


def _n_processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
