"""What a training run is asked for, checked before any of it."""

from __future__ import annotations

import inspect
import math
import operator
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..models.checks import check_count

_LONGEST = 200  # characters of a path that are shown
_PROGRAM = "the model must be a Pyro program model(x, y=None)"


def check_training(
    *,
    steps: Any,
    batch_size: Any,
    lr: Any,
    seed: Any,
    log_every: Any,
    checkpoint_every: Any,
) -> None:
    """Refuse numbers that no training can have; arguments as those of ``fit``.

    Raises:
        ValueError: Names the argument, what was given and what is accepted.
    """
    counts = {"steps": steps, "batch_size": batch_size}
    optional = {"log_every": log_every, "checkpoint_every": checkpoint_every}
    counts |= {name: n for name, n in optional.items() if n is not None}
    for name, value in counts.items():
        check_count(name, value)
    try:
        accepted = 0 < lr < math.inf
    except TypeError:
        accepted = False
    if not accepted:
        raise ValueError(f"lr must be positive, got {lr!r}")
    try:
        accepted = -(2**63) <= operator.index(seed) < 2**63
    except TypeError:
        accepted = False
    if not accepted:
        raise ValueError(f"seed must be a whole number of 64 bits, got {seed!r}")


def check_program(model: Any) -> None:
    """Refuse what cannot be called as a program, or makes one when called.

    Raises:
        TypeError: Says what was given.
    """
    if isinstance(model, type):
        raise TypeError(
            f"{_PROGRAM}, got the class {model.__name__}: make a model of it first, "
            f"{model.__name__}(...)"
        )
    if not callable(model):
        raise TypeError(f"{_PROGRAM}, a function or an nn.Module, got {model!r}")


def check_model(model: Any) -> None:
    """Refuse what is no program ``model(x, y)``.

    Raises:
        TypeError: Says what was given.
    """
    check_program(model)
    try:
        signature = inspect.signature(
            model.forward if isinstance(model, nn.Module) else model
        )
    except ValueError:  # of some functions in C there is none
        return
    try:
        index = {"index": None} if "index" in signature.parameters else {}
        signature.bind(None, None, **index)
    except TypeError:
        name = getattr(model, "__name__", type(model).__name__)
        raise TypeError(f"{_PROGRAM}, got {name}, which takes {signature}") from None


def check_parameters(parameters: Iterable[Any]) -> list[Tensor]:
    """The tensors to train, as a list.

    Raises:
        TypeError: If they are no leaf tensors.
        ValueError: If one is there twice.
    """
    if isinstance(parameters, Tensor):
        parameters = [parameters]
    if not isinstance(parameters, Iterable):
        raise TypeError(f"parameters must be tensors to train, got {parameters!r}")
    found: dict[int, Tensor] = {}
    for i, tensor in enumerate(parameters):
        if not isinstance(tensor, Tensor) or not tensor.is_leaf:
            raise TypeError(
                "parameters must be leaf tensors such as net.parameters() gives, got "
                f"{type(tensor).__name__} at place {i}"
            )
        if id(tensor) in found:
            raise ValueError(f"parameters must differ, got one again at place {i}")
        found[id(tensor)] = tensor
    return list(found.values())


def writable_folder(argument: str, given: Any) -> Path | None:
    """A folder to write to, made if it is not there; ``None`` where none is given.

    Raises:
        TypeError: If it is no path.
        ValueError: If it cannot be made or written to; says why.
    """
    if given is None:
        return None
    if not isinstance(given, str | os.PathLike) or not os.fspath(given):
        raise TypeError(f"{argument} must be the path of a folder, got {given!r}")
    path = Path(given)
    try:
        path.mkdir(parents=True, exist_ok=True)
        reason = None if os.access(path, os.W_OK) else "no permission to write"
    except FileExistsError:
        reason = "it is a file"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    if reason is not None:
        shown = f"{str(path)[:_LONGEST]!r}"
        raise ValueError(
            f"{argument} must be a folder to write to, got {shown}: {reason}"
        )
    return path
