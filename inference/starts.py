"""The starts of a recovery: from one to the next, and on with the best."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .buffered import rank_routes
from .evaluate import Evaluation, evaluate
from .guesses import guess_routes, orders
from .leader import Leader
from .objective import Model
from .sampler import Sampler

if TYPE_CHECKING:
    from .recover import Recover

_SEED_STEP = 1_000_003  # between the streams of two seeds
_FREE = 3  # every third start is free, the first among them
_GUIDED = 0.75  # of a guided start's steps
_LEAST_RATE = 0.05  # of the learning rate, at a start's end
_SETTLED_RATE = 0.01  # at the end of a last phase whose routes are settled
_SCORED, _LISTED = 256, 512  # examples of a score, and routes that are summed for it
_WIDEST = 4096  # inputs of an example: guessing takes the square in memory
_CHECK = 200  # steps of the last phase between two looks at what is held out


class StartsObjective(Sampler):
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
        self._moves, self._n_steps, self._start = 0, 0, 0
        self._room, self._ended = 1, 0  # starts there is room for, and as they ended
        self._first: dict[str, Tensor] = {}
        self._leader = Leader()
        self._settled = False  # whether the last phase is guided, for y confirms it
        self._adam: torch.optim.Adam | None = None
        self._rows: tuple[Tensor, Tensor] | None = None  # seen and held out
        self._guess: Tensor | None = None
        self._orders: list[tuple[int, ...]] = []

    @property
    def evaluated(self) -> Model:
        """What the inner method trains."""
        return self._inner.evaluated

    def prepare(self, x: Any, y: Any = None, index: Tensor | None = None) -> None:
        """Read the program, and make what the inner method needs."""
        super().prepare(x, y, index)
        self._inner.prepare(x, y, index)

    def _loss(self, x: Any, y: Any, index: Tensor | None) -> Tensor:
        order = self._order
        if order is None or index is None:
            loss: Tensor = self._inner(x, y, index)
        else:
            loss = self._guided_loss(x, y, index, order)
        if self._settled:
            return loss
        scale = self._method.prior_scale(self._start)
        matrices = [
            p
            for name, p in self.named_parameters()
            if p.dim() > 1 and name.rsplit(".", 1)[-1] != "bias"
        ]
        if not matrices or self.n_data is None:
            return loss
        return loss - log_prior(matrices, scale) / self.n_data

    @property
    def _order(self) -> tuple[int, ...] | None:
        """The order of the guesses that the present step is guided by, if it is."""
        done = self._moves - self._start * self._method.start_steps
        if self._settled or done < _GUIDED * self._method.start_steps:
            return self._start_order
        return None

    @property
    def _start_order(self) -> tuple[int, ...] | None:
        """The order of the guesses that is the present start's, if it is guided."""
        if not self._orders or not self._start % _FREE:
            return None
        return self._orders[guided_before(self._start) % len(self._orders)]

    @property
    def _starts(self) -> int:
        return self._ended or self._room

    def _guided_loss(
        self, x: Any, y: Any, index: Tensor, order: tuple[int, ...]
    ) -> Float[Tensor, ""]:
        """Minus the mean log p(y, a | x) at guessed routes, where they may be."""
        assert self._guess is not None
        args = self._arguments(x, y, index)
        routes = self._guess[index.to(self._guess.device)][:, list(order)]
        terms = self._program.given(*args, routes=routes.unsqueeze(0).to(x.device))
        joint = rank_routes(terms, self._program.structure(*args), 1.0, "joint")
        possible = joint.isfinite()
        return -joint.where(possible, 0.0).sum() / possible.sum().clamp_min(1)

    def _make_guess(self, x: Any, y: Any) -> None:
        """Guess routes, where a start is to use them."""
        method = self._method
        few = slice(0, 2)
        args = self._arguments(x[few], None if y is None else y[few], torch.arange(2))
        structure = self._program.structure(*args)
        fits = isinstance(x, Tensor) and x.is_floating_point() and len(x) > 1
        fits = fits and x[0].numel() <= _WIDEST
        if self._starts < 2 or not method.guesses or structure.coupled or not fits:
            return
        self._orders = orders(structure.n_choices, method.guesses, self._seed)
        if self._guess is None:
            self._guess = guess_routes(x, structure.n_choices, seed=self._seed).cpu()

    def begin(self, n_steps: int) -> None:
        """Say how many starts there are."""
        method, self._n_steps = self._method, n_steps
        last = max(1, math.ceil(n_steps * method.final))
        room = max(1, (n_steps - last) // method.start_steps)
        self._room = method.starts or room

    def advance(self, x: Any, y: Any = None, index: Tensor | None = None) -> float:
        """One step of Adam on a batch; before it a new start, where one is due."""
        if self._rows is None:
            self._rows = split_rows(len(x), self._method.held_out, self._seed)
            self._make_guess(x, y)
        seen, held = self._rows
        scored = held[:_SCORED].to(x.device)
        length = self._method.start_steps
        if self._moves % length == 0 and self._moves <= self._starts * length:
            self._turn(x, y, scored)
        late = self._moves - self._starts * length  # after a turn, which may end them
        stream = self._seed * _SEED_STEP + self._moves
        rows = draw_rows(seen, self._method.batch_size, stream).to(x.device)
        optimiser = self._optimiser()
        for group in optimiser.param_groups:
            group["lr"] = self._method.lr * self._rate(late)
        optimiser.zero_grad()
        loss = self(x[rows], None if y is None else y[rows], rows)
        value = float(loss.item())
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss is {value}: try a smaller lr")
        loss.backward()
        optimiser.step()
        self._moves += 1
        if late >= 0:
            ends = self._moves == self._n_steps
            if ends or (late + 1) % _CHECK == 0:
                values = self._see(x, y, scored).log_marginal
                self._leader.offer(self._start, values, self._weights())
            if ends:
                self._put(self._leader.weights)
        return value

    def _rate(self, late: int) -> float:
        """Of the learning rate: falls in a start's second half, and in the end."""
        length = self._method.start_steps
        if late >= 0:
            share = late / (self._n_steps - self._starts * length)
            if self._settled:
                return math.exp(share * math.log(_SETTLED_RATE))
            return max(_LEAST_RATE, 1 - share)
        return min(1.0, max(_LEAST_RATE, 2 - 2 * (self._moves % length) / length))

    def _turn(self, x: Any, y: Any, rows: Tensor) -> None:
        """Score the start that ended; begin the next, or go on with the best."""
        ended, leader = self._moves // self._method.start_steps, self._leader
        if not ended:
            self._first = {k: w.clone() for k, w in self._weights().items()}
            return
        seen = self._see(x, y, rows)
        agreement = self._agreement(seen, rows)
        leader.enter(self._start, seen.log_marginal, self._weights(), agreement)
        tried = guided_before(ended) >= len(self._orders)
        confirmed = tried and leader.confirmed
        if confirmed and self._method.starts is None:
            self._ended = ended
        if ended < self._starts:
            self._start = ended
            seed = self._seed * _SEED_STEP + ended
            self._put({k: shuffled(w, seed) for k, w in self._first.items()})
        else:
            self._start, self._settled = leader.start, confirmed
            self._put(leader.weights)
        self._adam = None

    def _agreement(self, seen: Evaluation, rows: Tensor) -> float | None:
        """Share of examples whose likeliest route is the guess; None if not guided."""
        if self._start_order is None or self._guess is None:
            return None
        guess = self._guess[rows.to(self._guess.device)][:, list(self._start_order)]
        same = seen.route_probs.argmax(-1).cpu() == guess
        return same.all(-1).float().mean().item()

    def _see(self, x: Any, y: Any, rows: Tensor) -> Evaluation:
        """What the present weights say of held-out examples."""
        return evaluate(
            self.evaluated,
            x[rows],
            None if y is None else y[rows],
            draws=0,
            seed=self._seed,
            max_routes=_LISTED,
        )

    def _weights(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.named_parameters()}

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
            "leader": self._leader.state(),
            "settled": self._settled,
            "ended": self._ended,
            "guess": self._guess,
            "adam": None if self._adam is None else self._adam.state_dict(),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take up the search of a checkpoint."""
        super().set_extra_state(state)
        self._moves, self._start = state["moves"], state["start"]
        self._first = state["first"]
        self._leader.load(state["leader"])
        self._settled, self._ended = state["settled"], state["ended"]
        self._guess = state["guess"]
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
    """A batch of ``size`` rows at most, with replacement: at no cost in N."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.randint(len(rows), (min(size, len(rows)),), generator=generator)
    return rows[places]


def guided_before(start: int) -> int:
    """How many of the starts before one are guided."""
    return start - math.ceil(start / _FREE)
