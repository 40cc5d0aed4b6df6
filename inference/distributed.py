"""A run over several processes: batches split, gradients and buffers brought together.

Every process makes the same calls in the same order, so each of them meets its like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .objective import Objective
from .sampler import Sampler
from .strategy import Team
from .training_data import Batch

Wrap = Callable[
    [nn.Module, torch.optim.Optimizer], tuple[nn.Module, torch.optim.Optimizer]
]

_STREAM = "random stream"  # no buffer's name: those have no space


class ManyProcesses(Team):
    """A run over the processes of torch's default group; over one where there is none.

    The batch is that of one process and its rows are dealt out: as evenly as they go,
    or, where something is kept of each example, every example to a process of its own.
    Parts of unequal size count by their examples. A process without any takes one that
    is another's and counts it zero, so that all do the same.

    Args:
        device: Where this process has the model.
        wrap: Makes a module and its optimiser average gradients over processes.
        backward: The backward pass that goes with it.
    """

    def __init__(
        self, device: torch.device, *, wrap: Wrap, backward: Callable[[Tensor], None]
    ) -> None:
        self.device = device
        self.rank, self.size = 0, 1
        if dist.is_initialized():
            self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._wrap, self._backward = wrap, backward
        self._share = 1.0
        self._checked = False
        self._module: nn.Module = nn.Identity()

    def wait(self) -> None:
        """Go on when all processes are here."""
        self._total(torch.zeros((), device=self.device))

    def close(self) -> None:
        """Let go of the wrapped objective: before the group goes, not after."""
        self._module = nn.Identity()

    def prepare(
        self, objective: Objective, optimiser: torch.optim.Optimizer, example: Any
    ) -> torch.optim.Optimizer:
        """Wrap the objective; the random numbers of each process are its own.

        Raises:
            ValueError: If the objective is a sampler, or static sites couple the
                examples.
        """
        if self.size > 1:
            _check_splits(objective, example)
        self._objective = objective
        self._by_example = bool(_row_buffers(objective))
        self._trained = [id(p) for p in objective.parameters()]
        self._module, optimiser = self._wrap(_Wrapped(objective), optimiser)
        for value in _own_buffers(objective).values():
            value.copy_(self._of(0, value))  # parameters were, by the wrapper
        _take_own_stream(objective, self.rank, self.size)
        return optimiser

    def part(self, rows: Tensor) -> tuple[Tensor, float]:
        """Rows ``n`` with ``n % size == rank``, or the rank's stretch of them."""
        if self._by_example:
            mine = rows[rows % self.size == self.rank]
        else:
            mine = rows.tensor_split(self.size)[self.rank]
        return (mine if len(mine) else rows[:1]), self.size * len(mine) / len(rows)

    def loss(self, batch: Batch) -> Tensor:
        """The loss of this process's part.

        Raises:
            ValueError: If the objective made parameters that nobody averages.
        """
        self._share = batch.share
        with self._objective.gathering(self._gather):
            loss: Tensor = self._module(batch.x, batch.y, batch.rows)
        if not self._checked:
            self._check_parameters()
            self._checked = True
        return loss

    def mean(self, loss: Tensor, batch: Batch) -> float:
        """The loss of the whole batch."""
        return self._total(loss.detach() * (batch.share / self.size))

    def backward(self, loss: Tensor, batch: Batch) -> None:
        """The gradient of the whole batch."""
        self._backward(loss * batch.share)

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any process."""
        return self._total(torch.tensor(float(flag), device=self.device)) > 0

    def collect(self) -> list[dict[str, Tensor]]:
        """Give every process the rows of each buffer as their owner has them."""
        self._check_parameters()
        for values in _row_buffers(self._objective):
            for rank in range(self.size):
                rows = slice(rank, None, self.size)
                if len(values[rows]):
                    values[rows] = self._of(rank, values[rows])
        own = _own_state(self._objective)
        return [
            {name: self._of(rank, value) for name, value in own.items()}
            for rank in range(self.size)
        ]

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Run the ``with`` block in process 0, then in the others."""
        if not self.is_main:
            self.wait()
        try:
            yield
        finally:
            if self.is_main:
                self.wait()

    def restore(self, own: list[dict[str, Tensor]], step: int) -> None:
        """Take up this process's own state, or begin one of a changed number.

        Raises:
            ValueError: If the processes stand at different steps.
        """
        if self.any(step != int(self._of(0, torch.tensor(step)))):
            raise ValueError(
                f"process {self.rank} goes on from step {step}, and not all do: the "
                "checkpoint's folder must be one that all of them see"
            )
        if len(own) == self.size:
            _put_own_state(self._objective, own[self.rank])
        elif step:
            _take_own_stream(self._objective, self.rank, self.size)

    def _total(self, value: Tensor) -> float:
        total = value.double()
        if self.size > 1:
            dist.all_reduce(total)
        return float(total)

    def _of(self, rank: int, value: Tensor) -> Tensor:
        """A process's value, where this one has its own."""
        theirs = value.to(self.device, copy=True).contiguous()
        if self.size > 1:
            # As bytes: neither gloo nor nccl sends int16, as buffers of routes may be.
            dist.broadcast(theirs.view(-1).view(torch.uint8), rank)
        return theirs.to(value.device)

    def _gather(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Rows of all processes' parts, in order; the gradient is that of our own.

        Gradients are averaged by examples afterwards: what is a function of all rows,
        and so the same everywhere, must give each process n / n_own of its part.
        """
        if self.size == 1:
            return list(values)
        widths = [each.shape[-1] for each in values]
        rows = torch.cat(list(values), -1)
        if not self._share:  # the rows are another's
            rows = rows[:0]
        n_rows = torch.zeros(self.size, dtype=torch.long, device=rows.device)
        n_rows[self.rank] = len(rows)
        dist.all_reduce(n_rows)
        padded = rows.new_zeros(int(n_rows.max()), rows.shape[-1])
        padded[: len(rows)] = rows.detach()
        copies = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(copies, padded)
        parts = [copy[:n] for copy, n in zip(copies, n_rows.tolist(), strict=True)]
        if len(rows):
            parts[self.rank] = _scale_gradient(rows, float(n_rows.sum()) / len(rows))
        return list(torch.cat(parts).split(widths, -1))

    def _check_parameters(self) -> None:
        now = [id(p) for p in self._objective.parameters()]
        if now != self._trained:
            raise ValueError(
                f"the objective has {len(now)} parameters, and had "
                f"{len(self._trained)} when training began: processes share those "
                "alone; make all of them before, by calling the model once"
            )


class _Wrapped(nn.Module):
    """An objective as DistributedDataParallel is to see it.

    A parameter takes no part: torch looks for such ones, as a routed model has them at
    every other step, and would warn where there are none. Buffers are not shown, for
    torch would put process 0's in place of each process's own.
    """

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective
        device = next(objective.parameters()).device
        self.unused = nn.Parameter(torch.zeros((), device=device))

    def forward(self, x: Any, y: Any, index: Tensor) -> Tensor:
        """The objective's loss."""
        loss: Tensor = self.objective(x, y, index)
        return loss

    def named_buffers(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Tensor]]:
        """None."""
        return iter(())


