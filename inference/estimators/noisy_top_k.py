"""The noisy top-k gate of sparsely gated mixtures of experts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ...models.checks import check_count
from ..objective import Method, Model, Objective
from ..regularisers import squared_variation
from ..structure import Structure, untouched_randomness
from .relaxation import check_no_guide, check_relaxable, relaxed_likelihood


@dataclass(frozen=True)
class NoisyTopK(Method):
    r"""Each layer gives a mixture of the k modules of the highest noisy scores.

    .. math::
        H = \log p(\cdot \mid z_l) + \varepsilon\, \mathrm{softplus}(s_l), \quad
        \varepsilon \sim N(0, I), \quad
        w_l = \mathrm{softmax}(\text{the k largest of } H)

    The loss is minus log p(y | x, w) plus, for each site, w_importance CV^2 of the
    summed weights and w_load CV^2 of the load, each choice's expected number of
    examples: its chance to be among the k largest were its own noise drawn anew. It is
    a mixture of activations, another model with no latent routes: what is evaluated
    after training is the routed model at its parameters. Cost: S runs, of all M modules
    a layer (the zero weights are not used to skip any).

    It differs from the paper: the noise's scale is learned for each choice of a site
    and is the same for all inputs (a site shows its probabilities, not its input); the
    scores are the router's log-probabilities, which are its logits up to a constant
    that changes no weight; nothing is set to zero at the start. With k = 1 the weight
    is 1 whatever the scores, so the router learns by the load loss alone.

    Args:
        k: Modules mixed at a site.
        w_importance: Weight of the importance loss.
        w_load: Weight of the load loss; it must be positive where k is 1.
        n_samples: S, draws of the noise for each example.

    References:
        Shazeer et al. 2017, arXiv:1701.06538, equations 3 to 11.
    """

    k: int = 2
    w_importance: float = 0.1
    w_load: float = 0.1
    n_samples: int = 1

    summary: ClassVar[str] = "mixture of the k best modules under noise: another model"
    wiring: ClassVar[str] = "noisy top-k"
    unbiased_for: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        check_count("k", self.k)
        check_count("n_samples", self.n_samples)
        for name in ("w_importance", "w_load"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        if self.k == 1 and not self.w_load:
            raise ValueError(
                "with k=1 the router learns by the load loss alone: w_load must be "
                "positive, got 0, or k at least 2"
            )

    def objective(
        self, model: Model, guide: Callable[..., Any] | None, **options: Any
    ) -> Objective:
        """The objective of the model; it takes no guide."""
        check_no_guide("noisy-top-k", guide)
        return _NoisyTopKObjective(self, model, **options)


class _NoisyTopKObjective(Objective):
    def __init__(self, method: NoisyTopK, model: Model, **options: Any) -> None:
        super().__init__(model, **options)
        self._method = method
        self._n_checked = 0  # examples on which the program was tried
        self._places: dict[str, int] = {}
        self.noise = nn.ParameterList()  # before the softplus, by site

    def prepare(self, x: Any, y: Any = None, index: Tensor | None = None) -> None:
        """Read the program on an example batch, and make the noise's scales."""
        super().prepare(x, y, index)
        args = self._arguments(x, y, index)
        if len(x) > self._n_checked:  # a few examples may hide a step function
            check_sites(self._program.structure(*args), self._method.k)
            check_relaxable(self._program, args, lambda name, p: torch.softmax(p, -1))
            self._n_checked = len(x)
        if self._places:
            return
        with torch.no_grad(), untouched_randomness():
            prior = self._program.sample(*args, n_samples=1).prior
        for place, site in enumerate(self._program.structure(*args).sites):
            self._places[site.name] = place
            self.noise.append(nn.Parameter(prior[site.name].new_zeros(site.n_choices)))

    def _loss(self, x: Any, y: Any, index: Tensor | None) -> Tensor:
        self.prepare(x, y, index)
        method, gates = self._method, []

        def weights_of(name: str, log_probs: Tensor) -> Tensor:
            scale = F.softplus(self.noise[self._places[name]])
            gates.append(
                noisy_top_k(log_probs, scale, torch.randn_like(log_probs), method.k)
            )
            return gates[-1].weights

        terms = self._program.relaxed(
            *self._arguments(x, y, index),
            weights_of=weights_of,
            n_samples=method.n_samples,
        )
        n_data = len(x) * self._data_scale(len(x))
        loss = -relaxed_likelihood(terms, n_data).mean()
        for gate in gates:
            # Of the whole batch: an even use is no mean over examples.
            weights, load = self._gather([part.flatten(0, -2) for part in gate])
            loss = loss + method.w_importance * squared_variation(weights.sum(0))
            loss = loss + method.w_load * squared_variation(load.sum(0))
        return loss


class Gate(NamedTuple):
    """Weights of a noisy top-k gate, and what the load loss sees.

    Attributes:
        weights: (*batch, M) weights, k of them not zero.
        load: (*batch, M) chance of each choice to be among the k largest scores, were
            its own noise drawn anew and the others' kept.
    """

    weights: Float[Tensor, "*batch m"]
    load: Float[Tensor, "*batch m"]


def noisy_top_k(
    log_probs: Float[Tensor, "*batch m"],
    scale: Float[Tensor, " m"],
    noise: Float[Tensor, "*batch m"],
    k: int,
) -> Gate:
    """The gate at given standard normal noise.

    References:
        Shazeer et al. 2017, arXiv:1701.06538, equations 3 to 5 (weights), 9 (load).
    """
    # Of forbidden choices: still the lowest scores, and differences stay numbers.
    scores = log_probs.clamp_min(torch.finfo(log_probs.dtype).min / 4)
    noisy = scores + noise * scale
    largest, places = noisy.topk(min(k + 1, noisy.shape[-1]), -1)
    chosen = torch.zeros_like(noisy, dtype=torch.bool)
    chosen = chosen.scatter(-1, places[..., :k], True)
    weights = torch.softmax(noisy.masked_fill(~chosen, -math.inf), -1)
    if k == noisy.shape[-1]:
        return Gate(weights, torch.ones_like(weights))
    # The k-th largest score of the others: what a choice has to beat.
    rival = torch.where(chosen, largest[..., k:], largest[..., k - 1 : k])
    return Gate(weights, torch.special.ndtr((scores - rival) / scale))


def check_sites(structure: Structure, k: int) -> None:
    """Refuse static sites, and sites with fewer choices than k.

    Raises:
        ValueError: Names the site.
    """
    for site in structure.sites:
        if site.static:
            raise ValueError(
                f"the routing site {site.name!r} is static, and noisy-top-k balances "
                "the use of modules over examples: take gumbel-softmax"
            )
        if site.n_choices < k:
            raise ValueError(
                f"k must be at most the {site.n_choices} choices of site "
                f"{site.name!r}, got {k}"
            )
