"""Runs of a routed program whose choices are replaced by differentiable weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..models.relaxation import relax, relaxation_of
from ..models.routing import Site
from .structure import RouteSite, Structure
from .terms import choice_log_probs, read_likelihoods

# From a site's name and log p(a | z) of its choices, (*lead, N or 1, M), weights of the
# same shape.
WeightsOf = Callable[[str, Tensor], Tensor]


class RelaxedTerms(NamedTuple):
    """What a relaxed run gives; the prior of soft weights is not evaluated.

    Attributes:
        likelihood: (S, N) log p(y | x, weights).
        static_likelihood: (S, 1) of what is observed outside the data plate.
        log_probs: (S, N or 1, M) log p(a_l | z_l) at each site.
        weights: (S, N or 1, M) the weights that stood for the choice.
    """

    likelihood: Float[Tensor, "samples examples"]
    static_likelihood: Float[Tensor, "samples one"]
    log_probs: dict[str, Tensor]
    weights: dict[str, Tensor]


class Relaxer:
    """Gives the sites of one run weights in place of a choice, and keeps them.

    Args:
        structure: The program's sites.
        weights_of: What makes the weights.
        n_samples: Size of a dimension on the left; ``None``: natural shape.
    """

    def __init__(
        self, structure: Structure, weights_of: WeightsOf, n_samples: int | None
    ) -> None:
        self.log_probs: dict[str, Tensor] = {}
        self.weights: dict[str, Tensor] = {}
        self._values: dict[str, Tensor] = {}
        self._structure = structure
        self._weights_of = weights_of
        self._n_samples = n_samples

    def __call__(self, site: Site, i: int) -> Tensor:
        """The value of site i: its likeliest choice, carrying weights over all."""
        nesting = self._structure.nesting
        log_probs = choice_log_probs(site, nesting)
        if self._n_samples is not None:
            log_probs = log_probs.expand(self._n_samples, *log_probs.shape[-2:])
        weights = self._weights_of(site.name, log_probs)
        self.log_probs[site.name], self.weights[site.name] = log_probs, weights
        route_site = self._structure.sites[i]
        if self._n_samples is not None:
            weights = weights.unflatten(0, (-1, *(1,) * (nesting - 1)))
        elif route_site.static:
            weights = weights.squeeze(-2)
        if is_one_hot(route_site):
            value = weights
        else:
            # A copy, lest the program's own constant carry the weights.
            value = route_site.value_of(weights.argmax(-1)).clone()
            relax(value, weights)
        self._values[site.name] = value
        return value

    def terms(self, sites: dict[str, Site]) -> RelaxedTerms:
        """The terms of the run that has ended.

        Raises:
            ValueError: If a site's weights were not used.
        """
        for site in self._structure.sites:
            if site.name not in self._values:
                raise ValueError(
                    f"the program does not sample the routing site {site.name!r}"
                )
            relaxation = relaxation_of(self._values[site.name])
            if relaxation is not None and not relaxation.used:
                raise ValueError(
                    f"the route {site.name!r} cannot be relaxed, because no ModuleBank "
                    "takes it as it was sampled: pass it to a ModuleBank, sample it "
                    "from a OneHotCategorical, or take a method that samples hard "
                    "routes, such as score-function"
                )
        like = next(iter(self.weights.values()), torch.zeros(()))
        likelihood, outside = read_likelihoods(sites, self._structure, like)
        if self._n_samples is not None:
            likelihood = likelihood.expand(self._n_samples, -1)
            outside = outside.expand(self._n_samples, 1)
        return RelaxedTerms(likelihood, outside, self.log_probs, self.weights)


def stack_relaxed(runs: list[RelaxedTerms]) -> RelaxedTerms:
    """Runs of natural shape as one with a dimension of samples."""
    names = runs[0].weights
    return RelaxedTerms(
        torch.stack([run.likelihood for run in runs]),
        torch.stack([run.static_likelihood for run in runs]),
        {name: torch.stack([run.log_probs[name] for run in runs]) for name in names},
        {name: torch.stack([run.weights[name] for run in runs]) for name in names},
    )


def is_one_hot(site: RouteSite) -> bool:
    """Whether choice m is the m-th unit vector, so that weights are a value too."""
    support = site.support
    return support.dim() == 2 and torch.equal(
        support, torch.eye(len(support), dtype=support.dtype, device=support.device)
    )
