"""Which methods apply to a model, found before any training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..models.layered import LayeredNetwork
from .methods import build
from .objective import Method, Model

# How a method refuses: a missing optional package is one way.
REFUSALS = (ValueError, NotImplementedError, ImportError)


def refusals(
    make: Callable[[], tuple[Model, Sequence[Tensor] | None]],
    methods: Mapping[str, Method],
    x: Tensor,
    y: Tensor,
    *,
    batch_size: int,
) -> dict[str, str]:
    """Why some of the methods do not apply, in one line each.

    Each is tried on one batch, on a model of its own: cost one loss a method.

    Args:
        make: Makes a model, and the tensors to train where it is no ``nn.Module``.
        methods: By label.
        x: Inputs of the training data.
        y: Targets of the training data.
        batch_size: Examples of the batch, at most.

    Raises:
        ValueError: If the data do not fit the model, or no method applies.
    """
    found: dict[str, str] = {}
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
                build(method, model, **args)(*args["example"])
            except REFUSALS as error:
                found[label] = " ".join(str(error).split())
    if len(found) == len(methods):
        reasons = dict.fromkeys(found.values())
        raise ValueError("; ".join(reasons))
    return found


def _device(
    model: Model, own: Sequence[Tensor] | None, x: Tensor
) -> torch.device | None:
    inside = model.parameters() if isinstance(model, nn.Module) else ()
    return next((p.device for p in own or inside), x.device)
