"""Variational inference over the weights, with the routes summed out or sampled."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from ...guides.weights import NormalPrior, Prior, WeightGuide, weights_at
from ...models.checks import check_choice, check_count
from ..baselines import leave_one_out
from ..objective import Method, Model, Objective
from ..plan import check_memory
from ..random import RandomStream
from ..score_function import elbo_of, score_function
from ..tables import sum_routes
from ..weight_draws import WeightDraws

Routes = Literal["enumerate", "sample"]


@dataclass(frozen=True)
class SVIBayes(Method):
    r"""A normal guide over the weights; routes enumerated or sampled.

    .. math::
        \frac1N \Big( \sum_n E_{q(w)} \log p(y_n \mid x_n, w)
        - \mathrm{KL}(q(w) \,\|\, p(w)) \Big), \quad q(w) = \mathrm{Normal}(\mu, \sigma)

    One draw of the weights a step, reparameterised; the KL in closed form. With
    ``routes="sample"`` log p(y | x, w) is replaced by its bound E_{p(a|x,w)} log
    p(y | x, a, w), estimated with leave-one-out. The gradient is unbiased for this ELBO
    (minibatches of a program with a static site: with ``"sample"`` alone). The means
    are the model's own parameters, so that the trained model holds the posterior mean.
    Cost: as ``exact``, or S evaluations an example; one more copy of the weights.

    Args:
        routes: ``"enumerate"`` or ``"sample"``.
        n_samples: S, at least 2; routes sampled an example.
        prior: Of every weight, by default Normal(0, 1):
            :class:`~latentroute.guides.NormalPrior` or
            :class:`~latentroute.guides.LaplacePrior`.
        initial_scale: sigma at the start.
        memory_limit: Bytes that an enumerated step may take; ``None``: what is free.

    References:
        Blundell, Cornebise, Kavukcuoglu, Wierstra 2015, arXiv:1505.05424, equation 1
        (there sigma is a softplus, and the KL is sampled).
    """

    routes: Routes = "enumerate"
    n_samples: int = 8
    prior: Prior = field(default_factory=NormalPrior)
    initial_scale: float = 0.05
    memory_limit: int | None = None

    summary: ClassVar[str] = "a normal distribution over the weights, routes summed out"
    wiring: ClassVar[str] = "ELBO over the weights of the marginal likelihood"
    unbiased_for: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        check_choice("routes", self.routes, get_args(Routes))
        check_count("n_samples", self.n_samples, least=2)
        if not isinstance(self.prior, Prior):
            raise TypeError(
                f"prior must be a Prior such as NormalPrior(), got {self.prior!r}"
            )
        if not 0 < self.initial_scale < math.inf:
            raise ValueError(
                f"initial_scale must be positive, got {self.initial_scale}"
            )

    def objective(
        self, model: Model, guide: Callable[..., Any] | None, **options: Any
    ) -> Objective:
        """The objective; its guide is made of the trained parameters at once."""
        if guide is not None:
            raise ValueError(
                "svi-bayes takes no guide over routes: they are summed out or drawn "
                "from the router"
            )
        return _SVIBayesObjective(self, model, **options)


class _SVIBayesObjective(Objective):
    def __init__(self, method: SVIBayes, model: Model, **options: Any) -> None:
        super().__init__(model, **options)
        self._method = method
        self._weights = list(self._named_weights().values())
        if not self._weights:
            raise ValueError(
                "svi-bayes infers the trained weights, and there are none: pass the "
                "tensors to train, with requires_grad"
            )
        self.guide: WeightGuide | None = None

    def prepare(self, x: Any, y: Any = None, index: Tensor | None = None) -> None:
        """Read the program on an example batch, and make the guide of its weights.

        Raises:
            ValueError: If all routes do not fit into memory.
        """
        super().prepare(x, y, index)
        if self._method.routes == "enumerate":
            structure = self._program.structure(*self._arguments(x, y, index))
            check_memory(structure, len(x), self._method.memory_limit)
        if self.guide is None:
            scale = self._method.initial_scale
            self.guide = WeightGuide(self._weights, scale=scale)

    def weight_draws(
        self, n_draws: int | None = None, *, seed: int = 0
    ) -> WeightDraws | None:
        """Independent draws from the guide as one chain, 100 unless told."""
        if self.guide is None:
            return None
        with torch.no_grad(), RandomStream(seed)():
            draws = [
                self.guide.weights(self.guide.noise()) for _ in range(n_draws or 100)
            ]
        named = self._named_weights()
        return WeightDraws(
            parameters=tuple(named.values()),
            names=tuple(named),
            values=tuple(torch.stack(each)[None] for each in zip(*draws, strict=True)),
        )

    def _loss(self, x: Any, y: Any, index: Tensor | None) -> Tensor:
        self.prepare(x, y, index)
        guide = self.guide
        assert guide is not None
        weights = guide.weights(guide.noise())
        args = self._arguments(x, y, index)
        n_data = len(x) * self._data_scale(len(x))
        misfit = at_weights(lambda: self._misfit(args, n_data), self._weights, weights)
        return misfit + guide.divergence(self._method.prior) / n_data

    def _misfit(self, args: tuple[Any, ...], n_data: float) -> Tensor:
        """Minus the mean log p(y | x, w), or its bound, at the weights as they are."""
        structure, x = self._program.structure(*args), args[0]
        if self._method.routes == "enumerate":
            scale = n_data / len(x)
            terms = self._program.enumerate(*args)
            value = sum_routes(terms, structure, data_scale=scale)
            return -value / n_data if structure.coupled else -value.mean()
        static = {site.name for site in structure.static_sites}
        terms = self._program.sample(*args, n_samples=self._method.n_samples)
        elbo = elbo_of(terms, terms.prior, static=static, n_data=n_data)
        advantage = leave_one_out(elbo.detach())
        return -score_function(elbo, advantage, terms.prior, static=static)


def at_weights(
    loss: Callable[[], Tensor],
    parameters: Sequence[Tensor],
    weights: Sequence[Tensor],
) -> Tensor:
    """A loss of a program's parameters, as a function of other weights.

    The parameters take the weights' values for one evaluation; its gradient is carried
    over to the weights. So it serves any program, at one forward and backward pass; the
    result is differentiable once.

    Args:
        loss: Evaluates the program.
        parameters: Leaf tensors that it depends on.
        weights: What to evaluate it at, differentiable in whatever they are made of.
    """
    with weights_at(parameters, weights):
        value = loss()
        if not torch.is_grad_enabled():
            return value
        found = torch.autograd.grad(value, list(parameters), allow_unused=True)
    carried = value.detach()
    for gradient, weight in zip(found, weights, strict=True):
        if gradient is not None:
            carried = carried + (gradient * (weight - weight.detach())).sum()
    return carried
