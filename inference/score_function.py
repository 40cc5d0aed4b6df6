"""The score-function estimator, with the router or any other guide."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from ..guides.router import RouterGuide
from ..models.checks import check_choice, check_count
from .baselines import Baseline, BaselineState, LeaveOneOut, NoBaseline
from .captured import CapturedLoss, Compiler
from .objective import Method, Model, Objective
from .proposal import Proposal
from .terms import Terms


@dataclass(frozen=True)
class ScoreFunction(Method):
    r"""ELBO by S sampled routes an example, each compared with a baseline.

    .. math::
        E_q[\log p(y, a \mid x) - \log q(a)], \quad
        \nabla = \frac1S \sum_s (R_s - b_s) \nabla \log q(a_s)
        + \nabla \log p(y, a_s \mid x)

    With the router as its own guide (the default) the KL term is zero, R_s is
    log p(y | x, a_s), and the objective is E_{p(a|x)} log p(y | x, a), a lower bound of
    the marginal: the gradient is unbiased for it, and the network runs once. With a
    guide q(a | x, y) of one's own it is the posterior-guide ELBO, another training.
    Cost: S evaluations an example, as one vectorised run.

    Args:
        n_samples: S; at least 2 for the leave-one-out baseline.
        baseline: b: :class:`LeaveOneOut`, :class:`MovingAverage`,
            :class:`LearnedBaseline` or :class:`NoBaseline`. A baseline with parameters
            is made of an example batch, so give ``example=`` before the optimiser.
        compile: ``"capture"`` or ``"inductor"`` capture the step as a graph, for a
            model that is an ``nn.Module``, with the router as the guide and a baseline
            without memory: see :class:`~latentroute.inference.captured.CapturedLoss`.

    References:
        Kool, van Hoof, Welling 2019, Buy 4 REINFORCE samples, get a baseline for free;
        Mnih, Rezende 2016, arXiv:1602.06725, equation 8.
    """

    n_samples: int = 8
    baseline: Baseline = field(default_factory=LeaveOneOut)
    compile: Compiler | None = None

    summary: ClassVar[str] = "ELBO with the router as guide, sampled routes"
    wiring: ClassVar[str] = "router-as-guide ELBO"
    unbiased_for: ClassVar[str | None] = "elbo"

    def __post_init__(self) -> None:
        check_baseline(self.n_samples, self.baseline)
        if self.compile is None:
            return
        check_choice("compile", self.compile, get_args(Compiler))
        if not isinstance(self.baseline, LeaveOneOut | NoBaseline):
            raise ValueError(
                "compile needs a baseline without memory, LeaveOneOut() or "
                f"NoBaseline(), got {self.baseline}"
            )

    def objective(
        self, model: Model, guide: Callable[..., Any] | None, **options: Any
    ) -> Objective:
        """The objective of the model and the guide, by default the router.

        Raises:
            ValueError: If a step with another guide is to be compiled.
        """
        return _ScoreFunctionObjective(
            self,
            model,
            RouterGuide(model) if guide is None else guide,
            **options,
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
        self.baseline: BaselineState | None = None
        self._captured: CapturedLoss | None = None
        if method.compile is not None:
            if not self._proposal.is_router:
                raise ValueError(
                    "compile needs the model's own router as the guide, got "
                    f"{type(guide).__name__}"
                )
            self._captured = CapturedLoss(self._plain, self._program, method.compile)

    def prepare(self, x: Any, y: Any = None, index: Tensor | None = None) -> None:
        """Read the program on an example batch, and make the baseline."""
        super().prepare(x, y, index)
        if self.baseline is None:
            self.baseline = self._method.baseline.start(x)

    def _loss(self, x: Any, y: Any, index: Tensor | None) -> Tensor:
        self.prepare(x, y, index)
        if self._captured is None:
            return self._plain(x, y, index)
        return self._captured(x, y, index)

    def _plain(self, x: Any, y: Any, index: Tensor | None) -> Tensor:
        args = self._arguments(x, y, index)
        terms, log_q = self._proposal.draw(args, index, self._method.n_samples)
        static = {s.name for s in self._program.structure(*args).static_sites}
        n_data = len(x) * self._data_scale(len(x))
        elbo = elbo_of(terms, log_q, static=static, n_data=n_data)
        assert self.baseline is not None
        advantage, extra = self.baseline(elbo.detach(), x)
        value = score_function(elbo, advantage, log_q, static=static)
        return -value if extra is None else -value + (extra - extra.detach())


def elbo_of(
    terms: Terms, log_q: Mapping[str, Tensor], *, static: Set[str], n_data: float
) -> Float[Tensor, "samples examples"]:
    """log p(y, a | x) - log q(a) of each sample, per example of the data.

    Args:
        terms: Of S sampled routes: (S, N), or (S, 1) for a static site.
        log_q: The guide's log-probabilities, by site; ``terms.prior`` itself where the
            router is the guide. Its own gradient, zero on average, is left out.
        static: Names of the static sites.
        n_data: Examples of the data; a static site's terms count once for them all.
    """
    elbo = terms.likelihood
    if terms.coupled:
        elbo = elbo + terms.static_likelihood / n_data
    if log_q is terms.prior:  # the two cancel
        return elbo
    for name, log_p in terms.prior.items():
        share = 1.0 / n_data if name in static else 1.0
        elbo = elbo + share * (log_p - log_q[name].detach())
    return elbo


def score_function(
    value: Float[Tensor, "samples examples"],
    advantage: Float[Tensor, "samples examples"],
    log_q: Mapping[str, Tensor],
    *,
    static: Set[str],
) -> Float[Tensor, ""]:
    """The mean value, with the score-function estimate as its gradient.

    Args:
        value: What is averaged; its own gradient counts too.
        advantage: Detached rewards less a baseline.
        log_q: Log-probabilities of the sampled choices, by site.
        static: Names of the static sites, which earn what all examples earn.
    """
    own = [score for name, score in log_q.items() if name not in static]
    if own:
        score = sum(own[1:], own[0])
        # Adds zero, but its gradient.
        value = torch.addcmul(value, advantage, score - score.detach())
    total = value.mean()
    shared = [score for name, score in log_q.items() if name in static]
    if shared:
        earned = advantage.mean(-1, keepdim=True)
        surrogate = (earned * sum(shared[1:], shared[0])).mean()
        total = total + (surrogate - surrogate.detach())
    return total


def check_baseline(n_samples: int, baseline: Baseline) -> None:
    """Refuse fewer samples than a baseline needs.

    Raises:
        ValueError: Says how many it needs.
    """
    if not isinstance(baseline, Baseline):
        raise TypeError(
            f"baseline must be a Baseline such as LeaveOneOut(), got {baseline!r}"
        )
    check_count("n_samples", n_samples)
    if n_samples < baseline.least_samples:
        raise ValueError(
            f"n_samples must be at least {baseline.least_samples} with {baseline}, got "
            f"{n_samples}"
        )
