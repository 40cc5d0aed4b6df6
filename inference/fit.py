"""Training: the one place that knows optimisers, batches and checkpoints."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..models.checks import check_count
from ..models.layered import LayeredNetwork
from .methods import build, get_method
from .monitor import Monitor
from .objective import Method, Model, Objective
from .progress import Progress
from .regularisers import Regulariser
from .run import Run
from .sampler import Sampler
from .training_data import batch, batches, training_data
from .weight_draws import WeightDraws


class Fit(NamedTuple):
    """What training gives.

    Attributes:
        model: The model, trained in place.
        history: One dict a step: ``step`` (from 1) and ``loss``; at every
            ``log_every``-th also ``seconds`` since the start, the router's ``h_a`` and
            ``h_b`` in nats (means over sites; ``h_a_layers``, ``h_b_layers`` per site)
            and, where the data has a validation split, ``valid``: the mean of
            log p(y | x) over at most 256 of its examples.
        method: The method, with its options.
        objective: The objective as trained: holds the guide.
        seconds: Wall time spent, over all resumed parts.
    """

    model: Model
    history: list[dict[str, Any]]
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
            ``checkpoint_every``-th step.
        checkpoint_every: Steps between checkpoints; by default at the end alone.
        resume: Go on from the folder's checkpoint, bit for bit, if there is one.
        **options: Replace the method's options.

    Returns:
        The model, the history, the method and the objective.

    Raises:
        ValueError: If the data, an option or the program is wrong, before training.
        FloatingPointError: If the loss becomes NaN or infinite; names the step.

    Example:
        >>> from latentroute.models import LayeredNetwork
        >>> net = LayeredNetwork(2, 1, n_layers=1, n_modules=2, hidden_features=4,
        ...                      head="normal")
        >>> x = torch.linspace(-1, 1, 20).reshape(10, 2)
        >>> result = fit(net, (x, x.sum(1)), "exact", steps=3, batch_size=4)
        >>> len(result.history)
        3
    """
    for name, value in (("steps", steps), ("batch_size", batch_size)):
        check_count(name, value)
    if not 0 < lr < math.inf:
        raise ValueError(f"lr must be positive, got {lr}")
    x, y = training_data(data)
    if isinstance(model, LayeredNetwork):
        model.check(x, y)
    method = get_method(method, **options)
    method.check_steps(steps)
    parameters = None if parameters is None else list(parameters)
    own = model.parameters() if isinstance(model, nn.Module) else ()
    device = next((p.device for p in parameters or own), x.device)
    objective = build(
        method,
        model,
        parameters=parameters,
        n_data=len(x),
        example=batch(x, y, torch.arange(min(len(x), 2)), device),
        seed=seed,
        regularisers=regularisers,
    )
    if not any(p.requires_grad for p in objective.parameters()):
        raise ValueError("there is nothing to train: no parameter requires a gradient")
    settings = {"method": repr(method), "batch_size": batch_size, "lr": lr}
    settings["regularisers"] = repr(list(regularisers))
    run = Run(
        objective,
        _adam(objective, lr),
        folder=None if checkpoint is None else Path(checkpoint),
        settings={**settings, "seed": seed, "n_data": len(x)},
    )
    if resume:
        run.resume()
    if isinstance(objective, Sampler):
        objective.begin(steps)
    monitor = Monitor(objective.evaluated, data, x, y, device)
    with Progress(steps, enabled=progress, start=run.step) as bar:
        run.train(
            _parts(run, x, y, batch_size, device),
            steps,
            measure_every=log_every or max(1, steps // 50),
            save_every=checkpoint_every or steps,
            measure=monitor.measure,
            show=bar.show,
        )
    return Fit(model, run.history, method, objective, run.seconds)


def _adam(objective: Objective, lr: float) -> torch.optim.Adam:
    """Adam, in one kernel for all parameters where torch has one for them."""
    parameters = list(objective.parameters())
    fused = all(
        p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters
    )
    return torch.optim.Adam(parameters, lr=lr, fused=fused or None)


def _parts(
    run: Run, x: Tensor, y: Tensor | None, batch_size: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
    """What each step takes: a batch, or for a sampler all the data."""
    n, seed = len(x), run.settings["seed"]
    if isinstance(run.objective, Sampler):
        return itertools.repeat(batch(x, y, torch.arange(n), device))
    rows = batches(n, batch_size, seed, run.step)
    return (batch(x, y, index, device) for index in rows)
