"""The unordered-set estimator: routes drawn without replacement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ...models.checks import check_count
from ..baselines import Baseline, BaselineState
from ..objective import Method, Model, Objective
from .beam import draw_without_replacement
from .whole import n_routed, refuse_guide, require_whole, score_routes

_MOST_SAMPLES = 14  # 2^S subsets an example


@dataclass(frozen=True)
class UnorderedSet(Method):
    r"""ELBO by S distinct routes an example, with a built-in baseline.

    .. math::
        \nabla \approx \sum_{s \in S} p(s) R(S, s) \Bigl[\nabla \log p(s) \Bigl(f(s) -
        \sum_{s' \in S} p(s') R^{D \setminus s}(S, s') f(s')\Bigr) + \nabla f(s)\Bigr]

    for the router as guide, f = log p(y | x, a). The leave-one-out ratios R make it the
    mean of the estimate over all orders in which the set may have been drawn; they are
    computed exactly, over the 2^S subsets, in logarithms. Unbiased for the router ELBO;
    exact where S >= \|A\|. A baseline of another kind may stand in the place of the
    built-in one, which is made of few routes where routers are undecided. Cost: S
    evaluations an example (S L of modules), and without gradient S L (L - 1) / 2 of
    modules to draw the routes, the first l sites again for each site l.

    Args:
        n_samples: S, from 2 to 14.
        baseline: ``None``: the built-in one; or :class:`LearnedBaseline`,
            :class:`MovingAverage` or :class:`NoBaseline`. One with parameters is made
            of an example batch, so give ``example=`` before the optimiser.

    References:
        Kool, van Hoof, Welling 2020, arXiv:2002.06043, the unordered set policy
        gradient estimator with its built-in baseline.
    """

    n_samples: int = 8
    baseline: Baseline | None = None

    summary: ClassVar[str] = "ELBO, distinct routes drawn without replacement"
    wiring: ClassVar[str] = "router-as-guide ELBO"
    unbiased_for: ClassVar[str | None] = "elbo"

    def __post_init__(self) -> None:
        check_count("n_samples", self.n_samples, least=2)
        if self.n_samples > _MOST_SAMPLES:
            raise ValueError(
                f"n_samples must be at most {_MOST_SAMPLES}, since 2^n_samples subsets "
                f"are summed over, got {self.n_samples}: use score-function for more"
            )
        if self.baseline is None:
            return
        if not isinstance(self.baseline, Baseline):
            raise TypeError(
                "baseline must be None or a Baseline such as LearnedBaseline(), got "
                f"{self.baseline!r}"
            )
        if self.baseline.least_samples > 1:
            raise ValueError(
                f"baseline must need no second draw of the set, got {self.baseline}: "
                "the built-in one (None) compares the routes of a set"
            )

    def objective(
        self, model: Model, guide: Callable[..., Any] | None, **options: Any
    ) -> Objective:
        """The objective; it takes no guide."""
        refuse_guide("unordered-set", guide)
        return _UnorderedSetObjective(self, model, **options)


class _UnorderedSetObjective(Objective):
    def __init__(self, method: UnorderedSet, model: Model, **options: Any) -> None:
        super().__init__(model, **options)
        self._method = method
        self.baseline: BaselineState | None = None

    def prepare(self, x: Any, y: Any = None, index: Tensor | None = None) -> None:
        """Read the program on an example batch, and make the baseline.

        Raises:
            ValueError: Where only some sites are static.
        """
        super().prepare(x, y, index)
        args = self._arguments(x, y, index)
        require_whole("unordered-set", self._program.structure(*args))
        if self.baseline is None and self._method.baseline is not None:
            self.baseline = self._method.baseline.start(x)

    def _loss(self, x: Any, y: Any, index: Tensor | None) -> Tensor:
        self.prepare(x, y, index)
        args = self._arguments(x, y, index)
        structure = self._program.structure(*args)
        drawn = draw_without_replacement(
            lambda routes: self._program.peek(*args, routes=routes),
            structure.n_choices,
            torch.zeros(n_routed(structure, len(x)), device=getattr(x, "device", None)),
            self._method.n_samples,
        )
        weights = set_weights(drawn.log_p, drawn.log_rest)
        terms = self._program.given(*args, routes=drawn.routes)
        n_data = len(x) * self._data_scale(len(x))
        scored = score_routes(terms, structure, n_data)
        if self.baseline is None:
            return -unordered_set(scored.reward, scored.log_p, weights).mean()
        with torch.no_grad():  # what the baseline is to predict: E_p f, without bias
            mean = unordered_set(scored.reward, scored.log_p, weights).unsqueeze(0)
        advantage, extra = self.baseline(mean, x)
        baseline = (mean - advantage)[0]
        if structure.static_sites:  # one route for all examples, and one baseline
            baseline = baseline.mean(0, keepdim=True)
        value = unordered_set(scored.reward, scored.log_p, weights, baseline=baseline)
        loss = -value.mean()
        return loss if extra is None else loss + (extra - extra.detach())


class SetWeights(NamedTuple):
    """Which route of a set was drawn first, given the set; detached.

    Attributes:
        first: (S, N) p(s) R(S, s) = P(s drawn first | S): adds up to one.
        baseline: (S, S, N) at [s, s'] the weight of s' in the baseline of s: p(s) at
            s' = s, else p(s') R^(D without s)(S, s'); adds up to one over s'.
    """

    first: Float[Tensor, "routes examples"]
    baseline: Float[Tensor, "routes routes examples"]


def unordered_set(
    reward: Float[Tensor, "routes examples"],
    log_p: Float[Tensor, "routes examples"],
    weights: SetWeights,
    *,
    baseline: Float[Tensor, "#examples"] | None = None,
) -> Float[Tensor, " examples"]:
    """The estimate of E_p reward, with its gradient.

    Args:
        reward: f(s); its own gradient counts too.
        log_p: log p(s), differentiable.
        weights: Of the set, from :func:`set_weights`.
        baseline: In place of the built-in one; it must not depend on this set.
    """
    first, second = weights.first.to(reward), weights.baseline.to(reward)
    counts = first > 0  # a route that cannot be counts for nothing, whatever it earns
    earned = torch.where(counts, reward, 0.0)
    if baseline is None:
        seen = torch.where(second > 0, reward.detach(), 0.0)
        baseline = (second * seen).sum(1)
    advantage = torch.where(counts, earned.detach() - baseline, 0.0)
    log_p = torch.where(counts, log_p, 0.0)
    score = first * advantage * (log_p - log_p.detach())
    return (first * earned + score).sum(0)


def set_weights(
    log_p: Float[Tensor, "routes examples"], log_rest: Float[Tensor, " examples"]
) -> SetWeights:
    """Leave-one-out ratios of a set drawn without replacement, from its probabilities.

    Args:
        log_p: (S, N) of its routes; -inf for those that fill up where fewer than S are
            possible.
        log_rest: (N,) log-probability of all other routes together.

    Cost: 2^S S sums, in S vectorised steps.

    References:
        arXiv:2002.06043, leave-one-out ratios of first and second order; the sum over
        subsets is ours (there, an integral or all orders).
    """
    s = len(log_p)
    log_p, log_rest = log_p.double(), log_rest.double()
    whole = torch.isneginf(log_p).any(0) | torch.isneginf(log_rest)  # all are in it
    table = _draw_rest(log_p.masked_fill(whole, 0.0), log_rest.masked_fill(whole, 0.0))
    one = 1 << torch.arange(s, device=log_p.device)
    single = table[one]  # (S, N): the others in any order, s gone
    both = table[one.unsqueeze(1) | one]  # (S, S, N): s and s' gone
    # Where the set is all there is, whatever was drawn first the others follow.
    first = (single - table[0]).masked_fill(whole, 0.0)
    second = (both - single.unsqueeze(1)).masked_fill(whole, 0.0)
    second[range(s), range(s)] = 0.0
    return SetWeights((log_p + first).exp(), (log_p + second).exp())


def _draw_rest(log_p: Tensor, log_rest: Tensor) -> Float[Tensor, "subsets examples"]:
    """At a set A of routes: log-probability that, A gone, the others are drawn next.

    g(A) = sum_{s not in A} p(s) / (1 - p(A)) g(A + s), g(all) = 0, where 1 - p(A) is
    the sum of what is not in A: no difference of nearly equal numbers.
    """
    s, n = log_p.shape
    table = log_p.new_zeros(2**s, n)
    for gone, left, after in _subsets(s):
        left, after = left.to(log_p.device), after.to(log_p.device)
        there = log_p[left]  # (A, S - |A|, N)
        total = torch.logaddexp(there.logsumexp(1), log_rest)
        drawn = (there + table[after]).logsumexp(1)
        table[gone.to(log_p.device)] = drawn - total
    return table


@lru_cache(maxsize=32)
def _subsets(s: int) -> tuple[tuple[Tensor, Tensor, Tensor], ...]:
    """The larger first, sets of one size at once: the set, what is left, set and it.

    Sets are bit masks: (A,), (A, S - |A|) members left, (A, S - |A|) sets after each.
    """
    steps = []
    for size in range(s - 1, -1, -1):
        left = torch.tensor(list(combinations(range(s), s - size)))
        gone = 2**s - 1 - (1 << left).sum(-1)
        steps.append((gone, left, gone.unsqueeze(-1) | (1 << left)))
    return tuple(steps)
