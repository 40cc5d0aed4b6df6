"""Training: the one place that knows optimisers, batches and checkpoints."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..models.layered import LayeredNetwork
from .checkpoint import make_way
from .data_parallel import default_strategy
from .devices import Device, place
from .methods import build, get_method
from .metrics import Metrics, summary_writer
from .monitor import Monitor
from .objective import Method, Model, Objective
from .progress import Progress
from .regularisers import Regulariser
from .run import Run
from .sampler import Sampler
from .signals import OnSigterm, check_on_sigterm, sigterm
from .strategy import Strategy
from .training_checks import (
    check_model,
    check_parameters,
    check_training,
    writable_folder,
)
from .training_data import Batch, batch, batches, training_data
from .weight_draws import WeightDraws


class Fit(NamedTuple):
    """What training gives.

    Attributes:
        model: The model, trained in place.
        history: One dict a step: ``step`` (from 1) and ``loss``; at every
            ``log_every``-th also ``seconds`` since the start, the router's ``h_a`` and
            ``h_b`` in nats (means over sites; ``h_a_layers``, ``h_b_layers`` per site)
            and, where the data has a validation split, ``valid``: the mean of
            log p(y | x) over at most 256 of its examples. A list, or of more than
            100,000 steps a sequence that makes each dict when it is asked for.
        method: The method, with its options.
        objective: The objective as trained: holds the guide.
        seconds: Wall time spent, over all resumed parts.
    """

    model: Model
    history: Sequence[dict[str, Any]]
    method: Method
    objective: Objective
    seconds: float

    @property
    def evaluated(self) -> Model:
        """What to evaluate: the model, or what the method trained in its place.

        ``sparsemax`` trains the model with sparse routers, another program over the
        same parameters; for most methods this is ``model`` itself.
        """
        return self.objective.evaluated

    @property
    def weight_draws(self) -> WeightDraws | None:
        """Draws of the weights, where the method infers a distribution over them.

        All that ``nuts`` kept, by chain; 100 of ``svi-bayes``'s guide, one chain, the
        same at each call. ``None`` for a method that trains one value of each weight.
        """
        return self.objective.weight_draws()


def fit(
    model: Model,
    data: Any,
    method: str | Method = "exact",
    *,
    parameters: Iterable[Tensor] | None = None,
    steps: int,
    batch_size: int = 128,
    lr: float = 1e-2,
    seed: int = 0,
    regularisers: Sequence[Regulariser] = (),
    log_every: int | None = None,
    progress: bool = False,
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    on_sigterm: OnSigterm | None = None,
    tensorboard: str | Path | None = None,
    strategy: Strategy | None = None,
    device: Device | None = None,
    **options: Any,
) -> Fit:
    """Train a model in place with Adam, or draw its weights where the method does.

    Reproducible bit for bit for a seed on one device: batches and samples are drawn
    from streams of their own. Examples are visited in a new random order each epoch;
    the last batch of an epoch may be smaller. For ``nuts`` a step is one transition of
    every chain on all the data: ``batch_size`` and ``lr`` are not for it.

    Args:
        model: A Pyro program ``model(x, y=None)`` with routing sites.
        data: A task (its ``train`` split is used, ``valid`` is followed), a split, or a
            tuple ``(x, y)`` of tensors; ``(x,)`` for a model that needs no y.
        method: A name in ``METHODS`` or a method as a value.
        parameters: Tensors to train; needed where the model is no ``nn.Module``.
        steps: Optimiser steps, or transitions.
        batch_size: Examples a step, at most.
        lr: Adam's learning rate.
        seed: Of batches, samples and buffers; the model's own start is the caller's.
        regularisers: Parts to add to the loss, as
            :class:`~latentroute.inference.regularisers.StateEntropy`; values, as the
            method is, so a resumed run must have the same.
        log_every: Steps between measurements; by default a fiftieth of all.
        progress: Show a progress bar on stderr (plain lines where that is no terminal).
        checkpoint: A folder for checkpoints, written at the end and at every
            ``checkpoint_every``-th step, the one before kept beside it; and for
            ``metrics.jsonl``, the measured rows of the history as they come.
        checkpoint_every: Steps between checkpoints; by default at the end alone.
        resume: Go on from the folder's last good checkpoint, bit for bit, if there is
            one. Without it a folder that holds one is refused, unless its run came to
            its end: that one is replaced.
        on_sigterm: ``"save"``: a SIGTERM, such as a machine gets that is taken back,
            saves a checkpoint after the step and ends the process with exit code 0.
        tensorboard: A folder to write the measured rows to for TensorBoard (extra
            ``tensorboard``).
        strategy: How the run is spread over processes:
            :class:`~latentroute.inference.SingleProcess`,
            :class:`~latentroute.inference.DataParallel` or
            :class:`~latentroute.inference.Fabric`. ``None``: data parallel where
            torchrun started several processes, else this process alone. Files and
            progress are written by process 0.
        device: Where to train: ``"auto"`` (a CUDA device where there is one, of several
            processes one each; else the CPU) or a device, to which the model is moved
            and where it stays; ``None``: where its parameters are. Batches are moved
            there as they come.
        **options: Replace the method's options.

    Returns:
        The model, the history, the method and the objective.

    Raises:
        ValueError: If the data, an option or the program is wrong, before training.
        TypeError: If one is of a type that does not fit, before training.
        ImportError: If TensorBoard is asked for and not installed.
        Diverged: A ``FloatingPointError``, if the loss becomes NaN or infinite; names
            step, site and method, and saves the batch.
        Stopped: A ``SystemExit``, after a SIGTERM where that is asked for.
        OSError: If a checkpoint cannot be written; the one before stays.

    Example:
        >>> from latentroute.models import LayeredNetwork
        >>> net = LayeredNetwork(2, 1, n_layers=1, n_modules=2, hidden_features=4,
        ...                      head="normal")
        >>> x = torch.linspace(-1, 1, 20).reshape(10, 2)
        >>> result = fit(net, (x, x.sum(1)), "exact", steps=3, batch_size=4)
        >>> len(result.history)
        3
    """
    check_training(
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        log_every=log_every,
        checkpoint_every=checkpoint_every,
    )
    strategy = default_strategy() if strategy is None else strategy
    if not isinstance(strategy, Strategy):
        raise TypeError(
            "strategy must be SingleProcess(), DataParallel() or Fabric(...), got "
            f"{strategy!r}"
        )
    folder = writable_folder("checkpoint", checkpoint)
    if tensorboard is not None:
        summary_writer()  # is it installed?
    board = writable_folder("tensorboard", tensorboard)
    check_on_sigterm(on_sigterm, saves=folder is not None)
    x, y = training_data(data)
    if isinstance(model, LayeredNetwork):
        model.check(x, y)
    method = get_method(method, **options)
    method.check_steps(steps)
    check_model(model)
    parameters = None if parameters is None else check_parameters(parameters)
    where = place(model, parameters, device, x)
    example = batch(x, y, torch.arange(min(len(x), 2)), where)
    objective = build(
        method,
        model,
        parameters=parameters,
        n_data=len(x),
        example=example,
        seed=seed,
        regularisers=regularisers,
    )
    if not any(p.requires_grad for p in objective.parameters()):
        raise ValueError("there is nothing to train: no parameter requires a gradient")
    settings = {"method": repr(method), "batch_size": batch_size, "lr": lr}
    settings["regularisers"] = repr(list(regularisers))
    if folder is not None and not resume:
        make_way(folder)  # once nothing can be wrong any more
    with strategy.processes(where) as team:
        run = Run(
            objective,
            team.prepare(objective, _adam(objective, lr), example),
            folder=folder,
            settings={**settings, "seed": seed, "n_data": len(x)},
            metrics=Metrics(folder, board) if team.is_main else Metrics(None),
            team=team,
        )
        if resume:
            run.resume()
        if isinstance(objective, Sampler):
            objective.begin(steps)
        monitor = Monitor(objective.evaluated, data, x, y, team)
        with (
            Progress(steps, enabled=progress and team.is_main, start=run.step) as bar,
            contextlib.closing(run.metrics),
            sigterm(on_sigterm) as stop,
        ):
            run.train(
                _parts(run, x, y, batch_size),
                steps,
                measure_every=log_every or max(1, steps // 50),
                save_every=checkpoint_every or steps,
                measure=monitor.measure,
                show=bar.show,
                stop=stop if on_sigterm is None else lambda: team.any(stop()),
            )
    return Fit(model, run.history.rows(), method, objective, run.seconds)


def _adam(objective: Objective, lr: float) -> torch.optim.Adam:
    """Adam, in one kernel for all parameters where torch has one for them."""
    parameters = list(objective.parameters())
    fused = all(
        p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters
    )
    return torch.optim.Adam(parameters, lr=lr, fused=fused or None)


def _parts(run: Run, x: Tensor, y: Tensor | None, batch_size: int) -> Iterator[Batch]:
    """What each step takes: a part of a batch, or for a sampler all the data."""
    n, seed, team = len(x), run.settings["seed"], run.team
    if isinstance(run.objective, Sampler):
        yield from itertools.repeat(Batch(*batch(x, y, torch.arange(n), team.device)))
    for rows in batches(n, batch_size, seed, run.step):
        part, share = team.part(rows)
        yield Batch(*batch(x, y, part, team.device), share)
