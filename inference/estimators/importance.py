"""The importance-weighted bound, each sample's score compared with the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from ...guides.router import RouterGuide
from ...models.checks import check_choice, check_count
from ..objective import Method, Model, Objective
from ..proposal import Proposal
from ..structure import Structure
from ..tables import logsumexp
from ..terms import Terms
from .whole import require_whole

Control = Literal["geometric", "arithmetic"]


@dataclass(frozen=True)
class Importance(Method):
    r"""Importance-weighted bound of S routes, with VIMCO's leave-one-out control.

    .. math::
        L_S = E \log \frac1S \sum_s w_s, \quad w_s = \frac{p(y, a_s \mid x)}{q(a_s)},
        \quad \nabla = \sum_s \tilde w_s \nabla \log w_s
        + (\hat L - \hat L_{-s}) \nabla \log q(a_s)

    with the normalised weights ~w. By default q is the router, so that
    w_s = p(y | x, a_s). L_1 is the router ELBO, and L_S rises to the marginal with S.
    L_(-s) is the bound with w_s replaced by a mean of the other weights. Unbiased for
    L_S, not for the marginal. Cost: S evaluations an example, as one vectorised run;
    with a guide of one's own S runs of that besides.

    Static routes have joint weights of all examples: then minibatches give a biased
    bound, as in ``exact``. To train the router alone, pass ``parameters=`` its own.

    Args:
        n_samples: S, at least 2.
        control: The mean that replaces w_s: ``"geometric"``, or ``"arithmetic"``,
            which makes L_(-s) the bound of the other samples.

    References:
        Mnih, Rezende 2016, arXiv:1602.06725 (VIMCO; both means, they use the
        geometric); Burda, Grosse, Salakhutdinov 2015, arXiv:1509.00519 (the bound).
    """

    n_samples: int = 8
    control: Control = "geometric"

    summary: ClassVar[str] = "importance-weighted bound, VIMCO's leave-one-out control"
    wiring: ClassVar[str] = "importance-weighted bound"
    unbiased_for: ClassVar[str | None] = "importance"

    def __post_init__(self) -> None:
        check_count("n_samples", self.n_samples, least=2)
        check_choice("control", self.control, get_args(Control))

    def objective(
        self, model: Model, guide: Callable[..., Any] | None, **options: Any
    ) -> Objective:
        """The objective of the model and the guide, by default the router."""
        return _ImportanceObjective(
            self,
            model,
            RouterGuide(model) if guide is None else guide,
            **options,
        )


class _ImportanceObjective(Objective):
    def __init__(
        self,
        method: Importance,
        model: Model,
        guide: Callable[..., Any],
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        self.guide = guide
        self._method = method
        self._proposal = Proposal(self._program, guide)

    def prepare(self, x: Any, y: Any = None, index: Tensor | None = None) -> None:
        """Read the program on an example batch.

        Raises:
            ValueError: Where only some sites are static.
        """
        super().prepare(x, y, index)
        args = self._arguments(x, y, index)
        require_whole("importance", self._program.structure(*args))

    def _loss(self, x: Any, y: Any, index: Tensor | None) -> Tensor:
        self.prepare(x, y, index)
        args = self._arguments(x, y, index)
        structure = self._program.structure(*args)
        scale = self._data_scale(len(x))
        terms, log_q = self._proposal.draw(args, index, self._method.n_samples)
        bound = importance_bound(
            log_weights(terms, log_q, structure, scale),
            sum(log_q.values(), start=terms.likelihood.new_zeros(1)),
            control=self._method.control,
        )
        return -bound.sum() / (scale * len(x)) if structure.coupled else -bound.mean()


def log_weights(
    terms: Terms, log_q: Mapping[str, Tensor], structure: Structure, scale: float
) -> Float[Tensor, "samples examples"]:
    """log p(y, a | x) - log q(a) of each sample, differentiable in both.

    Args:
        terms: Of S routes, all dynamic or all static.
        log_q: The guide's log-probabilities, by site; ``terms.prior`` itself where the
            router is the guide.
        structure: The program's sites.
        scale: N / B, which static routes raise the likelihoods to.

    Returns:
        (S, N), or (S, 1) of static routes: all examples together.
    """
    weight = terms.likelihood
    if structure.coupled:
        weight = scale * weight.sum(-1, keepdim=True) + terms.static_likelihood
    if log_q is not terms.prior:
        for name, log_p in terms.prior.items():
            weight = weight + log_p - log_q[name]
    return weight


def importance_bound(
    log_w: Float[Tensor, "samples examples"],
    log_q: Float[Tensor, "*#samples examples"],
    *,
    control: Control = "geometric",
) -> Float[Tensor, " examples"]:
    """log mean_s w_s, with VIMCO's estimate as its gradient.

    Args:
        log_w: Log-weights, with the gradient that they have at given routes.
        log_q: Log-probabilities of the routes under the proposal.
        control: The mean of the others that stands for a sample's own weight.
    """
    # In float32 a level of -1e6 would round off the differences that matter.
    level = log_w.detach().amax(0)
    level = level.masked_fill(torch.isinf(level), 0.0)
    above = log_w - level
    bound = logsumexp(above, 0).squeeze(0) - math.log(len(log_w))
    without = leave_one_out_bound(above.detach(), control=control)
    # A baseline of minus infinity, where all others are impossible, is left out.
    learnt = bound.detach() - without.masked_fill(torch.isneginf(without), 0.0)
    return level + bound + (learnt * (log_q - log_q.detach())).sum(0)


def leave_one_out_bound(
    log_w: Float[Tensor, "samples examples"], *, control: Control = "geometric"
) -> Float[Tensor, "samples examples"]:
    """The bound with each weight in turn replaced by a mean of the others."""
    s = len(log_w)
    own = torch.eye(s, dtype=torch.bool, device=log_w.device).unsqueeze(-1)
    others = log_w.unsqueeze(0).expand(s, *log_w.shape)  # [s, j]
    if control == "geometric":
        mean = others.masked_fill(own, 0.0).sum(1) / (s - 1)
    else:
        rest = others.masked_fill(own, -torch.inf)
        mean = rest.logsumexp(1) - math.log(s - 1)
    replaced = torch.where(own, mean.unsqueeze(1), others)
    return replaced.logsumexp(1) - math.log(s)
