"""Simulation-based calibration of weights, and of the routes drawn with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ..guides.weights import Prior, weights_at
from ..inference.plan import check_memory
from ..inference.program import RoutedProgram
from ..inference.random import RandomStream
from ..inference.structure import Structure
from ..inference.tables import sum_routes
from ..inference.weight_draws import WeightDraws
from ..inference.weighted import draw_routes, enumerated_routes
from ..models.checks import check_count
from .calibration import LOG_TERMS, Calibration, choice_counts, choice_names
from .calibration_posteriors import RankedIn, randomised_pit
from .calibration_simulation import Simulator, drawn_from, trained

Infer = Callable[..., WeightDraws]
"""``infer(model, x, y, seed=...)``: draws of the weights."""


def weight_calibration(
    model: Callable[..., Any],
    x: Tensor,
    infer: Infer,
    *,
    prior: Prior,
    parameters: Iterable[Tensor] | None = None,
    weights: Sequence[str] | None = None,
    simulations: int = 100,
    target: str | None = None,
    seed: int = 0,
) -> Calibration:
    r"""Calibrate a posterior over weights on data simulated from the prior.

    .. math::
        w^* \sim p(w), \quad (a^*, y) \sim p(a, y \mid x, w^*), \quad
        w_s \sim q(w \mid x, y), \quad a_s \sim p(a \mid x, y, w_s)

    The rank of f(w*, a*, y) among the f(w_s, a_s, y) is uniform for every f if q is the
    posterior and its draws are independent: thin a chain, by
    :meth:`~latentroute.inference.weight_draws.WeightDraws.thin`, to about its effective
    sample size. The test quantities f are each weight; ``log_prior`` log p(w),
    ``log_likelihood`` log p(y | x, w), routes summed out, and ``log_joint``, their sum;
    and ``{site}={choice}``, how many examples take a choice.

    Module labels are arbitrary: a posterior has M! copies of each mode, of which a
    chain visits one. Then weights and counts fail even where the chain is right within
    its mode; the three logarithms do not see labels: ``weights=()`` keeps weights out,
    and the counts' p-values are to be passed over.
    Cost: ``simulations`` posteriors, and an enumeration of the routes for every draw.

    Args:
        model: A Pyro program ``model(x, y=None)`` that samples y when called without.
        x: Inputs, examples first; those of every simulation.
        infer: What is calibrated; called with ``model, x, y`` and a ``seed`` of its
            own, it gives :class:`~latentroute.inference.weight_draws.WeightDraws`. The
            model holds the same weights at the start of every call, and may be trained
            in place.
        prior: Of the weights; ``infer`` must use the same.
        parameters: The tensors that are inferred, by default the model's own.
        weights: Names of the tensors whose every entry is a test quantity; ``None``:
            all of them.
        simulations: R, how many data sets.
        target: Name of y's site, where the model does not return y.
        seed: Of all that is drawn.

    Returns:
        PITs of the R simulations.

    Raises:
        ValueError: If the model cannot be simulated, its routes cannot be listed, or
            the draws are not of its weights.

    References:
        Talts et al. 2018, arXiv:1804.06788; Modrák et al. 2023, arXiv:2211.02383.
    """
    check_count("simulations", simulations)
    simulator, tensors = Simulator(model, target), trained(model, parameters)
    with RandomStream(seed)():
        parts = [
            _simulate(simulator, x, infer, prior, tensors, weights)
            for _ in range(simulations)
        ]
    structure = parts[0].structure
    n_sites = len(structure.sites)
    return Calibration(
        pit=np.concatenate([part.pit for part in parts]),
        quantities=(*parts[0].entries, *LOG_TERMS, *choice_names(structure)),
        n_draws=parts[0].n_draws,
        sites=structure.names,
        routes=np.zeros((0, n_sites), dtype=np.int64),
        route_probs=np.zeros((0, n_sites, max(structure.n_choices))),
    )


class _Part(NamedTuple):
    pit: NDArray[np.float64]
    entries: list[str]
    structure: Structure
    n_draws: int


def _simulate(
    simulator: Simulator,
    x: Tensor,
    infer: Infer,
    prior: Prior,
    tensors: Sequence[Tensor],
    weights: Sequence[str] | None,
) -> _Part:
    """One data set, and where its weights and routes stand among the draws."""
    model = simulator.program.model
    with torch.no_grad(), drawn_from(prior, tensors) as true_weights:
        simulated = simulator(x)
    check_memory(simulated.structure, len(x), None)
    with weights_at(tensors, [tensor.detach().clone() for tensor in tensors]):
        seed = int(torch.randint(2**31, ()))
        draws = infer(model, x, simulated.y, seed=seed)
    kept = _kept(draws, tensors, weights)
    state = _State(simulator.program, (x, simulated.y), prior, tensors, kept.values())
    with torch.no_grad():
        with weights_at(tensors, true_weights):
            truth = state.quantities(simulated.routes[None])
        found: list[Tensor] = []
        for chain, draw in product(range(draws.n_chains), range(draws.n_draws)):
            with draws.at(chain, draw):
                found.append(state.quantities(None))
    n = len(found)
    even = torch.full((n, 1), 1 / n, dtype=torch.float64)
    among = RankedIn(simulated.routes[None], even, n)
    pit = randomised_pit(torch.stack(found)[:, None], truth, among, tolerance=0.0)
    entries = [name for item in kept.items() for name in _entry_names(*item)]
    return _Part(pit, entries, simulated.structure, n)


class _State(NamedTuple):
    """What test quantities are read from, at the weights that the model then holds."""

    program: RoutedProgram
    args: tuple[Any, ...]
    prior: Prior
    tensors: Sequence[Tensor]
    kept: Iterable[Tensor]

    def quantities(self, routes: Tensor | None) -> Float[Tensor, " quantities"]:
        """Weights, log-probabilities and counts of the routes, drawn if not given."""
        structure = self.program.structure(*self.args)
        weighted = enumerated_routes(self.program, self.args, structure)
        if routes is None:
            routes = draw_routes(weighted, structure, 1)
        log_likelihood = sum_routes(weighted.terms, structure).sum().double()
        densities = [self.prior.distribution(t).log_prob(t).sum() for t in self.tensors]
        log_prior = torch.stack([density.double() for density in densities]).sum()
        logs = torch.stack([log_prior, log_likelihood, log_prior + log_likelihood])
        counts = choice_counts(routes, structure).sum((0, 1)).double()
        return torch.cat([*(t.double().reshape(-1) for t in self.kept), logs, counts])


def _kept(
    draws: WeightDraws, tensors: Sequence[Tensor], weights: Sequence[str] | None
) -> dict[str, Tensor]:
    """The tensors whose entries are test quantities, by name.

    Raises:
        ValueError: If the draws are of other tensors, or lack a name.
    """
    if {id(t) for t in draws.parameters} != {id(t) for t in tensors}:
        raise ValueError(
            f"the draws are of {len(draws.parameters)} tensors, {list(draws.names)}, "
            f"which are not the {len(tensors)} that the prior is over: pass those to "
            "infer, or as parameters="
        )
    named = dict(zip(draws.names, draws.parameters, strict=True))
    unknown = sorted(set(weights or ()) - set(named))
    if unknown:
        raise ValueError(f"weights: got {unknown[0]!r}, expected some of {list(named)}")
    return named if weights is None else {name: named[name] for name in weights}


def _entry_names(name: str, tensor: Tensor) -> list[str]:
    """weight[0,2] for each entry of a tensor; its name for a scalar."""
    places = product(*(range(size) for size in tensor.shape))
    return [f"{name}[{','.join(map(str, at))}]" if at else name for at in places]
