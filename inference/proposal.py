"""Routes drawn from a guide, and the model's terms at them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..guides.router import RouterGuide
from ..models.routing import ProgramError, Record
from .program import RoutedProgram, takes_index
from .structure import Structure, in_data_plate, untouched_randomness
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
        guide_args = model_args[:2] + ((index,) if self._takes_index else ())
        if self._guide_program is None:
            structure = self._program.structure(*model_args)
            check_guide(self._guide, guide_args, structure)
            self._guide_program = RoutedProgram(self._guide, structure)
        drawn = self._guide_program.sample(*guide_args, n_samples=n_samples)
        n = max(route.shape[-1] for route in drawn.routes.values())
        names = self._guide_program.structure().names
        routes = torch.stack(
            [drawn.routes[name].expand(n_samples, n) for name in names], -1
        )
        return self._program.given(*model_args, routes=routes), drawn.prior


def check_guide(
    guide: Callable[..., Any], args: tuple[Any, ...], structure: Structure
) -> None:
    """See in a plain run that a guide is one for a model's routing sites.

    Raises:
        ProgramError: If it misses a site, has other choices or plates there, or
            another latent site.
    """
    record = Record()
    with untouched_randomness(), torch.no_grad():
        record.run(guide, *args)
    sites = {name: s for name, s in record.sites.items() if not s.observed}
    has = list(sites)
    for site in structure.sites:
        if site.name not in sites:
            raise ProgramError(
                f"the guide does not sample the routing site {site.name!r}: it must "
                f"sample each of {list(structure.names)} (it has {has})"
            )
        found = sites.pop(site.name)
        support = found.fn.enumerate_support(expand=False)
        if len(support) != site.n_choices:
            raise ProgramError(
                f"the guide has {len(support)} choices at the routing site "
                f"{site.name!r}, the model {site.n_choices}"
            )
        if in_data_plate(found) is site.static:
            where = "outside every plate" if site.static else "in the data plate"
            raise ProgramError(
                f"the routing site {site.name!r} stands {where} in the model: it must "
                "stand there in the guide too"
            )
    if sites:
        raise ProgramError(
            f"the guide has a latent site {next(iter(sites))!r} that is no routing "
            f"site of the model; those are {list(structure.names)}"
        )
