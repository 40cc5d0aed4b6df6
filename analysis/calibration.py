"""Simulation-based calibration of routes: does a posterior mean what it says?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..guides.weights import Prior
from ..inference.marginal import route_posterior
from ..inference.program import RoutedProgram
from ..inference.random import RandomStream
from ..inference.structure import Structure
from ..inference.terms import Terms
from ..models.checks import check_count
from .calibration_posteriors import Posterior, RankedIn, randomised_pit, ranked_in
from .calibration_simulation import Simulated, Simulator, drawn_from, trained

LOG_TERMS = ("log_prior", "log_likelihood", "log_joint")

# The same route scored in another batch may differ in its last digits, in float32.
_SAME = 1e-5
_ROWS = 2**16  # routes times examples that are scored in one run


class Calibration(NamedTuple):
    """Where simulated truths stand in their posteriors.

    Attributes:
        pit: (R, Q) uniform on [0, 1], and independent over the R simulations, if the
            posteriors are right.
        quantities: Names of the Q test quantities.
        n_draws: Draws a posterior; ``None`` where posteriors are tables.
        sites: Names of the routing sites.
        routes: (R, L) the simulated routes; empty where a simulation has many.
        route_probs: (R, L, M) what the posteriors say of them, zero-padded.
    """

    pit: Float[np.ndarray, "simulations quantities"]
    quantities: tuple[str, ...]
    n_draws: int | None
    sites: tuple[str, ...]
    routes: Int[np.ndarray, "simulations sites"]
    route_probs: Float[np.ndarray, "simulations sites modules"]


@torch.no_grad()
def route_calibration(
    model: Callable[..., Any],
    x: Tensor,
    posterior: Posterior = route_posterior,
    *,
    prior: Prior | None = None,
    parameters: Iterable[Tensor] | None = None,
    repeats: int = 1,
    target: str | None = None,
    seed: int = 0,
) -> Calibration:
    r"""Calibrate a posterior over routes on data simulated from the model.

    .. math::
        w \sim p(w), \quad (a^*, y) \sim p(a, y \mid x, w), \quad
        u = P_q(f(a, y) < f(a^*, y)) + v P_q(f(a, y) = f(a^*, y))

    is uniform for every f if q(a | x, y) = p(a | x, y, w). Routes are discrete, so ties
    are broken at random by v. The test quantities f are the indicators
    ``{site}={choice}`` and, as they also depend on y, ``log_prior`` log p(a | x),
    ``log_likelihood`` log p(y | x, a) and ``log_joint``, their sum: without these a
    posterior that ignores y altogether would pass.

    Given the weights, examples of dynamic routes are simulations of their own: N x
    repeats of them. Where a site is static a whole run is one simulation, there are
    ``repeats`` of them, and quantities are sums over its examples. The model runs as it
    is: with dropout, call ``.eval()`` first.
    Cost: a repeat is one run forwards, the posterior, and the model at its routes.

    Args:
        model: A Pyro program ``model(x, y=None)`` that samples y when called without.
        x: Inputs, examples first.
        posterior: What is calibrated, called with ``model, x, y``:
            :func:`~latentroute.inference.route_posterior`,
            :func:`~latentroute.inference.importance_posterior`,
            :func:`~latentroute.inference.sample_routes` (with ``seed=None``: a seed of
            its own would repeat itself), :class:`GuidePosterior`, or any function that
            gives what one of these does or draws of routes (draws, N, sites).
        prior: Of the weights, drawn anew for every repeat; ``None``: as they are.
        parameters: The tensors that the prior is over, by default the model's own.
        repeats: How often x is simulated.
        target: Name of y's site, where the model does not return y.
        seed: Of all that is drawn, the posterior's draws included.

    Returns:
        PITs, and the posterior's probabilities with the routes that were simulated.

    Raises:
        ValueError: If the model cannot be simulated, or the posterior is not one of its
            routes.
        TypeError: If the posterior gives something else.

    References:
        Talts et al. 2018, arXiv:1804.06788; Modrák et al. 2023, arXiv:2211.02383
        (quantities that depend on data; randomised ties).

    Example:
        >>> from latentroute.models import LayeredNetwork
        >>> net = LayeredNetwork(2, 3, n_layers=1, n_modules=2, hidden_features=4)
        >>> found = route_calibration(net, torch.randn(50, 2))
        >>> found.pit.shape, found.quantities[:2]
        ((50, 5), ('route_0=0', 'route_0=1'))
    """
    check_count("repeats", repeats)
    simulator = Simulator(model, target)
    weights = () if prior is None else trained(model, parameters)
    parts = []
    with RandomStream(seed)():
        for _ in range(repeats):
            with drawn_from(prior, weights):
                parts.append(_simulate(simulator, x, posterior))
    structure, n_draws = parts[0].structure, parts[0].n_draws
    return Calibration(
        pit=np.concatenate([part.pit for part in parts]),
        quantities=(*choice_names(structure), *LOG_TERMS),
        n_draws=n_draws,
        sites=structure.names,
        routes=np.concatenate([part.routes for part in parts]),
        route_probs=np.concatenate([part.route_probs for part in parts]),
    )


def choice_names(structure: Structure) -> list[str]:
    """Names of the indicators of every choice at every site."""
    return [f"{s.name}={m}" for s in structure.sites for m in range(s.n_choices)]


class _Part(NamedTuple):
    pit: np.ndarray
    routes: np.ndarray
    route_probs: np.ndarray
    structure: Structure
    n_draws: int | None


def _simulate(simulator: Simulator, x: Tensor, posterior: Posterior) -> _Part:
    """One simulation of all examples, and where its truths stand."""
    simulated = simulator(x)
    structure = simulated.structure
    found = posterior(simulator.program.model, x, simulated.y)
    among = ranked_in(found, structure, len(x))
    values = _quantities(simulator.program, x, simulated, among.routes)
    truth = _quantities(simulator.program, x, simulated, simulated.routes[None])[0]
    single = [not structure.coupled or site.static for site in structure.sites]
    rows = slice(0, 1) if structure.coupled else slice(None)
    kept = simulated.routes[rows] if all(single) else simulated.routes[:0]
    return _Part(
        randomised_pit(values, truth, among, tolerance=_SAME),
        kept.cpu().numpy(),
        _site_probs(among, structure)[: len(kept)].cpu().numpy(),
        structure,
        among.n_draws,
    )


def _quantities(
    program: RoutedProgram, x: Tensor, simulated: Simulated, routes: Tensor
) -> Float[Tensor, "s #examples quantities"]:
    """The test quantities of given routes; summed over coupled examples."""
    structure, n = simulated.structure, len(x)
    size = max(1, _ROWS // n)
    logs = torch.cat(
        [
            log_terms(
                program.given(x, simulated.y, routes=part.expand(-1, n, -1)), structure
            )
            for part in routes.split(size)
        ]
    )
    counts = choice_counts(routes.expand(-1, n, -1), structure)
    return torch.cat([counts.to(logs), logs], -1)


def choice_counts(
    routes: Tensor, structure: Structure
) -> Float[Tensor, "s #examples choices"]:
    """Which choices routes take: 0 or 1 an example, counts of coupled examples."""
    one_hot = torch.cat(
        [
            torch.nn.functional.one_hot(routes[..., i], site.n_choices)
            for i, site in enumerate(structure.sites)
        ],
        -1,
    ).float()
    return one_hot.sum(1, keepdim=True) if structure.coupled else one_hot


def log_terms(terms: Terms, structure: Structure) -> Float[Tensor, "s #examples 3"]:
    """log p(a | x), log p(y | x, a) and their sum, of terms (S, N)."""
    static = {site.name for site in structure.static_sites}
    zero = torch.zeros_like(terms.likelihood)
    inner = sum((t for k, t in terms.prior.items() if k not in static), zero)
    outer = sum((t for k, t in terms.prior.items() if k in static), zero[:, :1])
    likelihood = terms.likelihood
    if structure.coupled:
        inner = inner.sum(-1, keepdim=True) + outer
        likelihood = likelihood.sum(-1, keepdim=True) + terms.static_likelihood
    return torch.stack([inner, likelihood, inner + likelihood], -1)


def _site_probs(
    among: RankedIn, structure: Structure
) -> Float[Tensor, "#examples sites modules"]:
    """Each site's probabilities under the weights; one row for coupled examples."""
    n = among.weights.shape[1]
    routes = among.routes[:, :n].expand(-1, n, -1)
    probs = among.weights.new_zeros(n, len(structure.sites), max(structure.n_choices))
    for i in range(len(structure.sites)):
        probs[:, i].scatter_add_(-1, routes[..., i].T, among.weights.T)
    return probs
