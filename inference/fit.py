"""Training: the one place that knows optimisers, batches and checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..models.checks import check_count
from ..models.layered import LayeredNetwork
from ..models.routers import GivenRouting
from .checkpoint import load_checkpoint, save_checkpoint
from .entropies import router_entropies
from .evaluate import evaluate
from .methods import build, get_method
from .objective import Method, Model, Objective
from .progress import Progress
from .regularisers import Regulariser

_MONITORED = 256  # examples on which entropies and validation are followed


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
    """Train a model in place with Adam.

    Reproducible bit for bit for a seed on one device: batches and samples are drawn
    from streams of their own. Examples are visited in a new random order each epoch;
    the last batch of an epoch may be smaller.

    Args:
        model: A Pyro program ``model(x, y=None)`` with routing sites.
        data: A task (its ``train`` split is used, ``valid`` is followed), a split, or a
            tuple ``(x, y)`` of tensors; ``(x,)`` for a model that needs no y.
        method: A name in ``METHODS`` or a method as a value.
        parameters: Tensors to train; needed where the model is no ``nn.Module``.
        steps: Optimiser steps.
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
    x, y = _training_data(data)
    if isinstance(model, LayeredNetwork):
        model.check(x, y)
    method = get_method(method, **options)
    parameters = None if parameters is None else list(parameters)
    own = model.parameters() if isinstance(model, nn.Module) else ()
    device = next((p.device for p in parameters or own), x.device)
    objective = build(
        method,
        model,
        parameters=parameters,
        n_data=len(x),
        example=_batch(x, y, torch.arange(min(len(x), 2)), device),
        seed=seed,
        regularisers=regularisers,
    )
    if not any(p.requires_grad for p in objective.parameters()):
        raise ValueError("there is nothing to train: no parameter requires a gradient")
    settings = {"method": repr(method), "batch_size": batch_size, "lr": lr}
    settings["regularisers"] = repr(list(regularisers))
    run = _Run(
        objective,
        torch.optim.Adam(objective.parameters(), lr=lr),
        folder=None if checkpoint is None else Path(checkpoint),
        settings={**settings, "seed": seed, "n_data": len(x)},
    )
    if resume:
        run.resume()
    batches = (
        _batch(x, y, index, device)
        for index in _batches(len(x), batch_size, seed, run.step)
    )
    monitor = _Monitor(objective.evaluated, data, x, y, device)
    with Progress(steps, enabled=progress, start=run.step) as bar:
        run.train(
            batches,
            steps,
            measure_every=log_every or max(1, steps // 50),
            save_every=checkpoint_every or steps,
            measure=monitor.measure,
            show=bar.show,
        )
    return Fit(model, run.history, method, objective, run.seconds)


@dataclass
class _Run:
    """A training run: what a checkpoint holds, and one step of it."""

    objective: Objective
    optimiser: torch.optim.Optimizer
    folder: Path | None
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        self.step = 0
        self.seconds = 0.0
        self.history: list[dict[str, Any]] = []

    def train(
        self,
        batches: Iterator[tuple[Tensor, Tensor | None, Tensor]],
        steps: int,
        *,
        measure_every: int,
        save_every: int,
        measure: Callable[[], dict[str, Any]],
        show: Callable[[dict[str, Any]], None],
    ) -> None:
        begun = time.perf_counter() - self.seconds
        while self.step < steps:
            self._update(*next(batches))
            last = self.step == steps
            if last or self.step % measure_every == 0:
                self.seconds = time.perf_counter() - begun
                self.history[-1] |= {"seconds": self.seconds, **measure()}
            show(self.history[-1])
            if last or self.step % save_every == 0:
                self.seconds = time.perf_counter() - begun
                self._save()

    def _update(self, x: Tensor, y: Tensor | None, index: Tensor) -> None:
        self.optimiser.zero_grad()
        self.step += 1
        try:
            loss = self.objective(x, y, index)
        except ValueError as error:  # a distribution that refuses its parameters
            if "found invalid values" not in str(error) or "nan" not in str(error):
                raise
            raise self._diverged("a distribution's parameters are NaN") from error
        value = loss.item()
        if not math.isfinite(value):
            raise self._diverged(f"the loss is {value}")
        loss.backward()
        self.optimiser.step()
        self.history.append({"step": self.step, "loss": value})

    def _diverged(self, what: str) -> FloatingPointError:
        return FloatingPointError(
            f"{what} at step {self.step}: try a smaller lr, and look at the model's "
            "log-probabilities"
        )

    def _save(self) -> None:
        if self.folder is None:
            return
        state = {
            "settings": self.settings,
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
            "objective": self.objective.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        save_checkpoint(self.folder, state)

    def resume(self) -> None:
        """Take up the folder's checkpoint, if there is one."""
        if self.folder is None:
            raise ValueError("resume=True needs checkpoint=, the folder to resume from")
        state = load_checkpoint(self.folder, self.settings)
        if state is None:
            return
        self.step, self.seconds = state["step"], state["seconds"]
        self.history = state["history"]
        try:
            self.objective.load_state_dict(state["objective"])
        except RuntimeError as error:
            raise ValueError(
                f"the checkpoint in {self.folder} is of another model: its parameters "
                "have other names or shapes"
            ) from error
        self.optimiser.load_state_dict(state["optimiser"])


class _Monitor:
    """Follows the router's entropies and the validation likelihood."""

    def __init__(
        self, model: Model, data: Any, x: Tensor, y: Tensor | None, device: torch.device
    ) -> None:
        # Given routes are the training data's: followed is the router itself.
        self._model = model.model if isinstance(model, GivenRouting) else model
        valid = getattr(data, "valid", None)
        self._has_valid = valid is not None
        if valid is not None:
            x, y = valid.x, valid.y
        n = min(len(x), _MONITORED)
        chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:n]
        self._x, self._y, _ = _batch(x, y, chosen, device)

    def measure(self) -> dict[str, Any]:
        # No draws are wanted; one is the least that evaluate makes.
        seen = evaluate(self._model, self._x, self._y, draws=1)
        h_a, h_b = router_entropies(seen.router_probs)
        measured: dict[str, Any] = {
            "h_a": h_a.mean().item() if len(h_a) else math.nan,
            "h_b": h_b.mean().item() if len(h_b) else math.nan,
            "h_a_layers": h_a.tolist(),
            "h_b_layers": h_b.tolist(),
        }
        if self._has_valid:
            measured["valid"] = seen.log_marginal.mean().item()
        return measured


def _training_data(data: Any) -> tuple[Tensor, Tensor | None]:
    """X and y of a task, a split or a tuple, checked."""
    split = getattr(data, "train", data)
    x, y, *_ = (*split, None) if isinstance(split, (tuple, list)) else (None, None)
    if not isinstance(x, Tensor) or not isinstance(y, Tensor | None):
        raise TypeError(
            "data must be a task or a tuple (x, y) of tensors, got "
            f"{type(data).__name__} of {type(x).__name__} and {type(y).__name__}"
        )
    if not len(x):
        raise ValueError("data must hold at least one example, got none")
    if y is not None and len(y) != len(x):
        raise ValueError(f"x and y must be as long, got {len(x)} and {len(y)} examples")
    for name, values in (("x", x), ("y", y)):
        if values is not None and not torch.isfinite(values).all():
            row = (~torch.isfinite(values)).nonzero()[0, 0].item()
            raise ValueError(f"{name} must be finite, got NaN or infinity at row {row}")
    return x, y


def _batch(
    x: Tensor, y: Tensor | None, index: Tensor, device: torch.device
) -> tuple[Tensor, Tensor | None, Tensor]:
    chosen = None if y is None else y[index].to(device)
    return x[index].to(device), chosen, index.to(device)


def _batches(n: int, batch_size: int, seed: int, start: int) -> Iterator[Tensor]:
    """Rows of each batch from step ``start`` on; each epoch's order from its number."""
    size = min(batch_size, n)
    per_epoch = math.ceil(n / size)
    epoch, offset = divmod(start, per_epoch)
    while True:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(n, generator=generator)
        yield from order.split(size)[offset:]
        epoch, offset = epoch + 1, 0
