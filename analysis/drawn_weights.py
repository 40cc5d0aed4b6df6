"""A model whose weights were drawn: evaluated at each draw, and the draws labelled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .arrays import to_numpy

if TYPE_CHECKING:
    from ..inference.evaluate import Evaluation
    from ..inference.weight_draws import WeightDraws


class DrawnEvaluation(NamedTuple):
    """What a model says at each draw of its weights.

    Attributes:
        evaluation: Means over draws of `route_probs`, `router_probs`, `predictive`;
            one draw of `routes` and `y_draws` from each draw of the weights, chain by
            chain; `log_marginal` of the mean likelihood.
        log_lik: (chain, draw, N) log p(y_n | x_n, w), routes summed out.
        route_probs: (chain, N, L, M) each chain's own mean: chains may name their
            modules differently.
        router_probs: (chain, N, L, M) likewise.
    """

    evaluation: Evaluation
    log_lik: NDArray[np.floating[Any]]
    route_probs: NDArray[np.floating[Any]]
    router_probs: NDArray[np.floating[Any]]


def evaluate_draws(
    model: Any, x: Any, y: Any, weights: WeightDraws, *, seed: int
) -> DrawnEvaluation:
    """Evaluate a model at each draw of its weights.

    Cost: an evaluation a draw; memory that of the draws of routes.

    Args:
        model: A Pyro program `model(x, y=None)` with route sites.
        x: Inputs.
        y: Targets.
        weights: Draws of the model's tensors.
        seed: Of the routes and predictions.
    """
    import torch

    from ..inference.evaluate import evaluate

    lead = (weights.n_chains, weights.n_draws)
    n = weights.n_chains * weights.n_draws
    kept: list[Evaluation] = []
    route_probs: list[Any] = [0.0] * weights.n_chains
    router_probs: list[Any] = [0.0] * weights.n_chains
    predictive: Any = None
    nothing: Any = None  # of what is averaged at once, no copy is kept
    for i in range(n):
        chain, draw = divmod(i, weights.n_draws)
        with weights.at(chain, draw):
            each = evaluate(model, x, y, draws=1, seed=seed * 1_000_003 + i)
        kept.append(
            each._replace(route_probs=nothing, router_probs=nothing, predictive=nothing)
        )
        route_probs[chain] += each.route_probs / weights.n_draws
        router_probs[chain] += each.router_probs / weights.n_draws
        if each.predictive is not None:
            so_far = 0.0 if predictive is None else predictive
            predictive = so_far + each.predictive / n
    log_lik = torch.stack([each.log_marginal for each in kept])
    targets = [each.y_draws for each in kept if each.y_draws is not None]
    pooled = kept[0]._replace(
        log_marginal=log_lik.logsumexp(0) - float(np.log(n)),
        route_probs=torch.stack(route_probs).mean(0),
        router_probs=torch.stack(router_probs).mean(0),
        routes=torch.cat([each.routes for each in kept]),
        predictive=predictive,
        y_draws=torch.cat(targets) if targets else None,
        exact=all(each.exact for each in kept),
    )
    return DrawnEvaluation(
        pooled,
        to_numpy(log_lik).reshape(*lead, -1),
        to_numpy(torch.stack(route_probs)),
        to_numpy(torch.stack(router_probs)),
    )


def weight_variables(
    weights: WeightDraws,
) -> dict[str, tuple[list[str], NDArray[Any]]]:
    """Drawn weights under their own names, with dims `name_dim_0` and so on."""
    pairs = zip(weights.names, weights.values, strict=True)
    return {
        name: ([f"{name}_dim_{i}" for i in range(value.dim() - 2)], to_numpy(value))
        for name, value in pairs
    }


def weight_stats(weights: WeightDraws) -> dict[str, tuple[list[str], NDArray[Any]]]:
    """What is known of each draw, (chain, draw)."""
    return {name: ([], to_numpy(value)) for name, value in weights.stats.items()}
