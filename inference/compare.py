"""Methods x seeds on one task, as one ArviZ tree.

The one place of inference that calls analysis: its result is the analysis.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..models.checks import check_count
from ..models.layered import LayeredNetwork
from .applies import try_methods
from .fit import fit
from .methods import METHODS, get_method
from .objective import Method, Model
from .regularisers import Regulariser

if TYPE_CHECKING:
    from xarray import DataTree

SCHEMA_VERSION = 1


def compare(
    task: Any,
    methods: Sequence[str] | Mapping[str, Method] = tuple(METHODS),
    seeds: int | Sequence[int] = 4,
    *,
    model: Callable[[Any], Model | tuple[Model, Sequence[Tensor]]] | None = None,
    network: Mapping[str, Any] | None = None,
    steps: int = 1000,
    batch_size: int = 128,
    lr: float = 1e-2,
    regularisers: Sequence[Regulariser] = (),
    draws: int = 100,
    progress: bool = False,
) -> DataTree:
    """Train a model under several methods and seeds; evaluate on the test split.

    Every method of a seed starts from the same initial weights. A run that fails is
    kept as a node with an ``error`` attribute; the others go on. So is one of a method
    that does not apply to the model, with the attribute ``applies`` 0: each is tried on
    one batch before any training, which also gives the attribute ``evaluations``:
    module evaluations an example and step.

    Args:
        task: A task, or the name of one.
        methods: Names in ``METHODS``, or a mapping from labels to methods as values.
        seeds: How many seeds (0, 1, ..), or which.
        model: Makes the model from the task, anew for each run and with torch seeded:
            an ``nn.Module``, or a plain function and the tensors to train as a pair.
            By default :func:`default_network`.
        network: Options of the default network, in place of the task's suggestions.
        steps: Optimiser steps a run.
        batch_size: Examples a step.
        lr: Adam's learning rate.
        regularisers: Parts that every method's loss gets.
        draws: Posterior draws of the routes kept for each test example.
        progress: Show progress on stderr.

    Returns:
        A tree with a run under ``{method}/seed_{seed}``
        (:func:`latentroute.analysis.to_datatree`) and the table under ``summary``;
        root attributes say how it was made.

    Raises:
        ValueError: If the task, a method or an option is wrong, or no method applies to
            the model: before any training.
    """
    if isinstance(task, str):
        from .. import tasks

        task = tasks.load(task)
    if model is not None and network is not None:
        raise ValueError("network= has options of the default network: not with model=")
    chosen = _chosen(methods)
    numbers = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not numbers:
        raise ValueError(f"seeds must be at least one, got {seeds!r}")
    make = model or (lambda t: default_network(t, **(network or {})))
    settings: dict[str, Any] = {"steps": steps, "batch_size": batch_size, "lr": lr}
    for name, value in (("draws", draws), ("steps", steps), ("batch_size", batch_size)):
        check_count(name, value)
    for method in chosen.values():
        method.check_steps(steps)
    refused, evaluations = try_methods(
        lambda: _made(make, task, numbers[0]),
        chosen,
        task.train.x,
        task.train.y,
        batch_size=batch_size,
    )
    if progress:
        for label, reason in refused.items():
            print(f"{label} does not apply: {reason}", file=sys.stderr, flush=True)
    shared = _shared_attrs(task, settings, regularisers)
    known: dict[str, dict[str, Any]] = {label: {} for label in chosen}
    known |= {label: {"evaluations": n} for label, n in evaluations.items()}
    known |= {label: {"error": why, "applies": 0} for label, why in refused.items()}
    runs: dict[str, DataTree] = {}
    for label, method in chosen.items():
        for seed in numbers:
            name = f"{label}/seed_{seed}"
            if progress and label not in refused:
                done = f"[{len(runs) + 1}/{len(chosen) * len(numbers)}]"
                print(f"{done} {label}, seed {seed}", file=sys.stderr, flush=True)
            own = {"method": label, "seed": seed, "config": json.dumps(repr(method))}
            attrs = {**own, **shared, **known[label]}
            if label in refused:
                runs[name] = _empty(attrs)
                continue
            runs[name] = _run(
                task,
                _made(make, task, seed),
                attrs,
                draws=draws,
                method=method,
                seed=seed,
                progress=progress,
                regularisers=regularisers,
                **settings,
            )
    if regularisers:
        settings["regularisers"] = repr(list(regularisers))
    sizes = None if model is not None else network_options(task, **(network or {}))
    return _tree(task, runs, chosen, numbers, settings, sizes)


def default_network(task: Any, **network: Any) -> LayeredNetwork:
    """A layered network that fits a task, with the task's suggested sizes.

    Args:
        task: Says widths, head and suggestions.
        **network: Options of :class:`~latentroute.models.LayeredNetwork` in their
            place.
    """
    options = network_options(task, **network)
    return LayeredNetwork(task.in_features, task.out_features, **options)


def network_options(task: Any, **network: Any) -> dict[str, Any]:
    """The options of :func:`default_network`: ours, the task's, then the given ones."""
    sizes = {"n_layers": 2, "n_modules": 4, "hidden_features": 32, "head": task.head}
    return {**sizes, **task.network, **network}


