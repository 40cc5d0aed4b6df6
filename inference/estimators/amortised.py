"""The ELBO of a guide q(a | x, y) that sees the target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from ...models.checks import check_choice, check_count
from ..baselines import Baseline, BaselineState, LeaveOneOut
from ..objective import Method, Model, Objective
from ..plan import check_memory
from ..score_function import check_baseline, elbo_of, score_function
from ..structure import Structure
from ..terms import Terms
from .guided import GuidedObjective

Estimator = Literal["score-function", "enumerate"]


@dataclass(frozen=True)
class Amortised(Method):
    r"""Posterior-guide ELBO with an autoregressive network q(a | x, y).

    .. math::
        E_{q(a \mid x, y)} [\log p(y, a \mid x) - \log q(a \mid x, y)]
        \le \log p(y \mid x)

    Tight where q is the posterior. The gradient is unbiased for this ELBO, in the model
    and the guide: by S sampled routes and their scores, or exactly, by enumerating q.
    Cost: S evaluations an example of model and of guide; ``"enumerate"``: as ``exact``.

    Args:
        estimator: ``"score-function"``, or ``"enumerate"`` every route of the guide.
        n_samples: S; at least 2 for the leave-one-out baseline.
        baseline: What a sample's reward is compared with.
        hidden_features: Width of the guide's hidden layers
            (:class:`~latentroute.guides.AmortisedGuide` says what it sees).
        memory_limit: Bytes that an enumerated step may take; ``None``: what is free.

    References:
        Mnih, Gregor 2014, arXiv:1402.0030, equation 2; Kingma, Welling 2013,
        arXiv:1312.6114 (amortisation).
    """

    estimator: Estimator = "score-function"
    n_samples: int = 8
    baseline: Baseline = field(default_factory=LeaveOneOut)
    hidden_features: int = 32
    memory_limit: int | None = None

    summary: ClassVar[str] = "ELBO of an autoregressive guide that sees the target"
    wiring: ClassVar[str] = "posterior-guide ELBO"
    unbiased_for: ClassVar[str | None] = "elbo"

    def __post_init__(self) -> None:
        check_choice("estimator", self.estimator, get_args(Estimator))
        check_baseline(self.n_samples, self.baseline)
        check_count("hidden_features", self.hidden_features)

    def objective(
        self, model: Model, guide: Callable[..., Any] | None, **options: Any
    ) -> Objective:
        """The objective; without a guide, an amortised one is made by ``prepare``."""
        return _AmortisedObjective(self, model, guide, **options)


class _AmortisedObjective(GuidedObjective):
    def __init__(
        self,
        method: Amortised,
        model: Model,
        guide: Callable[..., Any] | None,
        **options: Any,
    ) -> None:
        super().__init__(
            model, guide, hidden_features=method.hidden_features, **options
        )
        self._method = method
        self.baseline: BaselineState | None = None

    def prepare(self, x: Any, y: Any = None, index: Tensor | None = None) -> None:
        """Read the program on an example batch, and make guide and baseline."""
        super().prepare(x, y, index)
        if self._method.estimator == "enumerate":
            structure = self._program.structure(*self._arguments(x, y, index))
            check_memory(structure, len(x), self._method.memory_limit)
        elif self.baseline is None:
            self.baseline = self._method.baseline.start(x)

    def _loss(self, x: Any, y: Any, index: Tensor | None) -> Tensor:
        self.prepare(x, y, index)
        if self._method.estimator == "enumerate":
            return self._enumerated(x, y, index)
        args = self._arguments(x, y, index)
        proposal, _ = self._proposed()
        terms, log_q = proposal.draw(args, index, self._method.n_samples)
        static = {s.name for s in self._program.structure(*args).static_sites}
        n_data = len(x) * self._data_scale(len(x))
        elbo = elbo_of(terms, log_q, static=static, n_data=n_data)
        assert self.baseline is not None
        advantage, extra = self.baseline(elbo.detach(), x)
        value = score_function(elbo, advantage, log_q, static=static)
        return -value if extra is None else -value + (extra - extra.detach())

    def _enumerated(self, x: Any, y: Any, index: Tensor | None) -> Tensor:
        args = self._arguments(x, y, index)
        _, guide = self._proposed()
        value: Tensor = expected_elbo(
            self._program.enumerate(*args),
            guide.enumerate(*self._guide_arguments(x, y, index)),
            self._program.structure(*args),
            n_data=len(x) * self._data_scale(len(x)),
        )
        return -value.mean()


def expected_elbo(
    model: Terms, guide: Terms, structure: Structure, *, n_data: float
) -> Float[Tensor, " examples"]:
    """E_q [log p(y, a | x) - log q(a)] from the terms of two enumerated runs.

    Args:
        model: What :meth:`RoutedProgram.enumerate` gives of the model.
        guide: And of the guide, over the same sites.
        structure: The model's sites.
        n_data: Examples of the data, which share what is static.

    Returns:
        (N,) per example.
    """
    value = model.likelihood + model.static_likelihood / n_data
    log_weight = torch.zeros_like(value[..., :1])
    for site in structure.sites:
        log_q = guide.prior[site.name]
        share = 1.0 / n_data if site.static else 1.0
        value = value + share * (model.prior[site.name] - log_q)
        log_weight = log_weight + log_q
    value, log_weight = torch.broadcast_tensors(value, log_weight)
    weight = log_weight.exp()
    # A route that q never takes counts for nothing, whatever the model says of it.
    expected: Tensor = torch.where(weight > 0, value, 0.0) * weight
    return expected.flatten(0, -2).sum(0)
