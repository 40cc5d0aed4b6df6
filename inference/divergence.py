"""A training run that met NaN or infinity: where, and the batch to look at again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor

from ..models.routing import Record, Site
from .checkpoint import save_whole
from .objective import Objective
from .program import takes_index
from .structure import untouched_randomness

FILE_NAME = "diverged.pt"
_MOST_CHOICES = 64  # of a site, looked at one by one
_MOST_NAMES = 3
CURE = "try a smaller lr, and look at the model's log-probabilities"

Batch = tuple[Tensor, Tensor | None, Tensor]


class Diverged(FloatingPointError):
    """Training met NaN or infinity.

    Attributes:
        saved: What was saved, or would have been: ``step``, ``method``, ``site``
            (``None`` where none is found), ``x``, ``y``, ``index``, and ``objective``,
            its state as it went into the step: before the optimiser moved anything,
            but where a finite gradient made a parameter overflow, which is said.
    """

    saved: dict[str, Any]


class Moment(NamedTuple):
    """What a step begins with.

    Attributes:
        batch: x, y and index.
        extra: The objective's step and random stream, of one that does not move itself.
    """

    batch: Batch
    extra: dict[str, Any]


def diverged(
    what: str,
    objective: Objective,
    moment: Moment,
    *,
    step: int,
    method: str,
    folder: Path | None,
    cure: str = CURE,
    name: str = FILE_NAME,
) -> Diverged:
    """Say where a run met NaN or infinity, and save its batch.

    Args:
        what: What was seen, such as ``"the loss is nan"``.
        objective: As it is now.
        moment: What the step began with.
        step: From 1.
        method: Its name.
        folder: Where ``diverged.pt`` is written; ``None``: it is kept in the error.
        cure: What to try.
        name: Of the file, where other processes write theirs beside it.
    """
    x, y, index = moment.batch
    model = objective.evaluated
    args = moment.batch if takes_index(model) else (x, y)
    site = first_bad_site(model, *args)
    state = objective.state_dict()
    state["_extra_state"] = {**objective.get_extra_state(), **moment.extra}
    saved = {"what": what, "step": step, "method": method, "site": site}
    saved |= {"x": x, "y": y, "index": index, "objective": state}
    where = f"; site {site!r} is the first that is not finite" if site else ""
    error = Diverged(
        f"{what} at step {step} of {method}{where}{_parameters(objective)}"
        f"{_written(folder, name, saved)}: {cure}"
    )
    error.saved = saved
    return error


def _parameters(objective: Objective) -> str:
    names = bad_parameters(objective)
    return f"; parameters that are not: {_some(names)}" if names else ""


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MOST_NAMES])
    rest = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"{shown}{rest}"


def _written(folder: Path | None, name: str, saved: dict[str, Any]) -> str:
    if folder is None:
        return ""
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_whole(path, saved)
    except OSError as error:  # a full disk must not hide the divergence
        return f"; {error}"
    return f"; its batch is in {path} (latentroute.inference.replay)"


def bad_parameters(objective: Objective) -> list[str]:
    """Names of the parameters that hold NaN or infinity."""
    return [
        name
        for name, tensor in objective.named_parameters()
        if not torch.isfinite(tensor).all()
    ]


def bad_gradients(objective: Objective) -> str:
    """What to say of parameters whose gradient holds NaN or infinity."""
    names = [
        name
        for name, tensor in objective.named_parameters()
        if tensor.grad is not None and not torch.isfinite(tensor.grad).all()
    ]
    verb = "is" if len(names) == 1 else "are"
    return f"the gradient of {_some(names)} {verb}"


def finite_gradients(parameters: Iterable[Tensor]) -> bool:
    """Whether no gradient holds NaN or infinity.

    In one kernel a device and type: torch's own, for gradients in 16 bits. A hundredth
    of a tiny step's time; a look at each tensor would be a tenth.
    """
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for parameter in parameters:
        if (gradient := parameter.grad) is None:
            continue
        if gradient.is_complex():  # which the kernel does not take
            gradient = torch.view_as_real(gradient)
        groups.setdefault((gradient.device, gradient.dtype), []).append(gradient)
    for (device, _), gradients in groups.items():
        # float32 whatever torch's default type is: the kernel takes no other.
        found = torch.zeros((), dtype=torch.float32, device=device)
        one = torch.ones_like(found)
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, found, one)
        if found.item():
            return False
    return True


def first_bad_site(model: Callable[..., Any], *args: Any) -> str | None:
    """The first statement, in program order, whose log-probability is not finite.

    Runs the program at choice 0 of every decision, then at choice 1, and so on. Of a
    latent site only NaN counts: a choice may have no probability.

    Returns:
        Its name; ``None`` where every run is finite.
    """
    most, choice = 1, 0

    def assign(site: Site) -> Tensor | None:
        nonlocal most
        if not site.is_enumerable:
            return None
        support = site.fn.enumerate_support()
        most = min(max(most, len(support)), _MOST_CHOICES)
        value: Tensor = support[min(choice, len(support) - 1)]
        return value

    while choice < most:
        record = Record(assign)
        with untouched_randomness(), torch.no_grad(), pyro.validation_enabled(False):
            # Of a run that NaN breaks off, the statements up to there tell.
            with contextlib.suppress(Exception):
                record.run(model, *args)
            for name, site in record.sites.items():
                if _is_bad(site):
                    return name
        choice += 1
    return None


def _is_bad(site: Site) -> bool:
    log_prob: Tensor = site.fn.log_prob(site.value)
    bad = ~torch.isfinite(log_prob) if site.observed else torch.isnan(log_prob)
    return bool(bad.any())


def replay(path: str | Path, objective: Objective) -> Tensor:
    """The loss that stopped a run, from what it saved.

    With the parameters, buffers and random numbers that the step had; where ``fit`` was
    given no folder, what it would have saved is the error's ``saved``. Where a gradient
    stopped the run, the loss is finite and its ``backward()`` gives that gradient;
    where the step left a parameter that is not finite, they are those after it.

    Args:
        path: The file ``diverged.pt``.
        objective: Of the run's model and method, as ``build`` makes it; takes up the
            state that was saved.

    Returns:
        The loss, differentiable.

    Raises:
        ValueError: If the file is none of ours, or of another model or method.
    """
    try:
        saved = torch.load(path, "cpu", weights_only=True)
        x, y, index = saved["x"], saved["y"], saved["index"]
        state = saved["objective"]
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever foreign bytes make torch raise
        raise ValueError(f"{path} cannot be read: it is no {FILE_NAME}") from error
    try:
        objective.load_state_dict(state)
    except (RuntimeError, KeyError) as error:
        raise ValueError(
            f"{path} is of another model or method: its parameters have other names or "
            "shapes"
        ) from error
    loss: Tensor = objective(x, y, index)
    return loss
