"""What all relaxations share: their objective, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..objective import Model, Objective
from ..program import RoutedProgram
from ..relaxed import RelaxedTerms, WeightsOf
from ..schedules import Schedule
from ..structure import untouched_randomness


class RelaxedObjective(Objective):
    """Minus the mean of log p(y | x, weights), the weights made from log p(a_l | z_l).

    Args:
        model: The program.
        weights: From log-probabilities (*lead, N, M) and the step, weights of that
            shape.
        n_samples: S.
        **options: Those of :class:`Objective`.
    """

    def __init__(
        self,
        model: Model,
        weights: Callable[[Tensor, int], Tensor],
        n_samples: int,
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        self._weights = weights
        self._n_samples = n_samples
        self._n_checked = 0  # examples on which the program was tried

    def prepare(self, x: Any, y: Any = None, index: Tensor | None = None) -> None:
        """Read the program on an example batch, and see that it can be relaxed."""
        super().prepare(x, y, index)
        if len(x) > self._n_checked:  # a few examples may hide a step function
            args = self._arguments(x, y, index)
            check_relaxable(self._program, args, self._weights_of)
            self._n_checked = len(x)

    def _weights_of(self, name: str, log_probs: Tensor) -> Tensor:
        return self._weights(log_probs, self.step)

    def _loss(self, x: Any, y: Any, index: Tensor | None) -> Tensor:
        self.prepare(x, y, index)
        args = self._arguments(x, y, index)
        terms = self._program.relaxed(
            *args, weights_of=self._weights_of, n_samples=self._n_samples
        )
        return -relaxed_likelihood(terms, len(x) * self._data_scale(len(x))).mean()


def relaxed_likelihood(
    terms: RelaxedTerms, n_data: float
) -> Float[Tensor, "samples examples"]:
    """log p(y | x, weights) of each sample, per example of the data."""
    return terms.likelihood + terms.static_likelihood / n_data


def sampled_one_hot(log_probs: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch m"]:
    """A choice drawn from its probabilities, as a unit vector."""
    return largest_one_hot(log_probs.detach() + gumbel_like(log_probs))


def largest_one_hot(scores: Float[Tensor, "*batch m"]) -> Float[Tensor, "*batch m"]:
    """The choice of the highest score, as a unit vector."""
    return torch.zeros_like(scores).scatter(-1, scores.argmax(-1, keepdim=True), 1.0)


def gumbel_like(scores: Tensor) -> Tensor:
    """Independent standard Gumbel numbers, one for each score."""
    drawn = torch.empty_like(scores, requires_grad=False).exponential_()
    return -drawn.clamp_min(torch.finfo(scores.dtype).tiny).log()


def check_temperature(temperature: Schedule) -> None:
    """Refuse a schedule of temperatures that is not positive throughout.

    Raises:
        ValueError: Says what was given.
    """
    # Schedules are monotone: the ends are the extremes.
    ends = [temperature(step) for step in (0, 2**62)]
    if min(ends) <= 0:
        raise ValueError(f"temperature must be positive at every step, got {ends}")


def check_no_guide(name: str, guide: object) -> None:
    """Refuse a guide where the router's own weights are what is trained.

    Raises:
        ValueError: Says so.
    """
    if guide is not None:
        raise ValueError(f"{name} takes no guide: it relaxes the router's own choices")


def check_relaxable(
    program: RoutedProgram, args: tuple[Any, ...], weights_of: WeightsOf
) -> None:
    """Refuse a program whose y does not depend differentiably on every site's weights.

    Tried on the example batch. A site is refused where y has no gradient in its
    weights; and where, the other sites' weights held, that gradient is zero throughout
    while y does change with the site's choice: through a step function (rounding, say),
    though later routers may pass a gradient on.

    Raises:
        ValueError: Names the site, and what to use.
    """
    if not program.structure(*args).sites:
        raise ValueError("every routing site is given: there is nothing to relax")
    with torch.enable_grad(), untouched_randomness():
        made, whole = _gradients(program, args, weights_of)
        held, direct = _gradients(program, args, _held(made))
        for name, slope in direct.items():
            is_flat = slope is None or not slope.any()
            if whole[name] is None or (is_flat and _moves(program, args, held, name)):
                raise ValueError(
                    f"the route {name!r} cannot be relaxed, because y does not depend "
                    "differentiably on its weights (modules after it are hard-coded, "
                    "perhaps): take a method that samples hard routes, such as "
                    "score-function"
                )


def _gradients(
    program: RoutedProgram, args: tuple[Any, ...], weights_of: WeightsOf
) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
    """By site: the weights of one relaxed run, detached, and y's gradient in them."""
    seen: dict[str, Tensor] = {}

    def leaf(name: str, log_probs: Tensor) -> Tensor:
        weights = weights_of(name, log_probs)
        if not weights.requires_grad:  # held, or of a router that is not trained
            weights = weights.detach().requires_grad_()
        seen[name] = weights
        return weights

    terms = program.relaxed(*args, weights_of=leaf, n_samples=1)
    value, names = _likelihood(terms), list(seen)
    found: tuple[Tensor | None, ...] = (None,) * len(names)
    if value.requires_grad:
        found = torch.autograd.grad(value, list(seen.values()), allow_unused=True)
    weights = {name: tensor.detach() for name, tensor in seen.items()}
    return weights, dict(zip(names, found, strict=True))


@torch.no_grad()
def _moves(
    program: RoutedProgram, args: tuple[Any, ...], held: dict[str, Tensor], moved: str
) -> bool:
    """Whether y changes with one site's choice, the others' weights held."""
    values = []
    for m in range(held[moved].shape[-1]):
        one_hot = torch.zeros_like(held[moved])
        one_hot[..., m] = 1.0
        weights = {**held, moved: one_hot}
        terms = program.relaxed(*args, weights_of=_held(weights), n_samples=1)
        values.append(_likelihood(terms))
    return any(value != values[0] for value in values)


def _held(weights: dict[str, Tensor]) -> WeightsOf:
    return lambda name, log_probs: weights[name]


def _likelihood(terms: RelaxedTerms) -> Tensor:
    return terms.likelihood.sum() + terms.static_likelihood.sum()
