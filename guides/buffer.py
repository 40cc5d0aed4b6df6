"""The best routes found so far for each example, and the guide that they make."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..models.checks import check_choice, check_count
from .mapped import empty

Score = Literal["joint", "likelihood", "prior"]
_MOST = 2**62  # routes that are numbered by their choices alone
_FEW = 8  # of so many, each found by a pass of its own, sooner than by sorting all


class RouteBuffer(nn.Module):
    """Up to ``capacity`` distinct routes for each example, in int8 where M <= 127.

    It starts with one route an example, uniformly at random, as Kirsch et al. 2018 do;
    with all routes where the capacity holds them. Memory: N x capacity x (L + 5) bytes,
    of RAM or, with ``path``, of a file that the system keeps in RAM as far as there is
    room. Rows are read and written in place; ``state_dict`` holds the tensors
    themselves, no copy of them.

    Args:
        n_rows: Number of examples N (1 where the routing is static).
        n_choices: Number of choices at each of the L sites.
        capacity: Routes kept an example; no more than there are.
        seed: Of the random start.
        path: A folder, on a disk with room for it, for a file that holds the routes in
            place of RAM. The file has no name and goes with the buffer: what stays is
            the checkpoint. The buffer then stays on the CPU.

    Raises:
        ValueError: If a size is not positive, or ``path`` is no folder.

    Attributes:
        routes: (N, capacity, L) int8 or int16.
        scores: (N, capacity) float32, as last scored; -inf where never scored.
        filled: (N, capacity) which places hold a route.
        row_buffers: Names of those of a row an example.
    """

    row_buffers: ClassVar[tuple[str, ...]] = ("routes", "scores", "filled")
    routes: Tensor
    scores: Tensor
    filled: Tensor

    def __init__(
        self,
        n_rows: int,
        n_choices: Sequence[int],
        *,
        capacity: int = 1,
        seed: int | None = None,
        path: str | Path | None = None,
    ) -> None:
        super().__init__()
        check_count("n_rows", n_rows)
        check_count("capacity", capacity)
        capacity = min(capacity, math.prod(n_choices))
        self.n_choices = tuple(n_choices)
        self._is_mapped = path is not None
        dtype = torch.int8 if max(n_choices) <= 127 else torch.int16
        shape = (n_rows, capacity)
        sizes = (*shape, len(n_choices))
        self.register_buffer("routes", empty(sizes, dtype, path).zero_())
        scores = empty(shape, torch.float32, path)
        self.register_buffer("scores", scores.fill_(-math.inf))
        self.register_buffer("filled", empty(shape, torch.bool, path).zero_())
        if capacity == math.prod(n_choices):
            axes = [torch.arange(m, dtype=dtype) for m in n_choices]
            self.routes[:] = torch.cartesian_prod(*axes).reshape(capacity, -1)
            self.filled.fill_(True)
        else:
            generator = None if seed is None else torch.Generator().manual_seed(seed)
            for site, m in enumerate(n_choices):
                start = torch.randint(m, (n_rows,), generator=generator)
                self.routes[:, 0, site] = start
            self.filled[:, 0] = True

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move it, as ``.to()`` asks; what is in a file stays there."""
        if self._is_mapped:
            return self
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    @property
    def capacity(self) -> int:
        """Routes kept an example."""
        return self.routes.shape[1]

    def rows(
        self, index: Int[Tensor, " batch"]
    ) -> tuple[Int[Tensor, "capacity batch sites"], Bool[Tensor, "capacity batch"]]:
        """Routes of the given examples, the best first, and which places are filled."""
        return (
            _read(self.routes, index).transpose(0, 1).long(),
            _read(self.filled, index).transpose(0, 1),
        )

    @torch.no_grad()
    def keep_best(
        self,
        index: Int[Tensor, " batch"],
        candidates: Int[Tensor, "candidates batch sites"],
        scores: Float[Tensor, "candidates batch"],
    ) -> tuple[Int[Tensor, "kept batch"], Bool[Tensor, "kept batch"]]:
        """Replace the examples' routes by the best distinct candidates.

        Among equal scores the earlier candidate wins, so incumbents go first.

        Args:
            index: (B,) rows of the examples.
            candidates: (C, B, L) routes.
            scores: (C, B) what they are ranked by, all computed now; -inf or NaN
                candidates are kept only where nothing better is there.

        Returns:
            (min(C, K), B) which candidates were kept, the best first, and whether their
            places count as filled: those of a route that stands there already do not.
        """
        kept = min(len(candidates), self.capacity)
        scores = scores.nan_to_num(-math.inf, math.inf, -math.inf)
        order, filled = _best(scores, _numbers(candidates, self.n_choices), kept)
        width = order.unsqueeze(-1).expand(*order.shape, candidates.shape[-1])
        at = index.to(self.routes.device, torch.long)

        def write(values: Tensor, best: Tensor) -> None:
            best = best.transpose(0, 1).to(at.device, values.dtype)
            values[:, :kept].index_copy_(0, at, best)

        write(self.routes, candidates.gather(0, width))
        write(self.scores, scores.gather(0, order))
        write(self.filled, filled)
        if kept < self.capacity:
            self.filled[:, kept:].index_fill_(0, at, False)
        return order, filled


def _read(values: Tensor, index: Tensor) -> Tensor:
    """Rows of a buffer, where the index is."""
    return values.index_select(0, index.to(values.device)).to(index.device)


