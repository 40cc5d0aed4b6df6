"""Data parallelism under torchrun: torch's own DistributedDataParallel."""

from __future__ import annotations

import itertools
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from ..launched import n_processes, rank
from .distributed import ManyProcesses
from .strategy import SingleProcess, Strategy, Team

# How gloo says it; nccl has a class of errors.
_LOST = ("by peer", "Broken pipe", "Timed out waiting")
_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# torchrun's store is never emptied, by a restart neither: each group has its own keys.
_OPENED = itertools.count()


@dataclass(frozen=True)
class DataParallel(Strategy):
    r"""Each process takes a part of every batch; gradients are averaged.

    .. math::
        \nabla \frac1B \sum_{n=1}^B \ell_n = \sum_r \frac{B_r}{B}\,
        \nabla \frac1{B_r} \sum_{n \in r} \ell_n

    so that training is that of one process with the same batches: the same losses and
    weights, up to rounding, where nothing is drawn, and the same on average where each
    process draws from a stream of its own. Regularisers are computed of the whole
    batch. What a method keeps of each example (a buffer of routes, a table) is split by
    example and made whole for checkpoints and at the end. Batch-wide steps that are not
    gathered see their own part, as a smaller batch: balanced E-steps, a moving-average
    baseline, batch normalisation.

    Start the same script in each process by ``torchrun``, the model on a device of its
    own; parameters start as those of process 0. Cost: the gradient's size and three
    numbers are sent at each step.

    Args:
        backend: As ``torch.distributed.init_process_group`` takes it; ``None``: gloo,
            and nccl for what is on a GPU. Not used where a group is open already.
        timeout: Seconds that one process waits for another.
    """

    backend: str | None = None
    timeout: float = 1800.0

    def __post_init__(self) -> None:
        if not self.timeout > 0:
            raise ValueError(f"timeout must be positive, got {self.timeout}")

    @property
    def is_main(self) -> bool:
        """Whether this is process 0."""
        return _rank() == 0

    @contextmanager
    def processes(self, device: torch.device) -> Iterator[Team]:
        """The processes; a group that is not open is opened, and closed again.

        Raises:
            ValueError: If torchrun did not start this process.
            RuntimeError: If another process is gone.
        """
        opened = not dist.is_initialized()
        if opened:
            self._open(device)
        team = ManyProcesses(device, wrap=_wrap, backward=Tensor.backward)
        try:
            with naming_loss():
                team.wait()  # nobody leaves while others are still joining
                yield team
                team.wait()  # no file is half written when anybody goes on
        except BaseException as error:
            _forget_frames(error)
            raise
        finally:
            # A wrapper that outlives its group waits, when it is freed, for threads
            # that wait for Python's lock, which it has (torch 2.13).
            team.close()
            if opened:
                dist.destroy_process_group()

    def _open(self, device: torch.device) -> None:
        missing = [name for name in _NEEDED if name not in os.environ]
        if missing:
            raise ValueError(
                f"DataParallel runs in processes that torchrun starts, which sets "
                f"{', '.join(missing)}: torchrun --standalone --nproc-per-node 2 SCRIPT"
            )
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        store, number, size = next(rendezvous("env://"))
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)
        dist.init_process_group(
            self.backend or backend,
            store=PrefixStore(f"latentroute/{attempt}/{next(_OPENED)}", store),
            rank=number,
            world_size=size,
            timeout=timedelta(seconds=self.timeout),
        )


def default_strategy() -> Strategy:
    """Data parallel where there are several processes, else this one alone.

    Torchrun says so in the environment; another launcher by an open process group.
    """
    many = n_processes() > 1 or (dist.is_initialized() and dist.get_world_size() > 1)
    return DataParallel() if many else SingleProcess()


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else rank()


def _forget_frames(error: BaseException | None) -> None:
    """Empty the frames of an error and its causes, which would keep the wrapper."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


@contextmanager
def naming_loss() -> Iterator[None]:
    """Say in one line that another process is gone, which torch says in many ways."""
    try:
        yield
    except RuntimeError as error:
        lost = any(words in str(error) for words in _LOST)
        if not lost and not isinstance(error, dist.DistError):
            raise
        raise RuntimeError(
            f"process {_rank()} lost another process of this run, "
            "whose own message says why; go on from the last checkpoint"
        ) from error


def _wrap(
    module: nn.Module, optimiser: torch.optim.Optimizer
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Wrapped so that nobody waits for a gradient that there is none of."""
    return DistributedDataParallel(module, find_unused_parameters=True), optimiser
