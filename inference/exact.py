"""Exact objectives: every route enumerated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from ..models.checks import check_choice
from .captured import CapturedLoss, Compiler
from .chunks import marginal_loss
from .objective import Method, Model, Objective
from .plan import MemoryLimit, check_memory
from .terms import Terms

Target = Literal["marginal", "router-elbo"]


@dataclass(frozen=True)
class Exact(Method):
    r"""Marginal likelihood by parallel enumeration.

    .. math:: \log p(y \mid x) = \log \sum_a p(y \mid x, a)\, p(a \mid x)

    Cost: prod M_l evaluations of what follows the last decision; twice the forward's
    where the routes do not fit into memory at once and are taken in chunks. The
    gradient is exact: the posterior's expectation of grad log p(y, a | x). Coupled by a
    static site, a minibatch of B out of N examples gives a biased marginal, its
    likelihoods raised to N / B; the router ELBO is not biased.

    Args:
        target: ``"marginal"``, or ``"router-elbo"``: the exact expectation
            E_{p(a|x)} log p(y | x, a) that ``score-function`` estimates, a lower bound
            and another training.
        memory_limit: Bytes that a step may take; ``None``: what is free.
        compile: ``"capture"`` or ``"inductor"`` capture the step as a graph, for a
            model that is an ``nn.Module``: see
            :class:`~latentroute.inference.captured.CapturedLoss`.

    References:
        Obermeyer et al. 2019, Tensor variable elimination, arXiv:1902.03210 (Pyro's
        parallel enumeration); here one logsumexp for each site in float32's full range.
    """

    target: Target = "marginal"
    memory_limit: int | None = None
    compile: Compiler | None = None

    summary: ClassVar[str] = "marginal likelihood, every route enumerated"

    def __post_init__(self) -> None:
        check_choice("target", self.target, get_args(Target))
        if self.compile is not None:
            check_choice("compile", self.compile, get_args(Compiler))

    @property
    def wiring(self) -> str:  # type: ignore[override]
        """Which training it is: the target decides."""
        marginal = self.target == "marginal"
        return "marginal likelihood" if marginal else "router-as-guide ELBO"

    @property
    def unbiased_for(self) -> str | None:  # type: ignore[override]
        """What its gradient is that of."""
        return "marginal" if self.target == "marginal" else "elbo"

    def objective(
        self, model: Model, guide: Callable[..., Any] | None, **options: Any
    ) -> Objective:
        """The objective; it takes no guide, all routes being summed out."""
        if guide is not None:
            raise ValueError("exact takes no guide: the routes are summed out")
        return _ExactObjective(self, model, **options)


class _ExactObjective(Objective):
    def __init__(self, method: Exact, model: Model, **options: Any) -> None:
        super().__init__(model, **options)
        self._method = method
        self._memory_limit = MemoryLimit(method.memory_limit)
        self._captured: CapturedLoss | None = None
        if method.compile is not None:
            self._captured = CapturedLoss(self._plain, self._program, method.compile)

    def _loss(self, x: Any, y: Any, index: Tensor | None) -> Tensor:
        args = self._arguments(x, y, index)
        if self._captured is None:
            return self._plain(*args)
        return self._captured(*args)

    def _plain(self, *args: Any) -> Tensor:
        n, limit = len(args[0]), self._memory_limit()
        scale = self._data_scale(n)
        if self._method.target == "marginal":
            return marginal_loss(self._program, args, scale, limit)
        check_memory(self._program.structure(*args), n, limit)
        return -expected_likelihood(self._program.enumerate(*args), n * scale).mean()


def expected_likelihood(terms: Terms, n_data: float) -> Tensor:
    """E_{p(a|x)} log p(y | x, a) from the terms of an enumerated run.

    Args:
        terms: What :meth:`RoutedProgram.enumerate` gives.
        n_data: Examples of the data, which share what is observed outside the plate.

    Returns:
        (N,) per example; a static site's expectation is taken too.
    """
    likelihood = terms.likelihood + terms.static_likelihood / n_data
    likelihood, *log_prior = torch.broadcast_tensors(likelihood, *terms.prior.values())
    weight = torch.stack(log_prior).sum(0).exp()
    # A route of probability zero counts for nothing, whatever its likelihood.
    value = torch.where(weight > 0, likelihood, 0.0) * weight
    return value.flatten(0, -2).sum(0) if value.dim() > 1 else value
