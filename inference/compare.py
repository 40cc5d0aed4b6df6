"""Methods x seeds on one task or several, as ArviZ trees."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..models.checks import check_count
from .applies import try_methods
from .backends.base import Backend
from .backends.table import get_backend
from .compare_checks import (
    check_model_options,
    chosen_methods,
    named_tasks,
    seed_numbers,
)
from .comparison import Comparison
from .default_network import default_network, network_options
from .methods import METHODS
from .objective import Method
from .regularisers import Regulariser
from .sweep import train_all
from .sweep_folder import Settings, SweepFolder
from .training_checks import writable_folder
from .training_job import Factory, Training

if TYPE_CHECKING:
    from xarray import DataTree


def compare(
    task: Any,
    methods: Sequence[str] | Mapping[str, Method] = tuple(METHODS),
    seeds: int | Sequence[int] = 4,
    *,
    model: Factory | None = None,
    network: Mapping[str, Any] | None = None,
    steps: int = 1000,
    batch_size: int = 128,
    lr: float = 1e-2,
    regularisers: Sequence[Regulariser] = (),
    draws: int = 100,
    progress: bool = False,
    backend: str | Backend = "serial",
    workers: int | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
) -> DataTree:
    """Train a model under several methods and seeds; evaluate on the test split.

    Every method of a seed starts from the same initial weights. A run that fails is
    kept as a node with an ``error`` attribute; the others go on. So is one of a method
    that does not apply to the model, with the attribute ``applies`` 0: each is tried on
    one batch before any training, which also gives the attribute ``evaluations``:
    module evaluations an example and step. A run whose worker died is begun again, told
    in a warning (on stderr with ``progress``), and has the attribute ``deaths``.

    Args:
        task: A task, or the name of one.
        methods: Names in ``METHODS``, or a mapping from labels to methods as values.
        seeds: How many seeds (0, 1, ..), or which.
        model: Makes the model from the task, anew for each run and with torch seeded:
            an ``nn.Module``, or a plain function and the tensors to train as a pair.
            By default :func:`default_network`. For ``"process"`` it must be picklable:
            a function at the top of a module or script.
        network: Options of the default network, in place of the task's suggestions.
        steps: Optimiser steps a run.
        batch_size: Examples a step.
        lr: Adam's learning rate.
        regularisers: Parts that every method's loss gets.
        draws: Posterior draws of the routes kept for each test example.
        progress: Show progress on stderr.
        backend: Who trains: ``"serial"``, ``"process"`` (this machine's processors) or
            ``"ray"`` (a cluster), or a value such as
            :class:`~latentroute.inference.Processes`. The numbers are the same.
        workers: Runs under way at once; by default one a processor.
        folder: Gets each run as soon as it is finished.
        resume: Take up the finished runs of the folder, and train the others. More
            methods or seeds may join; what makes a run must be as it was.

    Returns:
        A tree with a run under ``{method}/seed_{seed}``
        (:func:`latentroute.analysis.to_datatree`) and the table under ``summary``;
        root attributes say how it was made.

    Raises:
        ValueError: If the task, a method or an option is wrong, no method applies to
            the model, or the folder holds another sweep: before any training.
        TypeError: If a part cannot be sent to the workers.
        Exception: The first run's error, if every run raised one.
        RuntimeError: If no worker can be had.
    """
    trees = _compare(
        named_tasks([task]),
        methods,
        seeds,
        model=model,
        network=network,
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        regularisers=regularisers,
        draws=draws,
        progress=progress,
        backend=backend,
        workers=workers,
        folder=folder,
        resume=resume,
    )
    (tree,) = trees.values()
    return tree


def compare_tasks(
    tasks: Sequence[Any] | Mapping[str, Any],
    methods: Sequence[str] | Mapping[str, Method] = tuple(METHODS),
    seeds: int | Sequence[int] = 4,
    **options: Any,
) -> dict[str, DataTree]:
    """Compare methods on several tasks, all runs of which share the workers.

    Args:
        tasks: Tasks or names of them, or a mapping from names of one's own to tasks.
        methods: As :func:`compare`'s.
        seeds: As :func:`compare`'s.
        **options: As :func:`compare`'s; ``model`` is called with each task.

    Returns:
        What :func:`compare` gives, by the task's name.

    Raises:
        ValueError: As :func:`compare`, or if two tasks have one name.
        TypeError: As :func:`compare`, or if an option is unknown.
        Exception: As :func:`compare`'s.
    """
    known = inspect.signature(compare).parameters.values()
    defaults = {p.name: p.default for p in known if p.kind is p.KEYWORD_ONLY}
    unknown = [name for name in options if name not in defaults]
    if unknown:
        raise TypeError(
            f"compare_tasks has no option {unknown[0]!r}; it takes "
            f"{', '.join(defaults)}"
        )
    return _compare(named_tasks(tasks), methods, seeds, **{**defaults, **options})


def _compare(
    tasks: Mapping[str, Any],
    methods: Sequence[str] | Mapping[str, Method],
    seeds: int | Sequence[int],
    *,
    backend: str | Backend,
    workers: int | None,
    folder: str | Path | None,
    resume: bool,
    progress: bool,
    **options: Any,
) -> dict[str, DataTree]:
    """Every run of every task, by one list of work."""
    trained_by = get_backend(backend, workers)
    if resume and folder is None:
        raise ValueError("resume=True needs folder=, the folder to resume from")
    folder = writable_folder("folder", folder)
    chosen, numbers = chosen_methods(methods), seed_numbers(seeds)
    parts = [
        _comparison(name, task, chosen, numbers, progress=progress, **options)
        for name, task in tasks.items()
    ]
    work = {part.name: part.training for part in parts}
    jobs = [job for part in parts for job in part.jobs()]
    with ExitStack() as stack:
        place = None
        if folder is not None:
            place = stack.enter_context(SweepFolder(folder, resume=resume))
            place.claim(_settings(parts), jobs)
        found = train_all(work, jobs, trained_by, folder=place, progress=progress)
    return {part.name: part.tree(found) for part in parts}


def _comparison(
    name: str,
    task: Any,
    methods: dict[str, Method],
    seeds: list[int],
    *,
    model: Factory | None,
    network: Mapping[str, Any] | None,
    steps: int,
    batch_size: int,
    lr: float,
    regularisers: Sequence[Regulariser],
    draws: int,
    progress: bool,
) -> Comparison:
    """One task's part, its methods tried out."""
    check_model_options(model, network)
    for option, value in (
        ("draws", draws),
        ("steps", steps),
        ("batch_size", batch_size),
    ):
        check_count(option, value)
    for method in methods.values():
        method.check_steps(steps)
    training = Training(
        task,
        model or functools.partial(default_network, **(network or {})),
        methods,
        {"steps": steps, "batch_size": batch_size, "lr": lr},
        tuple(regularisers),
        draws,
    )
    tried = try_methods(
        lambda: training.made(seeds[0]),
        methods,
        task.train.x,
        task.train.y,
        batch_size=batch_size,
    )
    if progress:
        for label, reason in tried.refused.items():
            print(f"{label} does not apply: {reason}", file=sys.stderr, flush=True)
    sizes = None if model is not None else network_options(task, **(network or {}))
    return Comparison(name, training, seeds, tried, sizes)


def _settings(parts: Sequence[Comparison]) -> Settings:
    found: Settings = {}
    for part in parts:
        found |= part.settings()
    return found
