"""The score-function estimator, with the router or any other guide."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from ..guides.router import RouterGuide
from ..models.checks import check_count
from .objective import Method, Model, Objective
from .proposal import Proposal
from .terms import Terms


@dataclass(frozen=True)
class ScoreFunction(Method):
    r"""ELBO by S sampled routes an example, with a leave-one-out baseline.

    .. math::
        E_q[\log p(y, a \mid x) - \log q(a)], \quad
        \nabla = \frac1S \sum_s (R_s - \bar R_{-s}) \nabla \log q(a_s)
        + \nabla \log p(y, a_s \mid x)

    With the router as its own guide (the default) the KL term is zero, R_s is
    log p(y | x, a_s), and the objective is E_{p(a|x)} log p(y | x, a), a lower bound of
    the marginal: the gradient is unbiased for it, and the network runs once. With a
    guide q(a | x, y) of one's own it is the posterior-guide ELBO, another training.
    Cost: S evaluations an example, as one vectorised run.

    Args:
        n_samples: S, at least 2: each sample's baseline is the mean of the others.

    References:
        Kool, van Hoof, Welling 2019, Buy 4 REINFORCE samples, get a baseline for free;
        Mnih, Rezende 2016, arXiv:1602.06725, equation 8.
    """

    n_samples: int = 8

    summary: ClassVar[str] = "ELBO with the router as guide, sampled routes"
    wiring: ClassVar[str] = "router-as-guide ELBO"
    unbiased_for: ClassVar[str | None] = "elbo"

    def __post_init__(self) -> None:
        check_count("n_samples", self.n_samples, least=2)

    def __call__(
        self,
        model: Model,
        guide: Callable[..., Any] | None = None,
        *,
        parameters: Iterable[Tensor] | None = None,
        n_data: int | None = None,
        seed: int | None = None,
    ) -> Objective:
        """The objective of the model and the guide, by default the router."""
        return _ScoreFunctionObjective(
            self,
            model,
            RouterGuide(model) if guide is None else guide,
            parameters=parameters,
            n_data=n_data,
            seed=seed,
        )


class _ScoreFunctionObjective(Objective):
    def __init__(
        self,
        method: ScoreFunction,
        model: Model,
        guide: Callable[..., Any],
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        self.guide = guide
        self._method = method
        self._proposal = Proposal(self._program, guide)

    def _loss(self, x: Any, y: Any, index: Tensor | None) -> Tensor:
        args = self._arguments(x, y, index)
        terms, log_q = self._proposal.draw(args, index, self._method.n_samples)
        static = {s.name for s in self._program.structure(*args).static_sites}
        n_data = len(x) * self._data_scale(len(x))
        return -score_function_elbo(terms, log_q, static=static, n_data=n_data)


def score_function_elbo(
    terms: Terms, log_q: Mapping[str, Tensor], *, static: Set[str], n_data: float
) -> Float[Tensor, ""]:
    """A draw of the ELBO per example whose gradient is the score-function estimate.

    Args:
        terms: Of S sampled routes: (S, N), or (S, 1) for a static site.
        log_q: The guide's log-probabilities, by site; ``terms.prior`` itself where the
            router is the guide.
        static: Names of the static sites.
        n_data: Examples of the data; a static site's terms count once for them all.

    Returns:
        The mean over samples and examples.
    """
    elbo = terms.likelihood + terms.static_likelihood / n_data
    if log_q is not terms.prior:  # else the two cancel
        for name, log_p in terms.prior.items():
            share = 1.0 / n_data if name in static else 1.0
            elbo = elbo + share * (log_p - log_q[name].detach())
    advantage = leave_one_out(elbo.detach())
    surrogate = elbo.mean()
    for name, score in log_q.items():
        # A static choice earns what all examples earn.
        earned = advantage.mean(-1, keepdim=True) if name in static else advantage
        surrogate = surrogate + (earned * score).mean()
    return surrogate + (elbo.mean() - surrogate).detach()


def leave_one_out(reward: Float[Tensor, "samples *batch"]) -> Tensor:
    """Each sample's reward less the mean of the other samples'."""
    s = len(reward)
    return (reward - reward.mean(0, keepdim=True)) * (s / (s - 1))
