"""Workers of a Ray cluster: many machines, or this one."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
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


@dataclass(frozen=True)
class RayCluster(Backend):
    """Tasks of Ray (extra ``ray``), each on a processor or more of some machine.

    Uses the Ray that the process is connected to; else connects to the cluster that
    ``address`` or the environment's ``RAY_ADDRESS`` names; else starts one on this
    machine, which ends with the ``with`` block. Every machine needs the library and
    the modules that the model is made from; a function of the script itself is sent
    along. Data are sent to each machine once. Only this process writes results.

    Args:
        workers: Runs under way at once; by default as many as the cluster has
            processors for, those that join later included.
        threads: Threads of torch, and processors reserved, of each run.
        retries: How often a run is begun again whose worker or machine died.
        address: Of the cluster, such as ``"first:6379"``, or ``"auto"``: that which
            this machine belongs to.
    """

    workers: int | None = None
    threads: int = 1
    retries: int = 2
    address: str | None = None

    def __post_init__(self) -> None:
        check_workers(self.workers, self.threads, self.retries)

    @contextmanager
    def open(self, work: Work, *, progress: bool) -> Iterator[Pool]:
        """As :meth:`Backend.open`; starts Ray where it does not run yet (seconds)."""
        ray = _imported()
        # Ray prints what it knows of a dead worker to stdout, which is for results.
        with redirect_stdout(sys.stderr), self._connected(ray):
            pool = _Tasks(ray, work, self.workers, self.threads)
            try:
                yield pool
            finally:
                pool.end()

    @contextmanager
    def _connected(self, ray: Any) -> Iterator[None]:
        """Be connected to a Ray; one that was not there before ends with the block."""
        if ray.is_initialized():
            yield
            return
        self._start(ray)
        try:
            yield
        finally:
            ray.shutdown()

    def _start(self, ray: Any) -> None:
        """Connect to a cluster, or start one here."""
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        if self.address or os.environ.get("RAY_ADDRESS"):
            ray.init(address=self.address, **quiet)
            return
        # Read by Ray when it starts: nothing is reported, and devices are not hidden.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        modules = os.pathsep.join(path for path in sys.path if path)
        ray.init(
            num_cpus=self.workers and self.workers * self.threads,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            runtime_env={"env_vars": {"PYTHONPATH": modules}},
            **quiet,
        )


class _Tasks(Pool):
    """Runs as Ray's tasks, which are retried by us and not by Ray: it would not say."""

    def __init__(self, ray: Any, work: Work, workers: int | None, threads: int) -> None:
        self._ray, self._workers, self._threads = ray, workers, threads
        with naming_what_cannot_be_sent(work, ray.cloudpickle.dumps):
            self._work = ray.put(dict(work))
        options = ray.remote(num_cpus=threads, max_retries=0)
        self._train = options(_train)
        self._jobs: dict[Any, Job] = {}

    @property
    def n_workers(self) -> int:
        if self._workers is not None:
            return self._workers
        processors = self._ray.cluster_resources().get("CPU", 1)
        return max(1, int(processors) // self._threads)

    def submit(self, job: Job) -> None:
        task = self._train.remote(self._work, job, self._threads)
        self._jobs[task] = job

    def collect(self) -> Ended:
        (task, *_), _ = self._ray.wait(list(self._jobs), num_returns=1)
        job = self._jobs.pop(task)
        errors = self._ray.exceptions
        try:
            ended: Ended = pickle.loads(self._ray.get(task))
            return ended
        except errors.RayTaskError as error:  # such as a module that is not there
            return Ended(job, RuntimeError(_sentence(error.cause or error)))
        except errors.RayError as error:
            return Ended(job, WorkerDiedError(f"its worker died ({_sentence(error)})"))

    def end(self) -> None:
        """End what is still under way."""
        for task in self._jobs:
            self._ray.cancel(task, force=True)


def _train(work: Work, job: Job, threads: int) -> bytes:
    """One run, in a worker; as bytes, since Ray's own arrays cannot be written to."""
    torch.set_num_threads(threads)
    return sendable(attempt_silently(work, job))


def _imported() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ModuleNotFoundError(
            "backend 'ray' needs Ray: pip install 'latentroute[ray]'"
        ) from error
    return ray


def _sentence(error: BaseException) -> str:
    """The first sentence of a message of Ray's, which go on for a page."""
    lines = str(error).strip().splitlines()
    return lines[0].partition(". ")[0] if lines else type(error).__name__