def _check_splits(objective: Objective, example: Any) -> None:
    if isinstance(objective, Sampler):
        raise ValueError(
            "this method moves its weights itself, on all the data at once: it runs in "
            "one process, got several; start it without torchrun"
        )
    static = objective.structure(*example).static_sites
    if static:
        raise ValueError(
            f"the routing site {static[0].name!r} is static and couples all examples, "
            "whose loss is then no mean over the processes' parts: start it in one "
            "process, without torchrun"
        )


def _row_buffers(objective: Objective) -> list[Tensor]:
    """Buffers of a row an example."""
    return [
        getattr(part, name)
        for part in objective.modules()
        for name in getattr(part, "row_buffers", ())
    ]


def _own_state(objective: Objective) -> dict[str, Tensor]:
    """What differs from process to process: the random stream and other buffers."""
    own, stream = _own_buffers(objective), objective.get_extra_state()["stream"]
    return own if stream is None else {_STREAM: stream, **own}


def _own_buffers(objective: Objective) -> dict[str, Tensor]:
    shared = {id(each) for each in _row_buffers(objective)}
    shared |= {id(each) for each in objective.parameters()}
    buffers = objective.named_buffers()
    return {name: value for name, value in buffers if id(value) not in shared}


def _put_own_state(objective: Objective, own: dict[str, Tensor]) -> None:
    buffers = dict(objective.named_buffers())
    for name, value in own.items():
        if name == _STREAM:
            state = objective.get_extra_state()
            objective.set_extra_state({**state, "stream": value})
        else:
            buffers[name].copy_(value)


def _take_own_stream(objective: Objective, rank: int, size: int) -> None:
    """Rank 0 goes on with the stream as it is; the others' start from numbers of it."""
    state = objective.get_extra_state()
    if rank and state["stream"] is not None:
        generator = torch.Generator()
        generator.set_state(state["stream"])
        seeds = torch.randint(2**62, (size,), generator=generator)
        stream = torch.Generator().manual_seed(int(seeds[rank])).get_state()
        objective.set_extra_state({**state, "stream": stream})


def _scale_gradient(values: Tensor, factor: float) -> Tensor:
    """The same values; their gradient times a number."""
    values = values.clone()
    if values.requires_grad:
        values.register_hook(lambda gradient: factor * gradient)
    return values
