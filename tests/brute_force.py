"""The truth about small routed programs: every route conditioned on, one by one.

Nothing of the package is used here. A program is run once for each combination of
values of its routing sites by ``pyro.condition`` and ``poutine.trace``, at natural
shapes, and what the trace says is summed by plain torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor


class Choice(NamedTuple):
    """What a routing site can be: (M, *event) values; static: outside the plate."""

    support: Tensor
    static: bool = False


class Table(NamedTuple):
    """Terms of every route; routes as ``itertools.product`` lists them.

    ``prior`` and ``likelihood`` stand in the data plate, the two others outside it.
    """

    routes: Tensor  # (P, L)
    sizes: tuple[int, ...]
    static: tuple[bool, ...]
    prior: Tensor  # (P, N)
    likelihood: Tensor  # (P, N)
    static_prior: Tensor  # (P,)
    static_likelihood: Tensor  # (P,)


def choices(m: int, *, static: bool = False) -> Choice:
    """A categorical site with M choices."""
    return Choice(torch.arange(m), static)


def network_sites(
    n_layers: int, n_modules: int | Sequence[int], k: int = 1, routing: str = "dynamic"
) -> dict[str, Choice]:
    """The sites of a layered network: layer by layer, slot by slot."""
    sizes = [n_modules] * n_layers if isinstance(n_modules, int) else n_modules
    return {
        f"route_{layer}" if k == 1 else f"route_{layer}_{slot}": choices(
            m, static=routing == "static"
        )
        for layer, m in enumerate(sizes)
        for slot in range(k)
    }


def tabulate(
    model: Callable[..., Any], args: tuple[Any, ...], sites: Mapping[str, Choice]
) -> Table:
    """Run the program at every route."""
    n = len(args[0])
    sizes = tuple(len(site.support) for site in sites.values())
    routes = list(itertools.product(*map(range, sizes)))
    rows = []
    with pyro.validation_enabled(False):
        for route in routes:
            values = {
                name: site.support[m]
                if site.static
                else site.support[m].expand(n, *site.support.shape[1:]).clone()
                for (name, site), m in zip(sites.items(), route, strict=True)
            }
            rows.append(_terms(model, args, values))
    return Table(
        torch.tensor(routes).reshape(len(routes), len(sites)),
        sizes,
        tuple(site.static for site in sites.values()),
        *(torch.stack(column) for column in zip(*rows, strict=True)),
    )


def tabulate_rows(
    model: Callable[..., Any], args: tuple[Any, ...], sites: Mapping[str, Choice]
) -> Table:
    """The same, in one run: each example at each route is a row of a larger batch.

    For programs whose sites are all dynamic and whose arguments are rows.
    """
    n, sizes = len(args[0]), tuple(len(site.support) for site in sites.values())
    assert not any(site.static for site in sites.values())
    routes = torch.tensor(list(itertools.product(*map(range, sizes))))
    rows = [arg.repeat(len(routes), *(1,) * (arg.dim() - 1)) for arg in args]
    values = {
        name: site.support[routes[:, i].repeat_interleave(n)]
        for i, (name, site) in enumerate(sites.items())
    }
    prior, likelihood, *outer = _terms(model, tuple(rows), values)
    assert not any(outer), "something stands outside the plate"
    none = prior.new_zeros(len(routes))
    return Table(
        routes,
        sizes,
        (False,) * len(sizes),
        prior.unflatten(0, (-1, n)),
        likelihood.unflatten(0, (-1, n)),
        none,
        none,
    )


def _terms(
    model: Callable[..., Any], args: tuple[Any, ...], values: Mapping[str, Tensor]
) -> list[Tensor]:
    trace = poutine.trace(pyro.condition(model, data=dict(values))).get_trace(*args)
    trace.compute_log_prob()
    n = len(args[0])
    some = next(node for node in trace.nodes.values() if _is_density(node))
    zero = some["log_prob"].new_zeros(())
    inner = {True: zero.expand(n), False: zero.expand(n)}  # is a routing site?
    outer = {True: zero, False: zero}
    for name, node in trace.nodes.items():
        if not _is_density(node):
            continue
        term, route = node["log_prob"], name in values
        if any(frame.dim == -1 for frame in node["cond_indep_stack"]):
            inner[route] = inner[route] + term.reshape(-1, n).sum(0)
        else:
            outer[route] = outer[route] + term.sum()
    return [inner[True], inner[False], outer[True], outer[False]]


def _is_density(node: Mapping[str, Any]) -> bool:
    """Whether a node is a factor of the joint density: no plate's choice of rows."""
    return node["type"] == "sample" and type(node["fn"]).__name__ != "_Subsample"


def log_marginal(table: Table, *, data_scale: float = 1.0) -> Tensor:
    """log p(y | x): (N,); where a site is static, of all examples: ()."""
    per_example = _per_static(table)  # (*static, N)
    if not any(table.static):
        return per_example
    shared = data_scale * per_example.sum(-1) + _outer(table)
    return shared.reshape(-1).logsumexp(0)


