"""Posteriors over routes of any kind, as weighted routes that a truth is ranked in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from ..inference.marginal import RoutePosterior
from ..inference.plan import check_memory
from ..inference.posterior import ImportancePosterior, SampledRoutes
from ..inference.program import RoutedProgram, all_routes
from ..inference.proposal import check_guide
from ..inference.structure import Structure
from ..inference.weighted import by_route, stack_routes
from ..models.checks import check_count

Posterior = Callable[..., RoutePosterior | ImportancePosterior | SampledRoutes | Tensor]
"""``posterior(model, x, y)``: a table of all routes, weighted routes, or draws."""


class RankedIn(NamedTuple):
    """Routes that stand for a posterior.

    Attributes:
        routes: (S, N or 1, L).
        weights: (S, N), summing to one over S; (S, 1) where examples are coupled.
        n_draws: How many independent draws they are; ``None`` where the weights are
            the posterior's own.
    """

    routes: Int[Tensor, "s #examples sites"]
    weights: Float[Tensor, "s #examples"]
    n_draws: int | None


@dataclass(frozen=True, eq=False)
class GuidePosterior:
    """A guide's q(a | x, y) as a posterior to calibrate.

    Args:
        guide: A Pyro program over the model's routing sites, called with ``x, y``: an
            :class:`~latentroute.guides.AmortisedGuide`, say, or a trained objective's
            ``guide``.
        n_draws: Draw that many routes an example; ``None``: list all of them with
            their probabilities, which says more.
    """

    guide: Callable[..., Any]
    n_draws: int | None = None

    def __post_init__(self) -> None:
        if self.n_draws is not None:
            check_count("n_draws", self.n_draws)

    def __call__(self, model: Callable[..., Any], *args: Any) -> Any:
        """The table of q, or draws from it.

        Raises:
            ValueError: If the guide is none for this model, or the table does not fit.
        """
        structure = RoutedProgram(model).structure(*args)
        check_guide(self.guide, args, structure)
        program = RoutedProgram(self.guide, structure)
        if self.n_draws is not None:
            terms = program.sample(*args, n_samples=self.n_draws)
            return stack_routes(terms, structure)
        check_memory(structure, structure.n_examples, None)
        static = {site.name for site in structure.static_sites}
        if static and len(static) < len(structure.sites):
            raise ValueError(
                "static and dynamic sites together have no one table: pass n_draws="
            )
        log_q = sum(program.enumerate(*args).prior.values(), torch.zeros(()))
        return RoutePosterior(
            all_routes(structure.sites), by_route(log_q, structure).T, structure.names
        )


def ranked_in(found: Any, structure: Structure, n_examples: int) -> RankedIn:
    """What a posterior gave, checked, as routes and weights.

    Raises:
        TypeError: If it is none of the kinds there are.
        ValueError: If it is not over all of the model's sites, or of other examples.
    """
    if isinstance(found, Tensor):
        found = SampledRoutes(found, torch.empty(0), structure.names)
    if not isinstance(found, RoutePosterior | ImportancePosterior | SampledRoutes):
        raise TypeError(
            "a posterior gives a RoutePosterior, an ImportancePosterior, SampledRoutes "
            f"or draws of routes (draws, N, sites), got {type(found).__name__}"
        )
    if tuple(found.names) != structure.names:
        raise ValueError(
            f"the posterior is over the sites {list(found.names)}, the model's are "
            f"{list(structure.names)}: pass one of all sites, such as sample_routes"
        )
    n = 1 if structure.coupled else n_examples
    if isinstance(found, SampledRoutes):
        shape = (len(found.routes), n_examples, len(structure.sites))
        if tuple(found.routes.shape) != shape:
            raise ValueError(
                f"drawn routes must have shape (draws, {n_examples}, {shape[2]}), got "
                f"{tuple(found.routes.shape)}"
            )
        weights = torch.full((shape[0], n), 1 / shape[0], dtype=torch.float64)
        return RankedIn(found.routes, weights, shape[0])
    if isinstance(found, RoutePosterior):
        routes, log_weights = found.routes.unsqueeze(1), found.log_probs.T
    else:
        routes, log_weights = found.routes, found.log_weights
    weights = log_weights.double().softmax(0).expand(-1, n)
    return RankedIn(routes, weights, None)


def randomised_pit(
    values: Tensor, truth: Tensor, among: RankedIn, *, tolerance: float
) -> NDArray[np.float64]:
    r"""Where a truth stands in its posterior: uniform if the posterior is right.

    .. math::
        u = P(f < f^*) + v P(f = f^*), \quad v \sim \mathrm{Uniform}(0, 1)

    under the posterior's own weights. For n draws the truth counts as one more of them,
    (#less + v (#equal + 1)) / (n + 1), which is uniform for any n: its integer part is
    the rank of Talts et al. with ties broken at random. v is drawn from torch's global
    stream.

    Args:
        values: (S, N, Q) of the quantities f at the posterior's routes.
        truth: (N, Q) of f at the truth.
        among: The posterior; only its weights and number of draws are read.
        tolerance: What counts as equal, relative to 1 + abs(f).

    Returns:
        (N, Q) in [0, 1].
    """
    values, truth, w = values.double(), truth.double(), among.weights.unsqueeze(-1)
    equal = (values - truth).abs() <= tolerance * (1 + truth.abs())
    less = (values < truth) & ~equal
    below, same = (w * less).sum(0), (w * equal).sum(0)
    if among.n_draws is not None:
        n = among.n_draws
        below, same = below * n / (n + 1), (same * n + 1) / (n + 1)
    v = torch.rand(truth.shape, dtype=torch.float64).to(same.device)
    return (below + v * same).clamp(0, 1).cpu().numpy()
