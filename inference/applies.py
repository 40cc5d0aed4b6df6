"""Which methods apply to a model and what they take, found before any training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..models.layered import LayeredNetwork
from .counting import count_evaluations
from .methods import build
from .objective import Method, Model, Objective
from .sampler import Sampler

# How a method refuses: a missing optional package is one way.
REFUSALS = (ValueError, NotImplementedError, ImportError)


class Tried(NamedTuple):
    """What one batch tells of some methods.

    Attributes:
        refused: Why those that do not apply do not, in one line each.
        evaluations: Module evaluations an example that a loss takes, of the others:
            the mean over an ``interval``, where a method has one. None of a sampler,
            whose steps take more or less, nor of a program without a ``ModuleBank``.
    """

    refused: dict[str, str]
    evaluations: dict[str, float]


def try_methods(
    make: Callable[[], tuple[Model, Sequence[Tensor] | None]],
    methods: Mapping[str, Method],
    x: Tensor,
    y: Tensor,
    *,
    batch_size: int,
) -> Tried:
    """Try some methods on one batch, each on a model of its own.

    Cost: two losses a method, or one more than its ``interval``.

    Args:
        make: Makes a model, and the tensors to train where it is no ``nn.Module``.
        methods: By label.
        x: Inputs of the training data.
        y: Targets of the training data.
        batch_size: Examples of the batch, at most.

    Raises:
        ValueError: If the data do not fit the model, or no method applies.
    """
    tried = Tried({}, {})
    index = torch.arange(min(batch_size, len(x)))
    for label, method in methods.items():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model, own = make()
            if isinstance(model, LayeredNetwork):
                model.check(x, y)  # wrong for all methods alike
            device = _device(model, own, x)
            batch = tuple(tensor[index].to(device) for tensor in (x, y))
            args: dict[str, Any] = {"parameters": own, "n_data": len(x), "seed": 0}
            args["example"] = (*batch, index.to(device))
            try:
                objective = build(method, model, **args)
                objective(*args["example"])  # a first call reads the program too
            except REFUSALS as error:
                tried.refused[label] = " ".join(str(error).split())
                continue
            rows = _evaluations(objective, args["example"], method)
            if rows and not isinstance(objective, Sampler):
                tried.evaluations[label] = rows
    if len(tried.refused) == len(methods):
        reasons = dict.fromkeys(tried.refused.values())
        raise ValueError("; ".join(reasons))
    return tried


def _evaluations(
    objective: Objective, example: tuple[Tensor, ...], method: Method
) -> float:
    """Rows that modules are evaluated at, an example and loss."""
    calls = getattr(method, "interval", 1)
    with count_evaluations() as count:
        for _ in range(calls):
            objective(*example)
    return count.rows / calls / len(example[0])


def _device(
    model: Model, own: Sequence[Tensor] | None, x: Tensor
) -> torch.device | None:
    inside = model.parameters() if isinstance(model, nn.Module) else ()
    return next((p.device for p in own or inside), x.device)