def log_posterior(table: Table) -> Tensor:
    """log p(a | x, y): (N, P); static sites alone where there are any: (1, P)."""
    if not any(table.static):
        return (table.prior + table.likelihood).T.log_softmax(-1)
    shared = _per_static(table).sum(-1) + _outer(table)
    return shared.reshape(1, -1).log_softmax(-1)


def joint_posterior(table: Table) -> Tensor:
    """p(a | all of y) of whole routes, for each example: (P, N)."""
    joint = (table.prior + table.likelihood).unflatten(0, table.sizes)
    dynamic = [i for i, static in enumerate(table.static) if not static]
    total = joint.logsumexp(dynamic, keepdim=True) if dynamic else joint
    given_static = (joint - total).flatten(0, len(table.sizes) - 1)
    if not any(table.static):
        return given_static.exp()
    outer = (table.static_prior + table.static_likelihood).unflatten(0, table.sizes)
    shared = total.sum(-1) + _first(outer, dynamic, keepdim=True)
    shared = shared - shared.reshape(-1).logsumexp(0)
    shared = shared.expand(table.sizes).reshape(-1, 1)
    return (given_static + shared).exp()


def log_router(table: Table) -> Tensor:
    """log p(a | x) of whole routes, for each example: (P, N)."""
    return table.prior + table.static_prior.unsqueeze(-1)


def router_elbo(table: Table, *, n_data: float | None = None) -> Tensor:
    """The mean over examples of E_{p(a|x)} log p(y | x, a)."""
    n = table.likelihood.shape[-1]
    outside = table.static_likelihood.unsqueeze(-1) / (n_data or n)
    weight = log_router(table).exp()
    return (weight * (table.likelihood + outside)).sum(0).mean()


def guide_elbo(model: Table, guide: Table, *, n_data: float | None = None) -> Tensor:
    """The mean over examples of E_q [log p(y, a | x) - log q(a | x, y)]."""
    n = model.likelihood.shape[-1]
    outside = model.static_likelihood + model.static_prior - guide.static_prior
    value = model.likelihood + model.prior - guide.prior
    value = value + outside.unsqueeze(-1) / (n_data or n)
    return (log_router(guide).exp() * value).sum(0).mean()


def site_marginals(table: Table, weight: Tensor) -> Tensor:
    """(N, L, max M) each site's probabilities from weights (P, N) of whole routes."""
    probs = weight.new_zeros(weight.shape[1], len(table.sizes), max(table.sizes))
    for route, w in zip(table.routes.tolist(), weight, strict=True):
        for site, m in enumerate(route):
            probs[:, site, m] += w
    return probs


def _per_static(table: Table) -> Tensor:
    """Dynamic sites summed out: (*static sizes, N)."""
    joint = (table.prior + table.likelihood).unflatten(0, table.sizes)
    dynamic = [i for i, static in enumerate(table.static) if not static]
    return joint.logsumexp(dynamic) if dynamic else joint


def _outer(table: Table) -> Tensor:
    """What stands outside the plate, by static choice."""
    outer = (table.static_prior + table.static_likelihood).unflatten(0, table.sizes)
    dynamic = [i for i, static in enumerate(table.static) if not static]
    return _first(outer, dynamic, keepdim=False)


def _first(table: Tensor, dims: list[int], *, keepdim: bool) -> Tensor:
    """The table at index 0 of dims on which it does not depend."""
    for dim in dims:
        first = table.narrow(dim, 0, 1)
        assert torch.equal(first.expand_as(table), table), "depends on a dynamic site"
        table = first
    return table if keepdim or not dims else table.squeeze(dims)


def gradient(value: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """The gradient as one vector; parameters that play no part have zeros."""
    parts = torch.autograd.grad(
        value, list(parameters), allow_unused=True, retain_graph=True
    )
    return torch.cat(
        [
            (torch.zeros_like(p) if g is None else g).reshape(-1)
            for p, g in zip(parameters, parts, strict=True)
        ]
    )


def assert_agree(ours: Tensor, truth: Tensor, tolerance: float | None = None) -> None:
    """Relative agreement, to 1e-10 in float64 and 1e-5 in float32.

    Relative to the largest entry: entries that cancel to nearly 0 carry its error.
    """
    if tolerance is None:
        tolerance = 1e-10 if ours.dtype == torch.float64 else 1e-5
    assert ours.shape == truth.shape, f"{tuple(ours.shape)}, not {tuple(truth.shape)}"
    ours, truth = ours.detach().double(), truth.detach().double()
    assert torch.isfinite(truth).all(), "the truth is not finite"
    assert torch.isfinite(ours).all(), f"not finite: {ours}"
    if not truth.numel():
        return
    error = (ours - truth).abs().max().item()
    size = truth.abs().max().item()
    assert error <= tolerance * max(size, 1e-300), (
        f"off by {error:.3g}, relative to {size:.3g}: {ours} is not {truth}"
    )


def randomise(module: torch.nn.Module, seed: int, scale: float = 0.8) -> None:
    """Give every parameter, zeros at the start included, a value of its own."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(
                parameter.shape, generator=generator, dtype=torch.float64
            )
            parameter.copy_(scale * noise)
