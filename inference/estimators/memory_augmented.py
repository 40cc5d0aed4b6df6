"""The expectation split into buffered routes, summed, and the rest, sampled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...guides.buffer import RouteBuffer, Score
from ...models.checks import check_choice, check_count
from ..buffered import buffer_rows, candidates
from ..objective import Method, Model, Objective
from ..terms import split_terms
from .whole import Scored, refuse_guide, require_whole, score_routes


@dataclass(frozen=True)
class MemoryAugmented(Method):
    r"""ELBO as an exact sum over buffered routes and a sampled rest.

    .. math::
        E_{p} R = \sum_{a \in A^*} p(a \mid x) R(a)
        + E_{p} \bigl[1\{a \notin A^*\} R(a)\bigr]

    for R = log p(y | x, a) and the K buffered routes of an example. The first part and
    its gradient are exact; the second is estimated by S fresh routes, those in the
    buffer counting nothing (MAPO draws until one lies outside, or clips its weights,
    which biases). The baseline of a sample is made of the buffer and of the *other*
    samples, and the buffered routes have the samples' mean baseline, so that what it
    takes away adds up to nothing on average. The buffer changes after the gradient's
    terms are made: it is a fixed set for the samples of a step, and the gradient is
    unbiased for the router ELBO. Cost: S + K evaluations an example.

    Args:
        capacity: K, routes kept an example.
        n_samples: S, fresh routes, at least 2; they compete for the buffer afterwards.
        score: What routes are kept by: ``"prior"``, which leaves the least to the
            samples; ``"joint"`` or ``"likelihood"``, MAPO's choice.

    References:
        Liang et al. 2018, arXiv:1807.02322, the objective split into memory and rest.
    """

    capacity: int = 4
    n_samples: int = 4
    score: Score = "prior"

    summary: ClassVar[str] = "ELBO, buffered routes summed, the rest sampled (MAPO)"
    wiring: ClassVar[str] = "router-as-guide ELBO"
    unbiased_for: ClassVar[str | None] = "elbo"

    def __post_init__(self) -> None:
        check_count("capacity", self.capacity)
        check_count("n_samples", self.n_samples, least=2)
        check_choice("score", self.score, get_args(Score))

    def objective(
        self, model: Model, guide: Callable[..., Any] | None, **options: Any
    ) -> Objective:
        """The objective; its buffer is made at the first call."""
        refuse_guide("memory-augmented", guide)
        if options["n_data"] is None:
            raise ValueError(
                "memory-augmented keeps routes an example: pass n_data=, their number"
            )
        return _MemoryObjective(self, model, **options)


class _MemoryObjective(Objective):
    def __init__(
        self,
        method: MemoryAugmented,
        model: Model,
        *,
        seed: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, seed=seed, **options)
        self.buffer: nn.Module | None = None
        self._method = method
        self._seed = seed

    def prepare(self, x: Any, y: Any = None, index: Tensor | None = None) -> None:
        """Read the program on an example batch, and make the buffer of its sites.

        Raises:
            ValueError: Where only some sites are static.
        """
        super().prepare(x, y, index)
        structure = self._program.structure(*self._arguments(x, y, index))
        require_whole("memory-augmented", structure)
        if self.buffer is not None:
            return
        # Unseeded, the routes that it starts with come from torch's own stream.
        seed = int(torch.randint(2**31, ())) if self._seed is None else self._seed
        assert self.n_data is not None
        buffer = RouteBuffer(
            1 if structure.static_sites else self.n_data,
            structure.n_choices,
            capacity=self._method.capacity,
            seed=seed,
        )
        self.buffer = buffer.to(getattr(x, "device", None))

    def _loss(self, x: Any, y: Any, index: Tensor | None) -> Tensor:
        self.prepare(x, y, index)
        buffer, by = self.buffer, self._method.score
        assert isinstance(buffer, RouteBuffer)
        args = self._arguments(x, y, index)
        structure = self._program.structure(*args)
        scale = self._data_scale(len(x))
        rows = buffer_rows(buffer, len(x), index, static=bool(structure.static_sites))
        places, filled = buffer.rows(rows)
        run = self._program.sample(
            *args, n_samples=self._method.n_samples, given=places
        )
        kept, fresh = split_terms(run, len(places))
        routes, scores = candidates(run, structure, scale, by, filled=filled)
        value = split_expectation(
            score_routes(kept, structure, scale * len(x)),
            filled,
            score_routes(fresh, structure, scale * len(x)),
            is_new(routes[len(places) :], places, filled),
        )
        # Every rank is of this step: no route is evaluated again.
        buffer.keep_best(rows, routes, scores.detach())
        return -value.mean()


def is_new(
    routes: Tensor, places: Tensor, filled: Bool[Tensor, "capacity examples"]
) -> Bool[Tensor, "samples examples"]:
    """Which of (S, N, L) routes are not among (C, N, L) filled places."""
    same = (routes.unsqueeze(1) == places).all(-1) & filled  # (S, C, N)
    return ~same.any(1)


def split_expectation(
    kept: Scored,
    filled: Bool[Tensor, "capacity examples"],
    fresh: Scored,
    new: Bool[Tensor, "samples examples"],
) -> Float[Tensor, " examples"]:
    r"""The estimate of E_p R from a fixed set and fresh samples, with its gradient.

    .. math::
        \bar c + \sum_{a \in A^*} p(a) (R(a) - \bar c)
        + \frac1S \sum_s 1\{a_s \notin A^*\} (R_s - c_s)

    c_s does not depend on a_s, and c is their mean, so that the terms in them have
    mean E[c] (1 - p(A*) - p(not A*)) = 0, and likewise their gradients.

    Args:
        kept: (C, N) distinct routes.
        filled: Which of them there are.
        fresh: (S, N) routes drawn from the router.
        new: Which of those are none of ``kept``.
    """
    prob = torch.where(filled, kept.log_p.exp(), 0.0)
    inside = torch.where(prob > 0, kept.reward, 0.0)
    outside = torch.where(new, fresh.reward, 0.0)
    log_p = torch.where(new, fresh.log_p, 0.0)
    baseline = _baseline(prob.detach(), inside.detach(), outside.detach(), new)
    mean = baseline.mean(0)
    buffered = prob * (inside.detach() - mean) + prob.detach() * inside
    sampled = (outside - baseline) * new
    score = sampled.detach() * (log_p - log_p.detach())
    # The gradient of `buffered` is that of p R; its value counts p R only once.
    buffered = buffered - (prob * inside).detach()
    return mean + buffered.sum(0) + (sampled + score).mean(0)


def _baseline(
    prob: Tensor, inside: Tensor, outside: Tensor, new: Tensor
) -> Float[Tensor, "samples examples"]:
    """E_p R from the buffer and the other samples: (S, N).

    The buffer's mean reward and that of the other new samples, weighted by the buffer's
    probability; the buffer's alone where no other sample is new.
    """
    known = prob.sum(0)
    within = (prob * inside).sum(0) / known.clamp_min(torch.finfo(prob.dtype).tiny)
    others = new.sum(0) - new.long()
    rest = (outside.sum(0) - outside) / others.clamp_min(1)
    mixed = known * within + (1 - known) * rest
    return torch.where(others > 0, mixed, within)
