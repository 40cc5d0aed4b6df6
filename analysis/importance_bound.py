"""The gradient of the S-sample bound by brute force, exact or by a very long run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .brute_force import RouteTable

MOST_SETS = 2**24  # numbers in the sum over sets of samples
_BATCHES, _RUN = 32, 2**22  # a long run: batches, and numbers in each


class Truth(NamedTuple):
    """A gradient that estimators are measured against.

    Attributes:
        gradient: (D,).
        error: (D,) its standard error; zeros where it is exact.
    """

    gradient: Float[Tensor, " d"]
    error: Float[Tensor, " d"]


def flat_gradient(value: Tensor, parameters: Sequence[Tensor]) -> Float[Tensor, " d"]:
    """A gradient as one vector; parameters that play no part have zeros."""
    parts = torch.autograd.grad(
        value, list(parameters), allow_unused=True, retain_graph=True
    )
    pairs = zip(parameters, parts, strict=True)
    flat = [(torch.zeros_like(p) if g is None else g).reshape(-1) for p, g in pairs]
    return torch.cat(flat)


def importance_gradient(
    table: RouteTable,
    n_samples: int,
    parameters: Sequence[Tensor],
    guide: RouteTable | None = None,
) -> Truth:
    r"""The gradient of E log mean_s p(y, a_s | x) / q(a_s), a mean over examples.

    Exact, by a sum over the C(P + S - 1, S) sets of S routes, each weighted by the
    ordered samples it stands for, where they fit; else the mean of a long run of sets
    drawn from the table, with its standard error.

    Args:
        table: The model at every route.
        n_samples: S.
        parameters: What the gradient is taken in.
        guide: q at every route; the router by default.

    Raises:
        ValueError: If a site is static: the bound would couple the examples.
    """
    if any(table.static):
        raise ValueError("the S-sample bound by brute force takes dynamic sites alone")
    log_w, log_q = table.likelihood, table.prior
    if guide is not None:
        log_w, log_q = log_w + table.prior - guide.prior, guide.prior
    n_routes, n = log_w.shape
    n_sets = math.comb(n_routes + n_samples - 1, n_samples)
    if n_sets * n * n_samples <= MOST_SETS:
        gradient = flat_gradient(_exact(log_w, log_q, n_samples), parameters)
        return Truth(gradient, torch.zeros_like(gradient))
    generator = torch.Generator().manual_seed(0)
    run = torch.stack(
        [
            flat_gradient(_long_run(log_w, log_q, n_samples, generator), parameters)
            for _ in range(_BATCHES)
        ]
    )
    return Truth(run.mean(0), run.std(0) / math.sqrt(_BATCHES))


def _exact(log_w: Tensor, log_q: Tensor, n_samples: int) -> Tensor:
    routes = torch.arange(len(log_w))
    sets = torch.combinations(routes, n_samples, with_replacement=True)
    run = torch.ones(len(sets), dtype=torch.double)  # times in a row of the last route
    log_orders = torch.full_like(run, math.lgamma(n_samples + 1))
    for s in range(1, n_samples):
        run = torch.where(sets[:, s] == sets[:, s - 1], run + 1, 1.0)
        log_orders = log_orders - run.log()
    log_chance = log_orders.unsqueeze(-1).to(log_q) + log_q[sets].sum(1)
    value = log_w[sets].logsumexp(1) - math.log(n_samples)
    chance = log_chance.exp()
    return (chance * value.where(chance > 0, 0.0)).sum(0).mean()


def _long_run(
    log_w: Tensor, log_q: Tensor, n_samples: int, generator: torch.Generator
) -> Tensor:
    """A surrogate whose gradient is one batch's score-function estimate."""
    n = log_w.shape[-1]
    n_sets = max(2, _RUN // (n * n_samples))
    weight, score = torch.zeros_like(log_w.detach()), torch.zeros_like(log_w.detach())
    for i in range(n):
        drawn = torch.multinomial(
            log_q[:, i].detach().exp(),
            n_sets * n_samples,
            replacement=True,
            generator=generator,
        )
        log_ratio = log_w[drawn, i].detach().unflatten(0, (n_sets, n_samples))
        bound = log_ratio.logsumexp(1, keepdim=True) - math.log(n_samples)
        share = log_ratio.softmax(1)
        advantage = (bound - bound.mean()).expand(n_sets, n_samples)
        scale = n_sets / (n_sets - 1)  # the mean has the set's own bound in it
        weight[:, i].scatter_add_(0, drawn, share.flatten() / n_sets)
        score[:, i].scatter_add_(0, drawn, scale * advantage.flatten() / n_sets)
    return (weight * log_w + score * log_q).sum(0).mean()