def prior_log_likelihood(task: Any) -> float:
    """Mean test log p(y) under a prior fitted to the training targets alone, in nats.

    Categorical: class shares, each class counted once more than seen. Bernoulli: the
    same an output. Normal: mean and variance an output.
    """
    train, test = task.train.y, task.test.y
    if task.head == "categorical":
        counts = torch.bincount(train, minlength=task.out_features) + 1.0
        return float(torch.log(counts / counts.sum())[test].mean())
    if task.head == "bernoulli":
        p = (train.sum(0) + 1) / (len(train) + 2)
        return float((test * p.log() + (1 - test) * (1 - p).log()).sum(-1).mean())
    fitted = torch.distributions.Normal(train.mean(0), train.std(0).clamp_min(1e-6))
    return float(fitted.log_prob(test).sum(-1).mean())


def _chosen(methods: Sequence[str] | Mapping[str, Method]) -> dict[str, Method]:
    if isinstance(methods, Mapping):
        chosen = {label: get_method(method) for label, method in methods.items()}
    else:
        if isinstance(methods, str):
            raise TypeError(f"methods must be a sequence of names, got {methods!r}")
        chosen = {name: get_method(name) for name in methods}
    if not chosen:
        raise ValueError("methods must name at least one method, got none")
    for label in chosen:
        if "/" in label or label == "summary":
            raise ValueError(
                "a method's label names a node of the tree: it must hold no '/' and "
                f"not be 'summary', got {label!r}"
            )
    return chosen


def _run(
    task: Any,
    made: tuple[Model, Sequence[Tensor] | None],
    attrs: Mapping[str, Any],
    *,
    draws: int,
    seed: int,
    **training: Any,
) -> DataTree:
    """One run as a tree; of a failed one, the error alone."""
    from ..analysis import to_datatree

    model, own = made
    try:
        result = fit(model, task, parameters=own, seed=seed, **training)
    except FloatingPointError as error:
        return _empty({**attrs, "error": str(error)})
    return to_datatree(
        result.evaluated,
        task.test,
        draws=draws,
        seed=seed,
        history=result.history,
        attrs={**attrs, "wall_time": result.seconds},
        weight_draws=result.weight_draws,
    )


def _shared_attrs(
    task: Any, settings: Mapping[str, Any], regularisers: Sequence[Regulariser]
) -> dict[str, Any]:
    """What every run of a comparison says of itself."""
    attrs = {"task": task.name, **settings}
    if regularisers:
        attrs["regularisers"] = repr(list(regularisers))
    for labels in ("class_names", "feature_names", "image_shape"):
        attrs[labels] = list(getattr(task, labels, None) or ())
    return attrs


def _made(
    make: Callable[[Any], Model | tuple[Model, Sequence[Tensor]]], task: Any, seed: int
) -> tuple[Model, Sequence[Tensor] | None]:
    """A seed's model, and the tensors to train where it has none of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = make(task)
    return made if isinstance(made, tuple) else (made, None)


def _empty(attrs: Mapping[str, Any]) -> DataTree:
    """A run without results."""
    from xarray import DataTree

    node: DataTree = DataTree()
    node.attrs = dict(attrs)
    return node


def _tree(
    task: Any,
    runs: dict[str, DataTree],
    methods: dict[str, Method],
    seeds: Sequence[int],
    settings: Mapping[str, Any],
    network: Mapping[str, Any] | None,
) -> DataTree:
    """The runs, the table of them, and how they were made."""
    from xarray import DataTree

    from ..analysis import summary, summary_dataset

    tree: DataTree = DataTree.from_dict(dict(runs))
    tree.attrs = {
        "task": task.name,
        "network": json.dumps(network),
        "seeds": json.dumps(list(seeds)),
        "methods": json.dumps({label: repr(m) for label, m in methods.items()}),
        "settings": json.dumps(dict(settings)),
        "notes": json.dumps(list(task.notes)),
        "prior_log_lik": prior_log_likelihood(task),
        "schema_version": SCHEMA_VERSION,
        "versions": json.dumps(
            {name: importlib.metadata.version(name) for name in _RECORDED}
        ),
    }
    tree["summary"] = DataTree(summary_dataset(summary(tree)))
    return tree


_RECORDED = ("latentroute", "torch", "pyro-ppl", "arviz-base", "xarray", "numpy")
