"""Routes drawn from a guide, and the model's terms at them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..guides.router import RouterGuide
from .program import RoutedProgram, takes_index
from .terms import Terms


class Proposal:
    """Draws routes from a guide and evaluates the model at them.

    Args:
        program: The model.
        guide: A Pyro program over the same routing sites, called with ``x, y`` and, if
            it takes one, ``index``. The model's own :class:`RouterGuide` costs no run.
    """

    def __init__(self, program: RoutedProgram, guide: Callable[..., Any]) -> None:
        self._program = program
        self._guide = guide
        self._takes_index = takes_index(guide)
        self._guide_program: RoutedProgram | None = None

    @property
    def is_router(self) -> bool:
        """Whether the guide is the model's own router."""
        guide = self._guide
        return isinstance(guide, RouterGuide) and guide.model is self._program.model

    def draw(
        self, model_args: tuple[Any, ...], index: Tensor | None, n_samples: int
    ) -> tuple[Terms, dict[str, Tensor]]:
        """S routes an example.

        Returns:
            The model's terms, of shape (S, N), and log q by site.

        Raises:
            ValueError: If the guide misses a routing site.
        """
        if self.is_router:
            terms = self._program.sample(*model_args, n_samples=n_samples)
            return terms, terms.prior
        if self._guide_program is None:
            structure = self._program.structure(*model_args)
            self._guide_program = RoutedProgram(self._guide, structure)
        guide_args = model_args[:2] + ((index,) if self._takes_index else ())
        drawn = self._guide_program.sample(*guide_args, n_samples=n_samples)
        n = max(route.shape[-1] for route in drawn.routes.values())
        names = self._guide_program.structure().names
        routes = torch.stack(
            [drawn.routes[name].expand(n_samples, n) for name in names], -1
        )
        return self._program.given(*model_args, routes=routes), drawn.prior
