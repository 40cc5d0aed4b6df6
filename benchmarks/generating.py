"""The model that generated a task's data: its own log p(y | x), routes summed out."""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Float
from torch import Tensor

from ..tasks import Clusters, Composition
from ..tasks.base import Split, TaskSpec

_ROWS = 200_000  # examples times routes at once
_ROUTES = 2**16  # at most


def generating_log_lik(spec: TaskSpec, split: Split) -> float | None:
    """Mean log p(y | x) of the generating model, in nats.

    The sum over routes is taken with p(a | x) by Bayes' rule from the clusters or the
    contexts. None where y has no noise, nobody knows what generated it, or there are
    more than 65,536 routes.
    """
    if not isinstance(spec, Clusters | Composition) or not spec.noise:
        return None
    router = _log_router(spec, split.x)
    n_layers, n_choices = router.shape[1:]
    if n_choices**n_layers > _ROUTES:
        return None
    routes = torch.tensor(list(itertools.product(range(n_choices), repeat=n_layers)))
    size = max(1, _ROWS // len(routes))
    parts = zip(split.x.split(size), split.y.split(size), router.split(size))  # noqa: B905
    return float(torch.cat([_log_lik(spec, routes, *part) for part in parts]).mean())


def _log_lik(
    spec: Clusters | Composition, routes: Tensor, x: Tensor, y: Tensor, router: Tensor
) -> Float[Tensor, " n"]:
    """(N,) log sum_a p(a | x) p(y | x, a)."""
    n, p = len(x), len(routes)
    mean = spec.true_mean(x.repeat_interleave(p, 0), routes.repeat(n, 1))
    target = y.repeat_interleave(p, 0)
    log_p = torch.distributions.Normal(mean, spec.noise).log_prob(target).sum(-1)
    prior = sum(router[:, i, routes[:, i]] for i in range(routes.shape[1]))
    return torch.logsumexp(prior + log_p.view(n, p), -1)


def _log_router(
    spec: Clusters | Composition, x: Tensor
) -> Float[Tensor, "n layers choices"]:
    """log p(a_l | x) of the generating model: choices are equally frequent."""
    if isinstance(spec, Clusters):
        place = torch.tensor([-0.5, 0.5]) * spec.separation
        logits = place * x[:, :1] / spec.spread**2
        return logits.log_softmax(-1).unsqueeze(1)
    contexts = [x[:, spec.context_columns(i)] for i in range(spec.n_layers)]
    # |c - e_m|^2 differs between modules by -2 c_m
    logits = torch.stack(contexts, 1) / max(spec.context_noise, 1e-3) ** 2
    return logits.log_softmax(-1)
