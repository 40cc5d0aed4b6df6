"""RELAX: an unbiased score function with a learned control variate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ...models.checks import check_count
from ..baselines import leave_one_out
from ..objective import Method, Model, Objective
from ..random import RandomStream
from ..schedules import Constant, Schedule
from ..structure import Structure
from ..terms import choice_log_probs
from .relaxation import check_no_guide, check_temperature, gumbel_like


@dataclass(frozen=True)
class Relax(Method):
    r"""Router-as-guide ELBO; a network of relaxed choices takes the noise out.

    For each site, with R = log p(y | x, a), a relaxed choice zeta_l (log-probabilities
    plus Gumbel noise, of which a_l is the largest) and another, zeta'_l, drawn given
    a_l:

    .. math::
        \nabla R + \sum_l (R - c_l(\zeta'_l)) \nabla \log p(a_l \mid z_l)
        + \nabla c_l(\zeta_l) - \nabla c_l(\zeta'_l)

    Unbiased for the ELBO whatever c is: a network of x, the choices before l and
    softmax(zeta / temperature). It is trained beside the model to lower
    E ||g_l||^2, with g_l the estimate in the scores of site l, one sample of one
    example: a stand-in for the variance of the gradient in the parameters. The modules
    need not be differentiable. Cost: S evaluations an example, and a small network.

    It differs from the paper: where S > 1, R is first compared with the mean of the
    example's other samples, which spares c the learning of the common level; c is a
    free network (theirs adds f at relaxed choices to one, which needs a differentiable
    f); there is a c for each site, which sees the choices before it, because later
    routers depend on them.

    Args:
        n_samples: S, routes drawn for each example, whose estimates are averaged.
        hidden_features: Width of the one hidden layer of each c.
        temperature: Of the softmax that c sees.

    References:
        Grathwohl, Choi, Wu, Roeder, Duvenaud 2017, arXiv:1711.00123, algorithm 2 and
        section 3.2; the conditional draw: Tucker et al. 2017, arXiv:1703.07370,
        appendix B.
    """

    n_samples: int = 8
    hidden_features: int = 32
    temperature: Schedule = field(default_factory=lambda: Constant(0.5))

    summary: ClassVar[str] = "score function with a learned, relaxed control variate"
    wiring: ClassVar[str] = "router-as-guide ELBO"
    unbiased_for: ClassVar[str | None] = "elbo"

    def __post_init__(self) -> None:
        check_count("n_samples", self.n_samples)
        check_count("hidden_features", self.hidden_features)
        check_temperature(self.temperature)

    def objective(
        self, model: Model, guide: Callable[..., Any] | None, **options: Any
    ) -> Objective:
        """The objective of the model; it takes no guide."""
        check_no_guide("relax", guide)
        return _RelaxObjective(self, model, **options)


class _RelaxObjective(Objective):
    def __init__(
        self, method: Relax, model: Model, *, seed: int | None, **options: Any
    ) -> None:
        super().__init__(model, seed=seed, **options)
        self._method = method
        self._seed = seed  # of the control variates' start
        self.controls: nn.ModuleList | None = None  # c of each site

    def prepare(self, x: Any, y: Any = None, index: Tensor | None = None) -> None:
        """Read the program on an example batch, and make the control variates."""
        super().prepare(x, y, index)
        if self.controls is not None:
            return
        args = self._arguments(x, y, index)
        structure = self._program.structure(*args)
        _check(structure, x, self._program.broadcasts_samples(*args))
        controls, seen = [], x[0].numel()
        with RandomStream(self._seed)():
            for m in structure.n_choices:
                seen += m  # x, the choices before, and this one's
                controls.append(Control(seen, self._method.hidden_features).to(x))
        self.controls = nn.ModuleList(controls)

    def _loss(self, x: Any, y: Any, index: Tensor | None) -> Tensor:
        self.prepare(x, y, index)
        assert self.controls is not None
        args = self._arguments(x, y, index)
        structure, s = self._program.structure(*args), self._method.n_samples
        terms = self._program.sample(*args, n_samples=s)
        value, reward = terms.likelihood.mean(), terms.likelihood.detach()
        if s > 1:
            reward = leave_one_out(reward)
        temperature = self._method.temperature(self.step)
        seen = x.flatten(1).expand(s, -1, -1)
        surrogate, size = value, torch.zeros_like(value)
        for control, site in zip(self.controls, structure.sites, strict=True):
            log_probs = choice_log_probs(terms.sites[site.name], structure.nesting)
            log_probs = log_probs.expand(s, len(x), -1)
            route = terms.routes[site.name].expand(s, len(x))
            estimate = relax_gradient(
                reward,
                log_probs.detach(),
                route,
                partial(_relaxed_value, control, seen, temperature),
            )
            surrogate = surrogate + _inner(estimate.detach(), log_probs).mean()
            size = size + estimate.square().sum(-1).mean()
            seen = torch.cat([seen, F.one_hot(route, site.n_choices).to(seen)], -1)
        loss = -surrogate + (surrogate - value).detach()
        return loss + (size - size.detach())  # the control variates' own loss


def _relaxed_value(
    control: nn.Module, seen: Tensor, temperature: float, zeta: Tensor
) -> Tensor:
    value: Tensor = control(
        torch.cat([seen, torch.softmax(zeta / temperature, -1)], -1)
    )
    return value


class Control(nn.Module):
    """A control variate: a network of one hidden layer.

    Args:
        into: Width of what it sees.
        hidden: Width of its hidden layer.
    """

    def __init__(self, into: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(into, hidden), nn.Tanh(), nn.Linear(hidden, 1)
        )

    def forward(self, seen: Float[Tensor, "*batch into"]) -> Float[Tensor, "*batch"]:
        """Its values."""
        value: Tensor = self.layers(seen).squeeze(-1)
        return value


def relax_gradient(
    reward: Float[Tensor, "*batch"],
    log_probs: Float[Tensor, "*batch m"],
    route: Int[Tensor, "*batch"],
    control: Callable[[Tensor], Tensor],
) -> Float[Tensor, "*batch m"]:
    """RELAX's estimate of the gradient of E[reward] in a site's scores.

    Args:
        reward: Of the sampled choices, detached.
        log_probs: Log-probabilities of the choices, detached.
        route: The choices sampled.
        control: From relaxed choices (*batch, M), values (*batch) of the control
            variate, each row's from its own row.

    Returns:
        The estimate, differentiable in the control variate's parameters. It adds up to
        zero over choices, as scores that differ by a constant are the same router.
    """
    # Of forbidden choices: far below all others, and still a number.
    scores = log_probs.clamp_min(torch.finfo(log_probs.dtype).min / 8)
    noise = conditional_gumbel(scores, route, gumbel_like(scores)) - scores
    with torch.enable_grad():
        scores = scores.detach().requires_grad_()
        free = control(torch.log_softmax(scores, -1) + noise)
        given = control(
            conditional_gumbel(
                torch.log_softmax(scores, -1), route, gumbel_like(scores)
            )
        )
        (path,) = torch.autograd.grad((free - given).sum(), scores, create_graph=True)
    chosen = F.one_hot(route, scores.shape[-1]).to(scores)
    score = chosen - torch.softmax(scores.detach(), -1)
    return (reward - given).unsqueeze(-1) * score + path


def conditional_gumbel(
    log_probs: Float[Tensor, "*batch m"],
    route: Int[Tensor, "*batch"],
    noise: Float[Tensor, "*batch m"],
) -> Float[Tensor, "*batch m"]:
    """Log-probabilities plus Gumbel noise, given that ``route`` is the largest.

    The largest of them is itself a standard Gumbel number, for the probabilities add up
    to one; the others are truncated at it. Differentiable in ``log_probs``.

    Args:
        log_probs: Normalised.
        route: The largest.
        noise: Independent standard Gumbel numbers.

    References:
        Maddison, Tarlow, Minka 2014, arXiv:1411.0030, section 3.
    """
    top = noise.gather(-1, route.unsqueeze(-1))
    truncated = -torch.logaddexp(-(log_probs + noise), -top)
    return torch.where(F.one_hot(route, log_probs.shape[-1]).bool(), top, truncated)


def _inner(estimate: Tensor, log_probs: Tensor) -> Tensor:
    """The product with the scores; forbidden choices, of no estimate, left out."""
    finite = log_probs.masked_fill(torch.isneginf(log_probs), 0.0)
    return (estimate * finite).sum(-1)


def _check(structure: Structure, x: Any, broadcasts: bool) -> None:
    """Refuse what the control variates are not made for.

    Raises:
        ValueError: Says what, and what to use.
    """
    instead = "take score-function"
    if structure.static_sites:
        name = structure.static_sites[0].name
        raise ValueError(
            f"the routing site {name!r} is static, and relax's control variates see an "
            f"example: {instead}"
        )
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise ValueError(
            "relax's control variates take x as a tensor of floating-point numbers, "
            f"got {getattr(x, 'dtype', type(x).__name__)}: {instead}"
        )
    if not broadcasts:
        raise ValueError(
            "relax takes a program that broadcasts over samples on the left, and this "
            f"one does not: {instead}"
        )
