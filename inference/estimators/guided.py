"""What objectives with a guide q(a | x, y) of its own have in common."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from typing import Any, TypeVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ...guides.amortised import AmortisedGuide
from ...guides.decision import Decision
from ...models.routing import Site
from ..objective import Model, Objective
from ..program import RoutedProgram, takes_index
from ..proposal import Proposal
from ..structure import Structure, in_data_plate, untouched_randomness

GuideT = TypeVar("GuideT", bound=nn.Module)


class GuidedObjective(Objective, ABC):
    """An objective of a model and a guide, by default an amortised one.

    Args:
        model: As for :class:`Objective`.
        guide: A Pyro program over the model's routing sites, called with ``x, y`` and,
            if it takes one, ``index``; ``None``: an :class:`AmortisedGuide`, made by
            ``prepare``.
        hidden_features: Of the amortised guide.
        seed: As for :class:`Objective`; of the amortised guide's start, too.
        **options: As for :class:`Objective`.
    """

    def __init__(
        self,
        model: Model,
        guide: Callable[..., Any] | None,
        *,
        hidden_features: int,
        seed: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, seed=seed, **options)
        self.guide = guide
        self._hidden_features = hidden_features
        self._seed = seed
        self._proposal: Proposal | None = None
        self._guide_program: RoutedProgram | None = None

    def prepare(self, x: Any, y: Any = None, index: Tensor | None = None) -> None:
        """Read the program on an example batch, and make the guide."""
        super().prepare(x, y, index)
        if self._proposal is not None:
            return
        args = self._arguments(x, y, index)
        if self.guide is None:
            self.guide = amortised_guide(
                self._program,
                args,
                hidden_features=self._hidden_features,
                seed=self._seed,
            )
        self._proposal = Proposal(self._program, self.guide)
        self._guide_program = RoutedProgram(self.guide, self._program.structure(*args))

    def _proposed(self) -> tuple[Proposal, RoutedProgram]:
        """The guide, to draw from and to run; after ``prepare``."""
        assert self._proposal is not None and self._guide_program is not None
        return self._proposal, self._guide_program

    def _guide_arguments(self, x: Any, y: Any, index: Tensor | None) -> tuple[Any, ...]:
        """What the guide is called with."""
        assert self.guide is not None
        return (x, y, index) if takes_index(self.guide) else (x, y)


def decisions_of(structure: Structure) -> tuple[Decision, ...]:
    """A program's routing sites as guides take them.

    Raises:
        ValueError: If every site is given, so that there is nothing to guide.
    """
    if not structure.sites:
        raise ValueError(
            "every routing site is given: there is no route to infer; use exact"
        )
    return tuple(
        Decision(site.name, site.n_choices, site.static, one_hot=not site.is_range)
        for site in structure.sites
    )


def amortised_guide(
    program: RoutedProgram,
    args: tuple[Any, ...],
    *,
    hidden_features: int,
    seed: int | None,
) -> AmortisedGuide:
    """An amortised guide for a program, sized by an example batch.

    y is encoded one-hot where the program observes it from a Categorical, whose number
    of classes holds; otherwise as numbers.

    Args:
        program: The model.
        args: ``x, y`` of a few examples, and what else the model takes.
        hidden_features: Width of the guide's hidden layers.
        seed: Of the guide's start.

    Raises:
        ValueError: If x or y is no tensor with one row an example.
    """
    x, y = args[:2]
    decisions = decisions_of(program.structure(*args))
    for name, values in (("x", x), ("y", y)):
        if values is None and name == "y":
            continue
        if not isinstance(values, Tensor) or not values.dim() or len(values) != len(x):
            raise ValueError(
                f"an amortised guide takes {name} as a tensor with one row an example, "
                f"got {_kind(values)}: pass a guide of your own"
            )
    classes = None if y is None else _n_classes(program, args)
    guide = AmortisedGuide(
        decisions,
        x[0].numel(),
        y_features=0 if y is None or classes else y[0].numel(),
        n_classes=classes,
        hidden_features=hidden_features,
        seed=seed,
    )
    return guide_like(x, guide)


def guide_like(x: Any, guide: GuideT) -> GuideT:
    """The guide on the device of x, and in its precision where x holds floats."""
    if not isinstance(x, Tensor):
        return guide
    return guide.to(device=x.device, dtype=x.dtype if x.is_floating_point() else None)


def target_site(sites: dict[str, Site], y: Tensor) -> Site | None:
    """The one site that observes y in the data plate, or ``None``."""
    found = [
        site
        for site in sites.values()
        if site.observed
        and in_data_plate(site)
        and site.value.numel() == y.numel()
        and torch.equal(site.value.reshape(-1), y.reshape(-1).to(site.value.dtype))
    ]
    return found[0] if len(found) == 1 else None


def _n_classes(program: RoutedProgram, args: tuple[Any, ...]) -> int | None:
    """Number of classes of y, where it is observed from a Categorical."""
    with torch.no_grad(), untouched_randomness():
        sites = program.sample(*args, n_samples=1).sites
    site = target_site(sites, args[1])
    if site is None or not isinstance(site.fn, dist.Categorical):
        return None
    return int(site.fn.probs.shape[-1])


def _kind(values: object) -> str:
    if isinstance(values, Tensor):
        return f"shape {tuple(values.shape)}"
    return type(values).__name__
