"""Recovery of true modules: many regularised starts, one chosen on held-out data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..models.checks import check_count
from .evaluate import evaluate
from .exact import Exact
from .objective import Method, Model, Objective
from .sampler import Sampler

_GOLDEN = (math.sqrt(5) - 1) / 2
_SEED_STEP = 1_000_003  # between the streams of two seeds
_DECAY = 300  # steps after which the last phase's learning rate has halved


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
    best one goes on for what is left of the steps, on all examples, at a falling
    learning rate. All starts count as steps. Cost a step: the inner method's, on
    ``batch_size`` examples; and one evaluation of the held-out examples a start.

    A start shuffles the entries of every tensor as it was given, so that sizes stay
    as its maker chose them, and constant tensors as they are. A structure in the given
    weights (identity, orthogonal) is kept by the first start alone. Scales s are spread
    evenly in log s. Tensors of fewer than two dimensions and those called ``bias`` have
    no prior. ``fit``'s ``batch_size`` and ``lr`` do not apply: a start has its own.

    Args:
        inner: The method that gives the loss.
        start_steps: Steps of a start.
        final: Share of all steps kept for the best start.
        starts: How many; ``None``: as many as there are steps for.
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
        return _RecoverObjective(self, model, guide, **options)


class _RecoverObjective(Sampler):
    """The loss of the present start, and the way from start to start."""

    def __init__(
        self,
        method: Recover,
        model: Model,
        guide: Callable[..., Any] | None,
        *,
        seed: int | None = None,
        **options: Any,
    ) -> None:
        if options["parameters"] is not None:
            options["parameters"] = list(options["parameters"])
        super().__init__(model, seed=seed, **options)
        self._method, self._seed = method, seed or 0
        self._inner = method.inner(model, guide, seed=seed, **options)
        self._program = self._inner._program  # one likelihood scale for both
        self._moves, self._starts, self._start = 0, 1, 0
        self._first: dict[str, Tensor] = {}
        self._best: dict[str, Tensor] = {}
        self._best_start, self._best_score = 0, -math.inf
        self._adam: torch.optim.Adam | None = None
        self._rows: tuple[Tensor, Tensor] | None = None  # seen and held out

    @property
    def evaluated(self) -> Model:
        """What the inner method trains."""
        return self._inner.evaluated

    def prepare(self, x: Any, y: Any = None, index: Tensor | None = None) -> None:
        """Read the program, and make what the inner method needs."""
        super().prepare(x, y, index)
        self._inner.prepare(x, y, index)

    def _loss(self, x: Any, y: Any, index: Tensor | None) -> Tensor:
        loss: Tensor = self._inner(x, y, index)
        scale = self._method.prior_scale(self._start)
        matrices = [
            p
            for name, p in self.named_parameters()
            if p.dim() > 1 and name.rsplit(".", 1)[-1] != "bias"
        ]
        if not matrices or self.n_data is None:
            return loss
        return loss - log_prior(matrices, scale) / self.n_data

    def begin(self, n_steps: int) -> None:
        """Say how many starts there are."""
        method = self._method
        last = max(1, math.ceil(n_steps * method.final))
        room = max(1, (n_steps - last) // method.start_steps)
        self._starts = method.starts or room

    def advance(self, x: Any, y: Any = None, index: Tensor | None = None) -> float:
        """One step of Adam on a batch; before it a new start, where one is due."""
        if self._rows is None:
            self._rows = split_rows(len(x), self._method.held_out, self._seed)
        seen, held = self._rows
        late = self._moves - self._starts * self._method.start_steps
        if self._moves % self._method.start_steps == 0 and late <= 0:
            self._turn(x, y, held)
        rows = draw_rows(
            seen if late < 0 else torch.arange(len(x)),
            self._method.batch_size,
            self._seed * _SEED_STEP + self._moves,
        ).to(x.device)
        optimiser = self._optimiser()
        for group in optimiser.param_groups:
            group["lr"] = self._method.lr / (1 + max(late, 0) / _DECAY)
        optimiser.zero_grad()
        loss = self(x[rows], None if y is None else y[rows], rows)
        value = float(loss.item())
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss is {value}: try a smaller lr")
        loss.backward()
        optimiser.step()
        self._moves += 1
        return value

    def _turn(self, x: Any, y: Any, held: Tensor) -> None:
        """Score the start that ended; begin the next, or go on with the best."""
        ended = self._moves // self._method.start_steps
        if not ended:
            self._first = self._weights()
            return
        self._score(x, y, held.to(x.device))
        if ended < self._starts:
            self._start = ended
            seed = self._seed * _SEED_STEP + ended
            self._put({k: shuffled(w, seed) for k, w in self._first.items()})
        else:
            self._start = self._best_start
            self._put(self._best)
        self._adam = None

    def _score(self, x: Any, y: Any, held: Tensor) -> None:
        target = None if y is None else y[held]
        seen = evaluate(self.evaluated, x[held], target, draws=1, seed=self._seed)
        score = float(seen.log_marginal.mean())
        if score > self._best_score or not self._best:
            self._best, self._best_score = self._weights(), score
            self._best_start = self._start

    def _weights(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.named_parameters()}

    @torch.no_grad()
    def _put(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in self.named_parameters():
            parameter.copy_(weights[name])

    def _optimiser(self) -> torch.optim.Adam:
        if self._adam is None:
            self._adam = torch.optim.Adam(self.parameters(), lr=self._method.lr)
        return self._adam

    def get_extra_state(self) -> dict[str, Any]:
        """Where the search stands, for a checkpoint."""
        return {
            **super().get_extra_state(),
            "moves": self._moves,
            "start": self._start,
            "first": self._first,
            "best": self._best,
            "best_start": self._best_start,
            "best_score": self._best_score,
            "adam": None if self._adam is None else self._adam.state_dict(),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take up the search of a checkpoint."""
        super().set_extra_state(state)
        self._moves, self._start = state["moves"], state["start"]
        self._first, self._best = state["first"], state["best"]
        self._best_start, self._best_score = state["best_start"], state["best_score"]
        self._adam = None
        if state["adam"] is not None:
            self._optimiser().load_state_dict(state["adam"])


def log_prior(weights: Iterable[Tensor], scale: float) -> Float[Tensor, ""]:
    """log N(w; 0, scale^2) of all entries together, up to a constant, in nats."""
    squares = torch.stack([w.square().sum() for w in weights]).sum()
    return -squares / (2 * scale**2)


def shuffled(weight: Tensor, seed: int) -> Tensor:
    """The entries of a tensor in a random order: new weights of the old spread."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(weight.numel(), generator=generator)
    return weight.flatten()[order.to(weight.device)].view_as(weight)


def split_rows(
    n: int, held_out: float, seed: int
) -> tuple[Int[Tensor, " seen"], Int[Tensor, " held"]]:
    """Rows to train on and rows to score by; where there is one row, it is both."""
    rows = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    if n == 1:
        return rows, rows
    cut = min(max(1, round(n * held_out)), n - 1)
    return rows[cut:], rows[:cut]


def draw_rows(rows: Int[Tensor, " n"], size: int, seed: int) -> Int[Tensor, " batch"]:
    """A batch of ``size`` rows at most, without replacement."""
    generator = torch.Generator().manual_seed(seed)
    return rows[torch.randperm(len(rows), generator=generator)[:size]]
