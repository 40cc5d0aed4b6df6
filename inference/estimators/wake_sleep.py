"""Reweighted wake-sleep: model and guide trained by two objectives."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from pyro.poutine.util import site_is_factor
from torch import Tensor

from ...models.checks import check_count
from ...models.routing import Site
from ..objective import Method, Model, Objective
from ..structure import Structure, in_data_plate, untouched_randomness
from ..tables import logsumexp
from ..terms import Terms
from .guided import GuidedObjective, target_site


@dataclass(frozen=True)
class WakeSleep(Method):
    r"""Reweighted wake-sleep with an autoregressive guide q(a | x, y).

    .. math::
        w_s = \frac{p(y, a_s \mid x)}{q(a_s \mid x, y)}, \quad
        \bar w_s = \frac{w_s}{\sum_t w_t}, \quad a_s \sim q(a \mid x, y)

    *Wake-theta*, for the model: the gradient of log 1/S sum_s w_s, sum_s \bar w_s grad
    log p(y, a_s | x). *Wake-phi*, for the guide: -sum_s \bar w_s grad log q(a_s), down
    KL(posterior || q). *Sleep-phi*, for the guide: S routes drawn from the router and
    targets drawn from the model, -1/S sum_s grad log q(a_s | x, y_s), down the same KL
    in the mean over the model's own targets.

    The loss's value is minus the bound log 1/S sum_s w_s, for which wake-theta is
    unbiased; it is biased low for the marginal, by O(1/S). Wake-phi is biased for its
    KL, by O(1/S), sleep-phi not. No score function, no baseline. The weights are
    normalised an example (Pyro's ReweightedWakeSleep joins the batch in one weight).
    Cost: S evaluations an example of model and guide, twice that with sleep-phi.

    Args:
        n_samples: S; with one sample the weight is 1 and wake-phi moves at random.
        w_wake: Weight of wake-phi.
        w_sleep: Weight of sleep-phi; 0 for a model that cannot draw y.
        hidden_features: Width of the guide's hidden layers
            (:class:`~latentroute.guides.AmortisedGuide` says what it sees).

    References:
        Bornschein, Bengio 2015, arXiv:1406.2751, algorithm 1; Le, Kosiorek, Siddharth,
        Teh, Wood 2019, arXiv:1805.10469, section 3.
    """

    n_samples: int = 8
    w_wake: float = 0.5
    w_sleep: float = 0.5
    hidden_features: int = 32

    summary: ClassVar[str] = "importance-weighted model, guide fitted to the posterior"
    wiring: ClassVar[str] = "importance weighted; the guide by the inclusive KL"
    unbiased_for: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        check_count("n_samples", self.n_samples, least=2)
        check_count("hidden_features", self.hidden_features)
        for name in ("w_wake", "w_sleep"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        if not self.w_wake and not self.w_sleep:
            raise ValueError("w_wake and w_sleep are both 0: the guide is not trained")

    def objective(
        self, model: Model, guide: Callable[..., Any] | None, **options: Any
    ) -> Objective:
        """The objective; without a guide, an amortised one is made by ``prepare``."""
        return _WakeSleepObjective(self, model, guide, **options)


class _WakeSleepObjective(GuidedObjective):
    def __init__(
        self,
        method: WakeSleep,
        model: Model,
        guide: Callable[..., Any] | None,
        **options: Any,
    ) -> None:
        super().__init__(
            model, guide, hidden_features=method.hidden_features, **options
        )
        self._method = method

    def prepare(self, x: Any, y: Any = None, index: Tensor | None = None) -> None:
        """Read the program on an example batch, refuse what is unfit, make the guide.

        Raises:
            ValueError: If a site is static, or sleep-phi cannot draw y.
        """
        structure = self._program.structure(*self._arguments(x, y, index))
        if structure.coupled:
            raise ValueError(
                "wake-sleep weighs the routes of each example by itself, and a static "
                "site couples the examples: use amortised, or exact"
            )
        if self._method.w_sleep and self._proposal is None:
            with untouched_randomness():
                self._dream(x, y, index)
        super().prepare(x, y, index)

    def _loss(self, x: Any, y: Any, index: Tensor | None) -> Tensor:
        self.prepare(x, y, index)
        args, method = self._arguments(x, y, index), self._method
        proposal, _ = self._proposed()
        terms, by_site = proposal.draw(args, index, method.n_samples)
        log_q = _total(by_site)
        log_joint = terms.likelihood + _total(terms.prior)
        loss = -importance_bound(log_joint, log_q).mean()
        guide_loss = torch.zeros_like(loss)
        if method.w_wake:
            fit = wake_phi(log_joint, log_q).mean()
            guide_loss = guide_loss + method.w_wake * fit
        if method.w_sleep:
            guide_loss = guide_loss + method.w_sleep * self._sleep(x, y, index)
        return loss + (guide_loss - guide_loss.detach())

    def _sleep(self, x: Any, y: Any, index: Tensor | None) -> Float[Tensor, ""]:
        """-log q of the model's own routes given its own targets, averaged."""
        routes, target = self._dream(x, y, index)
        s = len(routes)
        # Every draw is an example of its own, since each has its own target.
        rows = None if index is None else index.repeat(s)
        repeated = x.repeat(s, *(1,) * (x.dim() - 1))
        _, guide = self._proposed()
        dreamt = guide.given(
            *self._guide_arguments(repeated, target.flatten(0, 1), rows),
            routes=routes.flatten(0, 1),
        )
        return -_total(dreamt.prior).mean()

    @torch.no_grad()
    def _dream(
        self, x: Any, y: Any, index: Tensor | None
    ) -> tuple[Int[Tensor, "samples examples sites"], Tensor]:
        """Routes drawn from the router, and targets (S, N, ...) that follow."""
        args, s = self._arguments(x, y, index), self._method.n_samples
        structure = self._program.structure(*args)
        terms = self._program.sample(*args, n_samples=s)
        target = draw_target(terms, structure, y, s)
        routes = [terms.routes[name].expand(s, len(x)) for name in structure.names]
        return torch.stack(routes, -1), target


def importance_bound(
    log_joint: Float[Tensor, "samples examples"],
    log_q: Float[Tensor, "samples examples"],
) -> Float[Tensor, " examples"]:
    """Log 1/S sum_s p(y, a_s | x) / q(a_s), with wake-theta as its gradient.

    The guide's log-probabilities are detached: the gradient reaches the model alone.
    """
    log_weight = log_joint - log_q.detach()
    return logsumexp(log_weight, 0).squeeze(0) - math.log(len(log_weight))


def wake_phi(
    log_joint: Float[Tensor, "samples examples"],
    log_q: Float[Tensor, "samples examples"],
) -> Float[Tensor, " examples"]:
    """-sum_s w_s log q(a_s), weights normalised an example and detached.

    Where the model forbids every sampled route there is nothing to fit: zero.
    """
    log_weight = (log_joint - log_q).detach()
    total = torch.logsumexp(log_weight, 0)
    weight = (log_weight - total.masked_fill(total.isneginf(), 0.0)).exp()
    return -(weight * log_q).sum(0)


def draw_target(terms: Terms, structure: Structure, y: Any, n_samples: int) -> Tensor:
    """Targets (S, N, ...) that the model draws at sampled routes, shaped like y.

    Raises:
        ValueError: If the model does not draw y in the data plate alone, or scores
            examples by a factor: it is then no generative model of y.
    """
    site = target_site(terms.sites, y) if isinstance(y, Tensor) else None
    factor = any(_is_factor(s) for s in terms.sites.values() if in_data_plate(s))
    if site is None or factor or structure.nesting > 1:
        reason = "it scores by a factor" if factor else "no one site observes y alone"
        raise ValueError(
            f"sleep-phi draws targets from the model, and cannot here ({reason}): set "
            "w_sleep=0"
        )
    n = len(y)
    shape = torch.broadcast_shapes(site.fn.batch_shape, (n_samples, n))
    drawn: Tensor = site.fn.expand(shape).sample()
    return drawn.reshape(n_samples, *y.shape).to(y.dtype)


def _is_factor(site: Site) -> bool:
    return bool(site_is_factor({"type": "sample", "fn": site.fn}))


def _total(by_site: dict[str, Tensor]) -> Tensor:
    """Log-probability of whole routes: (S, N)."""
    total, *others = by_site.values()
    for value in others:
        total = total + value
    return total
