"""A small network as tables over its routes: thousands of gradient draws in one call.

All that an estimator asks of a program is log p(a_l | x, a_<l) and log p(y | x, a), and
all that it gives is a gradient in them. So a network is run once a route by brute
force; an estimator runs on a program made of the tables, a row a draw; the chain rule
carries each row's gradient to the network's parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from scipy.optimize import brentq
from torch import Tensor

from ..inference.regularisers import state_entropy
from .brute_force import elbo, tabulate, tabulate_at
from .importance_bound import flat_gradient

_WIDEST = (-8.0, 8.0)  # logarithms of the scales tried


class RouteTables(NamedTuple):
    """A network at a few examples, all routes at once.

    Attributes:
        sizes: Number of choices of each site.
        x: (N, F) the examples' inputs, which learned baselines see.
        log_prior: (N, P) log p(a | x), routes as ``itertools.product`` lists them.
        log_lik: (N, P) log p(y | x, a).
        prior_jacobian: (N, P, D) of ``log_prior`` in the network's parameters.
        lik_jacobian: (N, P, D) of ``log_lik``.
        elbo_gradient: (D,) of the router ELBO, the mean over examples.
    """

    sizes: tuple[int, ...]
    x: Float[Tensor, "examples features"]
    log_prior: Float[Tensor, "examples routes"]
    log_lik: Float[Tensor, "examples routes"]
    prior_jacobian: Float[Tensor, "examples routes d"]
    lik_jacobian: Float[Tensor, "examples routes d"]
    elbo_gradient: Float[Tensor, " d"]


def route_tables(
    model: Callable[..., Any], x: Tensor, y: Tensor, parameters: Sequence[Tensor]
) -> RouteTables:
    """Run a model at every route of every example, and differentiate it there.

    Cost: two runs for each route, and a backward pass for each route and example.

    Args:
        model: A Pyro program with dynamic routing sites alone.
        x: Inputs.
        y: Targets.
        parameters: Tensors to take gradients in.

    Raises:
        ValueError: If a site is static, or there are too many routes.
    """
    table = tabulate(model, x, y)
    parameters = list(parameters)
    if any(table.static):
        raise ValueError(
            "a static routing site couples the examples, which have no tables of their "
            "own then: use gradient_report"
        )
    jacobians = []
    for value in table.values:  # a graph of its own for each route: many times faster
        alone = tabulate_at(model, (x, y), [value], table.sizes, table.static)
        columns = (alone.log_prior[0], alone.likelihood[0])
        jacobians.append([_jacobian(column, parameters) for column in columns])
    prior, lik = (torch.stack(each, 1) for each in zip(*jacobians, strict=True))
    return RouteTables(
        table.sizes,
        x,
        table.log_prior.T.detach(),
        table.likelihood.T.detach(),
        prior,
        lik,
        flat_gradient(elbo(table), parameters),
    )


def _jacobian(
    values: Float[Tensor, " examples"], parameters: list[Tensor]
) -> Float[Tensor, "examples d"]:
    return torch.stack([flat_gradient(value, parameters).detach() for value in values])


def path_entropy(model: Callable[..., Any], x: Tensor, y: Tensor) -> float:
    """Mean over examples of H[p(a | x)] in nats, by brute force."""
    with torch.no_grad():
        return state_entropy(tabulate(model, x, y).log_prior.T).item()


@torch.no_grad()
def scale_to_entropy(
    model: Callable[..., Any],
    x: Tensor,
    y: Tensor,
    routers: Sequence[Tensor],
    entropy: float,
) -> float:
    """Scale the routers' parameters, in place, so that the path entropy is given.

    Found by bracketing (Brent's method) over the logarithm of the scale.

    Args:
        model: A model small enough to run at every route.
        x: Inputs.
        y: Targets.
        routers: The tensors to scale; the larger they are, the surer the routers.
        entropy: Mean of H[p(a | x)] wanted, in nats.

    Returns:
        The scale.

    Raises:
        ValueError: If no scale gives the entropy.
    """
    start = [parameter.clone() for parameter in routers]

    def at(log_scale: float) -> float:
        for parameter, first in zip(routers, start, strict=True):
            parameter.copy_(math.exp(log_scale) * first)
        return path_entropy(model, x, y)

    low, high = _WIDEST
    most, least = at(low), at(high)
    if not least < entropy < most:
        raise ValueError(
            f"entropy must lie between {least:.3g} and {most:.3g} nats, what scaled "
            f"routers of this model can have, got {entropy}"
        )
    found = brentq(lambda log_scale: at(log_scale) - entropy, low, high, xtol=1e-6)
    at(found)
    return math.exp(found)


class TableProgram(torch.nn.Module):
    """A Pyro program whose rows are examples of the tables, each with its own leaves.

    Args:
        tables: Of the network.
        rows: Rows, a draw of the gradient each; they take the examples in turn.
    """

    def __init__(self, tables: RouteTables, rows: int) -> None:
        super().__init__()
        n = len(tables.x)
        self.example = torch.arange(rows) % n
        self.x = tables.x[self.example]
        self.log_prior = torch.nn.Parameter(tables.log_prior[self.example])
        self.log_lik = torch.nn.Parameter(tables.log_lik[self.example])
        self._sizes = tables.sizes
        self._tables = tables

    def forward(
        self, x: Tensor, y: Tensor | None = None, index: Tensor | None = None
    ) -> None:
        """Route by the tables, and score by them."""
        index = torch.arange(len(x)) if index is None else index
        joint = self.log_prior[index].unflatten(1, self._sizes)  # (N, M_0, .., M_L-1)
        n_sites = len(self._sizes)
        with pyro.plate("data", len(x), dim=-1):
            route: list[Tensor] = []
            for site in range(n_sites):
                after = tuple(range(site + 2, n_sites + 1))
                log_p = joint.logsumexp(after) if after else joint  # up to this site
                logits = _at(log_p, route)  # normalised by the distribution
                route.append(
                    pyro.sample(f"route_{site}", dist.Categorical(logits=logits))
                )
            pyro.factor("y", _at(self.log_lik[index].unflatten(1, self._sizes), route))

    def gradients(self) -> Float[Tensor, "rows d"]:
        """Each row's gradient in the network's parameters, from the leaves' own."""
        assert self.log_prior.grad is not None and self.log_lik.grad is not None
        n, rows = len(self._tables.x), len(self.example)
        out = []
        for grad, jacobian in (
            (self.log_prior.grad, self._tables.prior_jacobian),
            (self.log_lik.grad, self._tables.lik_jacobian),
        ):
            by_example = grad.unflatten(0, (rows // n, n))  # (R, N, P)
            out.append(torch.einsum("rnp,npd->rnd", by_example, jacobian))
        return -rows * (out[0] + out[1]).flatten(0, 1)  # the loss is a mean of rows


def _at(table: Tensor, route: Sequence[Tensor]) -> Tensor:
    """Entries of (N, M_0, ..) at the first sites' choices, which may broadcast."""
    rows = torch.arange(len(table))
    return table[(rows, *(a.long() for a in route))]
