"""Training on buffered routes: hard EM and top-K buffers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..guides.buffer import BufferGuide, Score
from ..models.checks import check_choice, check_count
from .baselines import leave_one_out
from .buffered import buffer_rows, candidates, rank_routes
from .objective import Method, Model, Objective
from .score_function import elbo_of, score_function
from .sinkhorn import balance_scores
from .structure import Structure
from .terms import Terms, split_terms

Weights = Literal["posterior", "uniform"]


@dataclass(frozen=True)
class TopKBuffer(Method):
    r"""Fresh samples beside the best routes found for each example.

    .. math::
        w_{fresh}\, \mathrm{ELBO}_S + w_{buffer} \sum_{a \in A^*_n}
        w_a \log p(y, a \mid x), \quad
        w_a \propto p(y, a \mid x) \text{ over the buffer, detached}

    At every ``interval``-th step an E-step proposes S routes from the router, scores
    them and the incumbents under the current parameters, and keeps the best K distinct
    ones. Biased for the ELBO, on purpose. Capacity 1 with w_fresh = 0 and w_buffer = 1
    is hard EM of as many proposals; capacity |A| with w_fresh = 0 has the exact
    marginal's gradient. Unlike the reference text's plain mean over fresh and buffered
    routes, a buffered route's reward here never pushes it down. Cost: S + K evaluations
    an example in one run; with w_fresh = 0, S + 2 K in two, the first without gradient.

    Args:
        capacity: K, routes kept an example.
        n_samples: S, fresh routes in an E-step and in the ELBO; at least 2 where
            ``w_fresh`` > 0.
        w_fresh: Weight of the score-function ELBO of the fresh samples.
        w_buffer: Weight of the buffered routes.
        weights: ``"posterior"`` as above, or ``"uniform"`` over the buffer, as in
            priority-queue training.
        score: What routes are kept by: ``"joint"``, ``"likelihood"`` or ``"prior"``.
        include_incumbent: Whether buffered routes compete in the E-step.
        interval: Steps from one E-step to the next.
        balance: Temperature in nats of E-steps that choose under balanced use of each
            site's modules in the minibatch
            (:func:`~latentroute.inference.sinkhorn.balance_scores`); ``None``: free.
        path: A folder for the file that holds the buffer, N x K x (L + 5) bytes, in
            place of RAM (:class:`~latentroute.guides.RouteBuffer`); ``None``: RAM.

    References:
        Abolafia et al. 2018, arXiv:1801.03526; Kirsch et al. 2018, arXiv:1811.05249.
    """

    capacity: int = 4
    n_samples: int = 8
    w_fresh: float = 0.5
    w_buffer: float = 0.5
    weights: Weights = "posterior"
    score: Score = "joint"
    include_incumbent: bool = True
    interval: int = 1
    balance: float | None = None
    path: str | None = None

    summary: ClassVar[str] = "the best K routes of each example, and fresh samples"
    wiring: ClassVar[str] = "top-K buffer"
    unbiased_for: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        check_count("capacity", self.capacity)
        check_count("n_samples", self.n_samples, least=2 if self.w_fresh else 1)
        check_count("interval", self.interval)
        check_choice("weights", self.weights, get_args(Weights))
        check_choice("score", self.score, get_args(Score))
        for name in ("w_fresh", "w_buffer"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        if self.balance is not None and not 0 < self.balance < math.inf:
            raise ValueError(f"balance must be positive, got {self.balance}")

    def guide(self, structure: Structure, n_data: int, seed: int | None) -> BufferGuide:
        """The buffer that this method keeps, for a program of this structure."""
        n_static = len(structure.static_sites)
        if n_static not in (0, len(structure.sites)):
            raise ValueError(
                "a buffer takes a program whose routing sites are all dynamic or all "
                f"static; static here: {[s.name for s in structure.static_sites]}"
            )
        return BufferGuide(
            structure.names,
            structure.n_choices,
            1 if n_static else n_data,
            static=n_static > 0,
            capacity=self.capacity,
            n_samples=self.n_samples,
            score=self.score,
            include_incumbent=self.include_incumbent,
            interval=self.interval,
            seed=seed,
            path=self.path,
        )

    def objective(
        self, model: Model, guide: Callable[..., Any] | None, **options: Any
    ) -> Objective:
        """The objective; without a guide, a buffer is made at the first call."""
        if guide is not None and not isinstance(guide, BufferGuide):
            raise TypeError(
                f"{self.wiring} takes a BufferGuide, got {type(guide).__name__}"
            )
        if guide is None and options["n_data"] is None:
            raise ValueError(
                f"{self.wiring} keeps routes an example: pass n_data=, their number"
            )
        return _BufferObjective(self, model, guide, **options)


@dataclass(frozen=True)
class HardEM(Method):
    r"""Viterbi EM: train on the one best route found so far for each example.

    .. math::
        \max_{\theta, \phi, a^*} \sum_n \log p(y_n \mid x_n, a^*_n)
        + \log p(a^*_n \mid x_n)

    by coordinate ascent: at every ``interval``-th step an E-step lets S fresh routes
    compete with the incumbent, ties keeping it; each step then follows the gradient of
    the joint at a*. Not an estimate of the marginal's gradient: known to collapse onto
    few modules. Cost: S + 2 evaluations an example.

    Kirsch et al. run an E-step at every tenth step, on a minibatch of its own, with
    S = 9 fresh samples; here it is done on the step's own minibatch.

    Args:
        n_samples: S, fresh routes in an E-step.
        score: What routes are kept by: ``"joint"``, ``"likelihood"`` or ``"prior"``.
        include_incumbent: Whether the buffered route competes in the E-step.
        interval: Steps from one E-step to the next.
        balance: As for :class:`TopKBuffer`: keeps modules in use.
        path: As for :class:`TopKBuffer`: a folder for the buffer's file.

    References:
        Kirsch, Kunze, Barber 2018, arXiv:1811.05249, algorithm 1.
    """

    n_samples: int = 9
    score: Score = "joint"
    include_incumbent: bool = True
    interval: int = 1
    balance: float | None = None
    path: str | None = None

    summary: ClassVar[str] = "hard EM: the best route found so far of each example"
    wiring: ClassVar[str] = "hard EM"
    unbiased_for: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        self._as_buffer()

    def _as_buffer(self) -> TopKBuffer:
        return TopKBuffer(
            capacity=1,
            n_samples=self.n_samples,
            w_fresh=0.0,
            w_buffer=1.0,
            score=self.score,
            include_incumbent=self.include_incumbent,
            interval=self.interval,
            balance=self.balance,
            path=self.path,
        )

    def objective(
        self, model: Model, guide: Callable[..., Any] | None, **options: Any
    ) -> Objective:
        """The objective; without a guide, a buffer is made at the first call."""
        return self._as_buffer()(model, guide, **options)


class _BufferObjective(Objective):
    def __init__(
        self,
        method: TopKBuffer,
        model: Model,
        guide: BufferGuide | None,
        *,
        seed: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, seed=seed, **options)
        self.guide: nn.Module | None = guide
        self._method = method
        self._seed = seed

    def prepare(self, x: Any, y: Any = None, index: Tensor | None = None) -> None:
        """Read the program on an example batch, and make the buffer of its sites."""
        super().prepare(x, y, index)
        structure = self._program.structure(*self._arguments(x, y, index))
        if self._method.balance is not None and structure.static_sites:
            raise ValueError(
                "balance shares the modules out among examples, and static sites have "
                "one route for all: leave balance out"
            )
        if self.guide is None and self.n_data is not None:
            guide = self._method.guide(structure, self.n_data, self._seed)
            self.guide = guide.to(getattr(x, "device", None))

    @property
    def _buffer_guide(self) -> BufferGuide:
        if not isinstance(self.guide, BufferGuide):
            raise RuntimeError("the buffer is made by the first call, or by prepare()")
        return self.guide

    def _loss(self, x: Any, y: Any, index: Tensor | None) -> Tensor:
        self.prepare(x, y, index)
        guide, method = self._buffer_guide, self._method
        args = self._arguments(x, y, index)
        structure = self._program.structure(*args)
        scale = self._data_scale(len(x))
        static = {site.name for site in structure.static_sites}
        rows = buffer_rows(guide.buffer, len(x), index, static=bool(static))
        rows = rows.to(getattr(x, "device", None))  # a mapped buffer is on the CPU
        e_step, run, kept = self.step % guide.interval == 0, None, None
        places, filled = guide.buffer.rows(rows)
        if e_step or method.w_fresh:
            compete = guide.include_incumbent or not e_step
            run = self._both(args, places if compete else None)
        if e_step and run is not None:
            kept, filled = self._e_step(run, filled, rows, structure, scale)
        if run is None or not method.w_fresh:
            places, filled = guide.buffer.rows(rows)
            terms = self._program.given(*args, routes=places)
            joint = rank_routes(terms, structure, scale, "joint")
            return -method.w_buffer * self._buffered(joint, filled, scale * len(x))
        joint = rank_routes(run, structure, scale, "joint")
        joint = joint[: len(places)] if kept is None else joint.gather(0, kept)
        value = self._buffered(joint, filled, scale * len(x))
        fresh = split_terms(run, len(run.likelihood) - guide.n_samples)[1]
        elbo = elbo_of(fresh, fresh.prior, static=static, n_data=scale * len(x))
        advantage = leave_one_out(elbo.detach())
        sampled = score_function(elbo, advantage, fresh.prior, static=static)
        return -method.w_buffer * value - method.w_fresh * sampled

    def _both(self, args: tuple[Any, ...], places: Tensor | None) -> Terms:
        """One run of the buffered routes, if they compete, and of S fresh ones."""
        learns, s = self._method.w_fresh > 0, self._buffer_guide.n_samples
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            return self._program.sample(*args, n_samples=s, given=places)

    @torch.no_grad()
    def _e_step(
        self,
        run: Terms,
        filled: Tensor,
        rows: Tensor,
        structure: Structure,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        """Keep the best routes of a run; which they are, and their places filled."""
        guide = self._buffer_guide
        incumbents = filled if guide.include_incumbent else None
        routes, scores = candidates(
            run, structure, scale, guide.score, filled=incumbents
        )
        if self._method.balance is not None:
            scores = balance_scores(
                scores, routes, structure.n_choices, self._method.balance
            )
        return guide.buffer.keep_best(rows, routes, scores)

    def _buffered(
        self,
        joint: Float[Tensor, "kept batch"],
        filled: Bool[Tensor, "kept batch"],
        n_data: float,
    ) -> Float[Tensor, ""]:
        """sum_a w_a log p(y, a | x) over the buffer, per example.

        Args:
            joint: log p(y, a | x); of all data, (C, 1), where routes are static.
            filled: Which places of the buffer hold a route.
            n_data: Examples of the data.
        """
        logits = joint.detach() if self._method.weights == "posterior" else 0 * joint
        weight = torch.softmax(logits.detach().masked_fill(~filled, -math.inf), 0)
        # Empty places weigh nothing, whatever the likelihood of what stands in them.
        value = (weight * joint.where(filled, 0.0)).sum(0)
        return value.sum() / n_data if self._buffer_guide.static else value.mean()