def _best(
    scores: Float[Tensor, "candidates batch"],
    number: Int[Tensor, "candidates batch"],
    kept: int,
) -> tuple[Int[Tensor, "kept batch"], Bool[Tensor, "kept batch"]]:
    """The best candidates of distinct numbers, and where there were as many."""
    least = torch.finfo(scores.dtype).min
    rank = scores.clamp_min(least)
    if kept > _FEW:
        by_rank = rank.argsort(dim=0, descending=True, stable=True)
        repeated = _repeated(number.gather(0, by_rank))
        first = repeated.byte().argsort(dim=0, stable=True)[:kept]
        return by_rank.gather(0, first), ~repeated.gather(0, first)
    order: list[Tensor] = []
    filled: list[Tensor] = []
    for _ in range(kept):
        if order:  # what was kept last is there no more
            taken = number == number.gather(0, order[-1].unsqueeze(0))
            rank = rank.masked_fill(taken, -math.inf)
        value, best = rank.max(0)  # the first of equals
        order.append(best)
        filled.append(value >= least)
    return torch.stack(order), torch.stack(filled)


def _numbers(routes: Int[Tensor, "*batch sites"], n_choices: Sequence[int]) -> Tensor:
    """A number for each route: equal where the routes are."""
    number, size = routes[..., 0], n_choices[0]
    for site, m in enumerate(n_choices[1:], 1):
        if size * m > _MOST:  # numbered anew, by what occurs
            number = number.unique(return_inverse=True)[1]
            size = number.numel()
        number, size = torch.add(routes[..., site], number, alpha=m), size * m
    return number


def _repeated(number: Int[Tensor, "candidates batch"]) -> Bool[Tensor, "..."]:
    """Which candidates an earlier one of the same example equals: by one sort."""
    ordered, order = number.sort(dim=0, stable=True)
    same = torch.zeros_like(number, dtype=torch.bool)
    same[1:] = ordered[1:] == ordered[:-1]
    return same.scatter(0, order, same)


class BufferGuide(nn.Module):
    """q(a | x, y) on the buffered routes of each example.

    Trained by no gradient: E-steps (:mod:`latentroute.inference.em`) propose fresh
    routes from the router, score them beside the incumbents under the current
    parameters, and keep the best. As a Pyro program it samples a buffered route with
    probability proportional to exp(score), the first-kept where none was scored yet.

    Args:
        sites: Names of the routing sites in program order.
        n_choices: Number of choices at each.
        n_rows: Number of examples N; 1 where the routing is static.
        static: Whether one buffer serves all examples, outside the data plate.
        capacity: Routes kept an example.
        n_samples: Fresh routes proposed in an E-step.
        score: What routes are ranked by: ``"joint"`` log p(y | x, a) + log p(a | x),
            as the public code of Kirsch et al. does, ``"likelihood"`` or ``"prior"``.
        include_incumbent: Whether buffered routes compete with fresh ones; if not, an
            E-step forgets them.
        interval: E-steps are done at every ``interval``-th call of the objective.
        seed: Of the buffer's random start.
        path: A folder for the buffer's file, if it is to be none of RAM's: see
            :class:`RouteBuffer`.

    References:
        Kirsch, Kunze, Barber 2018, arXiv:1811.05249, algorithm 1 (capacity 1);
        Abolafia et al. 2018, arXiv:1801.03526 (a queue of the best K).
    """

    def __init__(
        self,
        sites: Sequence[str],
        n_choices: Sequence[int],
        n_rows: int,
        *,
        static: bool = False,
        capacity: int = 1,
        n_samples: int = 9,
        score: Score = "joint",
        include_incumbent: bool = True,
        interval: int = 1,
        seed: int | None = None,
        path: str | Path | None = None,
    ) -> None:
        super().__init__()
        check_count("n_samples", n_samples)
        check_count("interval", interval)
        check_choice("score", score, get_args(Score))
        self.sites = tuple(sites)
        self.n_choices = tuple(n_choices)
        self.static = static
        self.n_samples = n_samples
        self.score = score
        self.include_incumbent = include_incumbent
        self.interval = interval
        self.buffer = RouteBuffer(
            n_rows, n_choices, capacity=capacity, seed=seed, path=path
        )

    def probabilities(
        self, index: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch capacity"]:
        """Q of each place of the examples' buffers."""
        filled = _read(self.buffer.filled, index)
        scores = _read(self.buffer.scores, index)
        scored = torch.isfinite(scores).any(-1, keepdim=True)
        logits = torch.where(scored, scores, torch.zeros_like(scores))
        return torch.softmax(logits.masked_fill(~filled, -math.inf), -1)

    def forward(
        self, x: Tensor, y: Tensor | None = None, index: Tensor | None = None
    ) -> Int[Tensor, "*batch sites"]:
        """Sample the sites: a_l given a_<l by the places that agree so far."""
        if index is None:
            index = torch.arange(len(x), device=x.device)
        rows = index.new_zeros(1) if self.static else index
        places = self.buffer.rows(rows)[0].transpose(0, 1)  # (B, C, L)
        weight = self.probabilities(rows)  # (*samples, B, C)
        chosen = []
        plate = nullcontext() if self.static else pyro.plate("data", len(x), dim=-1)
        for i, (name, m) in enumerate(zip(self.sites, self.n_choices, strict=True)):
            probs = torch.zeros(*weight.shape[:-1], m, device=weight.device)
            at = places[..., i].expand(weight.shape)
            probs = probs.scatter_add(-1, at, weight)
            # Off the buffer the rest is uniform: its whole route has probability zero.
            lost = probs.sum(-1, keepdim=True) == 0
            logits = probs.masked_fill(lost, 1.0).log()
            logits = logits[0] if self.static else logits
            with plate:
                a = pyro.sample(name, dist.Categorical(logits=logits))
            weight = weight * (places[..., i] == a.unsqueeze(-1))
            chosen.append(a)
        return torch.stack(chosen, -1)
