"""Plain runs of a program: predictions, prior draws, what follows from its sites."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from .layout import Layout, Program, traced


class Anew(Messenger):
    """Draws observed statements anew; factors stay.

    Args:
        names: The statements.
    """

    def __init__(self, names: set[str]) -> None:
        super().__init__()
        self._names = names

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self._names and msg["is_observed"]:
            msg["is_observed"], msg["value"], msg["done"] = False, None, False


def predict(program: Program, layout: Layout) -> dict[str, Tensor]:
    """Draws of the observed statements, discrete sites drawn from their prior.

    What a program computes from its data itself, rather than from these statements,
    stays as it is: an autoregressive program predicts one step ahead.
    """
    names = {site.name for site in layout.of_kind("observed")}
    with Anew(names):
        nodes = traced(program)
    return {name: nodes[name]["value"] for name in nodes if name in names}


def draw_prior(program: Program, layout: Layout) -> dict[str, Tensor]:
    """One draw of all latent, deterministic and observed statements from the prior.

    Raises:
        ValueError: If a prior cannot be drawn from.
    """
    names = {site.name for site in layout.of_kind("observed")}
    try:
        with Anew(names):
            nodes = traced(program)
    except NotImplementedError as error:
        raise ValueError(
            "the program has a prior that cannot be drawn from "
            f"({str(error) or 'an improper one'}): pass prior_draws=0"
        ) from error
    kept = {site.name for site in layout.of_kind("latent", "observed", "deterministic")}
    return {name: node["value"] for name, node in nodes.items() if name in kept}


def follow(
    program: Program, layout: Layout, discrete: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The deterministic statements at values of the discrete sites."""
    nodes = traced(poutine.condition(program, data=dict(discrete)))
    return {
        site.name: nodes[site.name]["value"] for site in layout.of_kind("deterministic")
    }


def as_integers(values: Tensor, support: Tensor | None) -> Tensor:
    """Values of a discrete site as integers, where they are whole numbers."""
    if support is None or not values.is_floating_point():
        return values
    whole = bool((support == support.round()).all())
    return values.to(torch.int64) if whole else values
