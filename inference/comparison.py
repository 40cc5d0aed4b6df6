"""One task's part of a sweep: its jobs before, its tree after."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .applies import Tried
from .objective import Method
from .prior import prior_log_likelihood
from .regularisers import Regulariser
from .sweep_folder import Settings
from .training_job import Job, Training, empty_run

if TYPE_CHECKING:
    from xarray import DataTree

SCHEMA_VERSION = 1
_RECORDED = ("latentroute", "torch", "pyro-ppl", "arviz-base", "xarray", "numpy")
_SAME_VERSIONS = ("latentroute", "torch", "pyro-ppl")  # or numbers may differ


@dataclass(frozen=True)
class Comparison:
    """Methods x seeds on one task.

    Args:
        name: What the task is called in the sweep.
        training: What its runs have in common.
        seeds: Of each method.
        tried: Which methods apply, and what they take.
        network: Options of the default network; None for a model of the user's.
    """

    name: str
    training: Training
    seeds: Sequence[int]
    tried: Tried
    network: Mapping[str, Any] | None

    @property
    def methods(self) -> Mapping[str, Method]:
        """By label, in the order of the table."""
        return self.training.methods

    def jobs(self) -> list[Job]:
        """The runs to be trained: those of methods that apply."""
        return [
            Job(self.name, label, seed, self._attrs(label, seed))
            for label in self.methods
            if label not in self.tried.refused
            for seed in self.seeds
        ]

    def tree(self, found: Mapping[str, DataTree]) -> DataTree:
        """The runs, the table of them, and how they were made.

        Args:
            found: Each job's run, by the job's name.
        """
        from xarray import DataTree

        from ..analysis import summary, summary_dataset

        runs = {}
        for label in self.methods:
            for seed in self.seeds:
                refused = self.tried.refused.get(label)
                runs[f"{label}/seed_{seed}"] = (
                    found[f"{self.name}/{label}/seed_{seed}"]
                    if refused is None
                    else empty_run(self._attrs(label, seed))
                )
        tree: DataTree = DataTree.from_dict(runs)
        tree.attrs = self._root_attrs()
        tree["summary"] = DataTree(summary_dataset(summary(tree)))
        return tree

    def settings(self) -> Settings:
        """What must be the same for a run to be one of this comparison."""
        training, task = self.training, self.training.task
        found: Settings = {
            "data": _digest(task),
            "model": self._model(),
            "draws": training.draws,
            "regularisers": _text(training.regularisers),
            **training.settings,
        }
        found |= {f"method {label}": repr(m) for label, m in self.methods.items()}
        versions = {name: importlib.metadata.version(name) for name in _SAME_VERSIONS}
        return {f"{self.name}: {name}": v for name, v in found.items()} | versions

    def _model(self) -> str:
        """What tells models apart from outside: options, or the shapes of weights."""
        if self.network is not None:
            return json.dumps(self.network, sort_keys=True, default=repr)
        model, own = self.training.made(0)
        named: Iterable[tuple[object, Tensor]] = enumerate(own or ())
        if own is None and isinstance(model, nn.Module):
            named = model.named_parameters()
        return json.dumps({str(name): list(value.shape) for name, value in named})

    def _attrs(self, label: str, seed: int) -> dict[str, Any]:
        """What a run says of itself."""
        training, task = self.training, self.training.task
        attrs: dict[str, Any] = {
            "method": label,
            "seed": seed,
            "config": json.dumps(repr(self.methods[label])),
            "task": task.name,
            **training.settings,
        }
        if training.regularisers:
            attrs["regularisers"] = _text(training.regularisers)
        for labels in ("class_names", "feature_names", "image_shape"):
            attrs[labels] = list(getattr(task, labels, None) or ())
        if label in self.tried.evaluations:
            attrs["evaluations"] = self.tried.evaluations[label]
        if label in self.tried.refused:
            attrs |= {"error": self.tried.refused[label], "applies": 0}
        return attrs

    def _root_attrs(self) -> dict[str, Any]:
        """What the comparison says of itself."""
        training, task = self.training, self.training.task
        settings = dict(training.settings)
        if training.regularisers:
            settings["regularisers"] = _text(training.regularisers)
        methods = {label: repr(method) for label, method in self.methods.items()}
        versions = {name: importlib.metadata.version(name) for name in _RECORDED}
        return {
            "task": task.name,
            "network": json.dumps(self.network),
            "seeds": json.dumps(list(self.seeds)),
            "methods": json.dumps(methods),
            "settings": json.dumps(settings),
            "notes": json.dumps(list(task.notes)),
            "prior_log_lik": prior_log_likelihood(task),
            "schema_version": SCHEMA_VERSION,
            "versions": json.dumps(versions),
        }


def _text(regularisers: Sequence[Regulariser]) -> str:
    return repr(list(regularisers))


def _digest(task: Any) -> str:
    """A hash of the data: another file under the same name is another task."""
    found = hashlib.sha256()
    for name in ("train", "valid", "test"):
        for tensor in getattr(task, name, None) or ():
            if tensor is not None:
                found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                flat = tensor.detach().cpu().contiguous().flatten()
                found.update(flat.view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]
