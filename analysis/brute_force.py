"""Objectives by brute force: a program conditioned on each route, one by one.

The truth that gradient estimators are measured against, so nothing of inference is
used: a program is run once a route by ``pyro.condition`` and ``poutine.trace`` at
natural shapes, and what the traces say is summed by plain torch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pyro
import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor

MOST_ROUTES = 4096


class RouteTable(NamedTuple):
    """Log-probabilities at every route, as ``itertools.product`` lists routes.

    Attributes:
        values: For each of P routes, the value of each site by name.
        sizes: Number of choices of each site.
        static: Which sites stand outside the data plate.
        prior: (P, N) log p(a | x) of the sites in the data plate.
        likelihood: (P, N) what is observed there.
        static_prior: (P,) of the sites outside it.
        static_likelihood: (P,) what is observed outside it.
    """

    values: list[dict[str, Tensor]]
    sizes: tuple[int, ...]
    static: tuple[bool, ...]
    prior: Float[Tensor, "routes examples"]
    likelihood: Float[Tensor, "routes examples"]
    static_prior: Float[Tensor, " routes"]
    static_likelihood: Float[Tensor, " routes"]

    @property
    def log_prior(self) -> Float[Tensor, "routes examples"]:
        """log p(a | x) of whole routes."""
        return self.prior + self.static_prior.unsqueeze(-1)


def tabulate(model: Callable[..., Any], *args: Any) -> RouteTable:
    """Run a program at every route.

    Args:
        model: Any Pyro program; its latent sites of enumerable support are routes.
        *args: What it takes, examples first.

    Raises:
        ValueError: If there is no route, or there are too many.
    """
    with torch.no_grad():
        trace = run(model, args, {})
    sites = {
        name: node
        for name, node in trace.nodes.items()
        if _is_density(node)
        and not node["is_observed"]
        and node["fn"].has_enumerate_support
    }
    if not sites:
        raise ValueError("the model has no latent site of enumerable support: no route")
    supports = []
    for node in sites.values():
        support = node["fn"].enumerate_support(expand=False)
        supports.append(support.reshape(-1, *node["fn"].event_shape))
    sizes = tuple(map(len, supports))
    if math.prod(sizes) > MOST_ROUTES:
        raise ValueError(
            f"brute force runs the model once a route: {math.prod(sizes):,} routes are "
            f"more than {MOST_ROUTES:,}; take fewer layers or modules"
        )
    static = tuple(not _in_plate(node) for node in sites.values())
    values = [
        {
            name: choice if alone else choice.expand(len(args[0]), *choice.shape)
            for name, choice, alone in zip(sites, route, static, strict=True)
        }
        for route in itertools.product(*supports)
    ]
    return tabulate_at(model, args, values, sizes, static)


def tabulate_at(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    values: list[dict[str, Tensor]],
    sizes: tuple[int, ...],
    static: tuple[bool, ...],
) -> RouteTable:
    """Run a program, or a guide, at given values of the routing sites."""
    rows = [_terms(model, args, value) for value in values]
    columns = [torch.stack(column) for column in zip(*rows, strict=True)]
    return RouteTable(values, sizes, static, *columns)


def run(
    model: Callable[..., Any], args: tuple[Any, ...], values: Mapping[str, Tensor]
) -> Any:
    """A trace of a program at given values; parameters stay with their modules."""
    with pyro.settings.context(module_local_params=True):
        conditioned = pyro.condition(model, data=dict(values))
        return poutine.trace(conditioned).get_trace(*args)


def marginal(table: RouteTable) -> Float[Tensor, ""]:
    """log p(y | x) per example; coupled by static sites, all together over N."""
    joint = (table.prior + table.likelihood).unflatten(0, table.sizes)
    dynamic = [i for i, alone in enumerate(table.static) if not alone]
    total = joint.logsumexp(dynamic) if dynamic else joint  # (*static, N)
    if not any(table.static):
        mean: Tensor = total.mean()
        return mean
    outer = (table.static_prior + table.static_likelihood).unflatten(0, table.sizes)
    for dim in reversed(dynamic):  # on which it does not depend
        outer = outer.select(dim, 0)
    coupled: Tensor = (total.sum(-1) + outer).flatten().logsumexp(0)
    value: Tensor = coupled / total.shape[-1]
    return value


def elbo(table: RouteTable, guide: RouteTable | None = None) -> Float[Tensor, ""]:
    """E_q [log p(y, a | x) - log q(a)] per example; q is the router without a guide."""
    n = table.likelihood.shape[-1]
    value = table.likelihood + table.static_likelihood.unsqueeze(-1) / n
    log_q = table.log_prior
    if guide is not None:
        outside = (table.static_prior - guide.static_prior).unsqueeze(-1) / n
        value = value + table.prior - guide.prior + outside
        log_q = guide.log_prior
    weight = log_q.exp()
    return (weight * value.where(weight > 0, 0.0)).sum(0).mean()


def _terms(
    model: Callable[..., Any], args: tuple[Any, ...], values: Mapping[str, Tensor]
) -> list[Tensor]:
    """Prior and likelihood in the data plate (N,), then outside it ()."""
    trace = run(model, args, values)
    trace.compute_log_prob()
    n = len(args[0])
    nodes = {name: node for name, node in trace.nodes.items() if _is_density(node)}
    missing = [name for name in values if name not in nodes]
    if missing:
        raise ValueError(f"the program has no site {missing[0]!r}")
    zero = next(iter(nodes.values()))["log_prob"].new_zeros(())
    inner = {True: zero.expand(n), False: zero.expand(n)}  # is a routing site?
    outer = {True: zero, False: zero}
    for name, node in nodes.items():
        term, route = node["log_prob"], name in values
        if _in_plate(node):
            inner[route] = inner[route] + term.expand(*term.shape[:-1], n).reshape(
                -1, n
            ).sum(0)
        else:
            outer[route] = outer[route] + term.sum()
    return [inner[True], inner[False], outer[True], outer[False]]


def _is_density(node: Mapping[str, Any]) -> bool:
    """Whether a node is a factor of the joint density, not a plate's choice of rows."""
    return node["type"] == "sample" and type(node["fn"]).__name__ != "_Subsample"


def _in_plate(node: Mapping[str, Any]) -> bool:
    return any(frame.dim == -1 for frame in node["cond_indep_stack"])
