"""One training of a comparison: values that a worker process can be sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from .fit import fit
from .objective import Method, Model
from .regularisers import Regulariser
from .strategy import SingleProcess

if TYPE_CHECKING:
    from xarray import DataTree

Factory = Callable[[Any], Model | tuple[Model, Sequence[Tensor]]]


class Job(NamedTuple):
    """A method and a seed on a task: no job needs another's result.

    Attributes:
        task: Which :class:`Training` of the work it belongs to.
        label: What the method is called.
        seed: Of weights, batches and samples.
        attrs: What the run says of itself.
    """

    task: str
    label: str
    seed: int
    attrs: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Its name in the work."""
        return f"{self.task}/{self.label}/seed_{self.seed}"


@dataclass(frozen=True)
class Training:
    """What all runs of a task have in common; called with a job, it trains.

    Args:
        task: The data.
        make: Makes the model from the task.
        methods: By label.
        settings: ``steps``, ``batch_size`` and ``lr``.
        regularisers: Parts that every method's loss gets.
        draws: Posterior draws of the routes kept for each test example.
    """

    task: Any
    make: Factory
    methods: Mapping[str, Method]
    settings: Mapping[str, Any]
    regularisers: Sequence[Regulariser]
    draws: int

    def __call__(self, job: Job, *, progress: bool = False) -> DataTree:
        """One run as a tree; of one whose loss is NaN or infinite, the error alone."""
        from ..analysis import to_datatree

        model, own = self.made(job.seed)
        try:
            result = fit(
                model,
                self.task,
                self.methods[job.label],
                parameters=own,
                seed=job.seed,
                progress=progress,
                regularisers=self.regularisers,
                strategy=SingleProcess(),  # spread are the runs, not their batches
                **self.settings,
            )
        except FloatingPointError as error:
            return empty_run({**job.attrs, "error": str(error)})
        return to_datatree(
            result.evaluated,
            self.task.test,
            draws=self.draws,
            seed=job.seed,
            history=result.history,
            attrs={**job.attrs, "wall_time": result.seconds},
            weight_draws=result.weight_draws,
        )

    @property
    def parts(self) -> dict[str, Any]:
        """What the user gave, by how an error calls it."""
        named = {f"method {label!r}": one for label, one in self.methods.items()}
        parts = {"model=": self.make, **named, "regularisers=": self.regularisers}
        return {**parts, "the task": self.task}

    def made(self, seed: int) -> tuple[Model, Sequence[Tensor] | None]:
        """A seed's model, and the tensors to train where it has none of its own."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            made = self.make(self.task)
        if not isinstance(made, tuple):
            return made, None
        if len(made) != 2:
            raise ValueError(
                "model= must make a model, or a pair of it and the tensors to train, "
                f"got a tuple of {len(made)}"
            )
        return made


Work = Mapping[str, Training]


def empty_run(attrs: Mapping[str, Any]) -> DataTree:
    """A run without results."""
    from xarray import DataTree

    node: DataTree = DataTree()
    node.attrs = {
        name: value if isinstance(value, str | int | float) else json.dumps(value)
        for name, value in attrs.items()
    }
    return node
