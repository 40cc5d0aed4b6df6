"""Data simulated from a model itself, the routes that made them kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn

from ..guides.weights import Prior, weights_at
from ..inference.program import RoutedProgram
from ..inference.structure import Structure
from ..models.routing import Record


class Simulated(NamedTuple):
    """One simulation of all examples.

    Attributes:
        y: What the model made of x.
        routes: (N, L) choices that made it, in program order.
        structure: The model's routing sites.
    """

    y: Any
    routes: Int[Tensor, "examples sites"]
    structure: Structure


class Simulator:
    """Runs a model forwards.

    Args:
        model: A Pyro program ``model(x, y=None)``: called without y it samples y.
        target: Name of the site whose value is y; ``None``: y is what the model
            returns.
    """

    def __init__(self, model: Callable[..., Any], target: str | None) -> None:
        self.program = RoutedProgram(model)
        self._target = target

    def __call__(self, x: Tensor) -> Simulated:
        """Simulate routes and y, drawn from torch's global stream.

        Raises:
            ValueError: If the model gives no y, or conditions on something by itself.
        """
        record = Record()
        y = record.run(self.program.model, x)
        observed = [name for name, site in record.sites.items() if site.observed]
        if observed:
            raise ValueError(
                f"site {observed[0]!r} is observed when the model is called without y: "
                "data that it is conditioned on cannot be simulated; pass a model that "
                "samples them"
            )
        if self._target is not None:
            if self._target not in record.sites:
                raise ValueError(
                    f"target: got {self._target!r}, expected one of the model's sites "
                    f"{list(record.sites)}"
                )
            y = record.sites[self._target].value
        if y is None:
            raise ValueError(
                "the model returns nothing when called without y: let it return y, or "
                f"name its site by target= (its sites: {list(record.sites)})"
            )
        structure = self.program.structure(x, y)
        routes = [
            site.choice_of(record.sites[site.name].value).reshape(-1).expand(len(x))
            for site in structure.sites
        ]
        return Simulated(y, torch.stack(routes, -1), structure)


def trained(
    model: Callable[..., Any], parameters: Iterable[Tensor] | None
) -> tuple[Tensor, ...]:
    """The tensors that a prior is over: those given, or the module's own.

    Raises:
        ValueError: If there are none.
    """
    if parameters is None and isinstance(model, nn.Module):
        parameters = [p for p in model.parameters() if p.requires_grad]
    found = tuple(parameters or ())
    if not found:
        raise ValueError(
            "a prior is over weights, and there are none: pass parameters=, the "
            "model's tensors"
        )
    return found


@contextmanager
def drawn_from(
    prior: Prior | None, parameters: Sequence[Tensor]
) -> Iterator[list[Tensor]]:
    """Weights drawn from their prior in the model's place; none without a prior."""
    if prior is None:
        yield []
        return
    values = [prior.distribution(p).sample(p.shape) for p in parameters]
    with weights_at(parameters, values):
        yield values
