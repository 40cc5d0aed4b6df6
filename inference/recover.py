"""Recovery of true modules: regularised starts, some guided, one chosen held-out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..models.checks import check_count
from .exact import Exact
from .objective import Method, Model, Objective
from .starts import StartsObjective

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Recover(Method):
    r"""Training from several starts under a Gaussian prior over weight matrices.

    .. math::
        \max_w \frac1N \Big[\sum_n \log p(y_n \mid x_n, w)
        + \log \mathcal N(w; 0, s^2)\Big]

    Flexible modules fit the noise of the examples that came to them by chance, and the
    routes freeze before the true ones are found; the prior takes that freedom away. Too
    strong a one keeps all modules alike, and which is right differs from task to task:
    so each start draws new weights and has a scale s of its own. After ``start_steps``
    steps a start is scored by the mean log p(y | x) of examples it did not see; the
    best one goes on for what is left of the steps and ends at the weights with the best
    score. All starts count as steps. Cost a step: the inner method's, on ``batch_size``
    examples drawn with replacement. A score sums all routes of 256 examples, or 512
    sampled ones where there are more; it is taken after each start, and at every 200th
    step of the last phase. A run that is resumed with more steps than it had makes a
    plan of those that are left: it is not the run that had them all from the start.

    Two starts in three are guided, not the first: for the first three quarters of its
    steps such a start maximises log p(y, a | x) at routes a guessed from the inputs
    alone, by :func:`~latentroute.inference.guesses.guess_routes`, one route an example.
    Each hands the guessed labellings to the sites in another order, and begins with the
    first order again when all were tried. Where clusters of the inputs tell nothing of
    the routes, these starts lose. Inputs that are no tensor of floats or have more than
    4,096 numbers an example, and programs with static sites, have free starts alone.

    Where y confirms the guess, no more starts are made (unless ``starts`` says how
    many), and the last phase trains at the guessed routes, without a prior, at a rate
    that falls exponentially. Every order was tried then; the best start is a guided
    one, better than the best free one by three standard errors of the held-out
    difference; and when it ended, the guess was the mode of p(a_l | x, y) at every site
    in 99% of the held-out examples.

    A start shuffles the entries of every tensor as it was given, so that sizes stay
    as its maker chose them, and constant tensors as they are. A structure in the given
    weights (identity, orthogonal) is kept by the first start alone. Scales s are spread
    evenly in log s. Tensors of fewer than two dimensions and those called ``bias`` have
    no prior. ``fit``'s ``batch_size`` and ``lr`` do not apply: a start has its own.

    Args:
        inner: The method that gives the loss.
        start_steps: Steps of a start.
        final: Share of all steps kept for the best start.
        starts: How many; ``None``: as many as there are steps for, and fewer where y
            confirms a guess.
        guesses: Orders of the guessed routes, at most; 0: all starts are free.
        smallest: The least prior scale s, in units of the weights.
        largest: The greatest.
        held_out: Share of the examples that starts are scored by.
        batch_size: Examples a step, at most.
        lr: Adam's learning rate.
    """

    inner: Method = field(default_factory=Exact)
    start_steps: int = 600
    final: float = 0.3
    starts: int | None = None
    guesses: int = 24
    smallest: float = 0.3
    largest: float = 0.9
    held_out: float = 0.1
    batch_size: int = 64
    lr: float = 1e-2

    summary: ClassVar[str] = "starts under weight priors, chosen on held-out examples"
    wiring: ClassVar[str] = "recovery"
    unbiased_for: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        for name in ("start_steps", "batch_size"):
            check_count(name, getattr(self, name))
        if self.starts is not None:
            check_count("starts", self.starts)
        check_count("guesses", self.guesses, least=0)
        for name in ("final", "held_out"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must lie in (0, 1), got {getattr(self, name)}"
                )
        if not 0 < self.smallest <= self.largest < math.inf:
            raise ValueError(
                "smallest and largest must be positive and in this order, got "
                f"{self.smallest} and {self.largest}"
            )
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be positive, got {self.lr}")

    def prior_scale(self, start: int) -> float:
        """The prior's standard deviation s at a start: an even spread in log s."""
        place = (0.5 + start * _GOLDEN) % 1
        ratio = math.log(self.largest / self.smallest)
        return self.smallest * math.exp(place * ratio)

    def check_steps(self, n_steps: int) -> None:
        """Refuse a number of steps that leaves none for the best start.

        Raises:
            ValueError: Says how many the starts alone take.
        """
        taken = (self.starts or 1) * self.start_steps
        if (self.starts or 1) > 1 and n_steps <= taken:
            raise ValueError(
                f"{self.starts} starts of {self.start_steps} steps take {taken} steps, "
                f"and the best of them goes on: got steps={n_steps}"
            )

    def objective(
        self, model: Model, guide: Callable[..., Any] | None, **options: Any
    ) -> Objective:
        """The objective; a guide goes to the inner method."""
        if options["n_data"] is None:
            raise ValueError("recovery weighs a prior against the data: pass n_data=")
        return StartsObjective(self, model, guide, **options)
