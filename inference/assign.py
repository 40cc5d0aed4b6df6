"""What gives the routing sites of a run their values."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from ..models.categorical import Categorical
from ..models.routing import Site
from .structure import RouteSite, Structure


def natural_values(
    sites: tuple[RouteSite, ...], routes: Tensor
) -> Callable[[Site, int], Tensor]:
    """Values of natural shape from (N, L) routes: (N,), or () at a static site."""

    def assign(site: Site, i: int) -> Tensor:
        return sites[i].value_of(routes[0, i] if sites[i].static else routes[:, i])

    return assign


def particle_values(
    structure: Structure, routes: Tensor
) -> Callable[[Site, int], Tensor]:
    """Values with a dimension of paths on the left, from (C, N, l) routes."""
    middle = (1,) * (structure.nesting - 1)

    def assign(site: Site, i: int) -> Tensor:
        route_site = structure.sites[i]
        index = routes[:, :1, i] if route_site.static else routes[..., i]
        return route_site.value_of(index.unflatten(0, (-1, *middle)))

    return assign


def shared_values(
    sites: tuple[RouteSite, ...], route: Tensor
) -> Callable[[Site, int], Tensor]:
    """Values of natural shape from one (L,) route for all examples."""

    def assign(site: Site, i: int) -> Tensor:
        shape = site.fn.batch_shape + site.fn.event_shape
        return sites[i].value_of(route[i]).expand(shape)

    return assign


def drawn_value(fn: TorchDistributionMixin, shape: tuple[int, ...]) -> Tensor:
    """A value for each particle, and for each choice that the site depends on."""
    batch = fn.batch_shape
    ends = zip(reversed(batch), reversed(shape), strict=False)
    if len(batch) < len(shape) or any(wanted not in (1, has) for has, wanted in ends):
        batch = _broadcast(batch, shape)
    if isinstance(fn, Categorical):  # without making the expanded one
        return fn.draw(batch)
    value: Tensor = fn.expand(batch).sample()
    return value


def drawn_values(
    structure: Structure, n_samples: int, given: Tensor | None
) -> Callable[[Site, int], Tensor]:
    """Values drawn for each of S particles, after those of (C, N, L) given routes."""
    shape = (n_samples,) + (1,) * structure.nesting
    if given is None:
        return lambda site, i: drawn_value(site.fn, shape)
    held, n_held = particle_values(structure, given), len(given)

    def assign(site: Site, i: int) -> Tensor:
        fn, batch = site.fn, site.fn.batch_shape
        depends = len(batch) == len(shape) and batch[0] > 1  # on the particle
        if depends and not isinstance(fn, Categorical):
            all_drawn = drawn_value(fn, (n_held + n_samples, *shape[1:]))
            return torch.cat([held(site, i), all_drawn[n_held:]])
        if depends:
            fn = fn.after(n_held)
        return torch.cat([held(site, i), drawn_value(fn, shape)])

    return assign


def _broadcast(first: tuple[int, ...], second: tuple[int, ...]) -> torch.Size:
    """As torch.broadcast_shapes of shapes that fit, in a tenth of its time."""
    n = max(len(first), len(second))
    padded = [(1,) * (n - len(shape)) + tuple(shape) for shape in (first, second)]
    return torch.Size([b if a == 1 else a for a, b in zip(*padded, strict=True)])


def support_values(site: Site, dim: int) -> Tensor:
    """All values of a site, on dimension ``dim`` of their batch."""
    support = site.fn.enumerate_support(expand=False)
    mark = getattr(support, "_pyro_categorical_support", None)
    event = site.fn.event_shape
    value: Tensor = support.reshape(-1, *(1,) * (-dim - 1), *event)
    if mark is not None:  # lets Pyro's log_prob transpose the logits, not gather them
        value._pyro_categorical_support = mark  # type: ignore[attr-defined]
    return value
