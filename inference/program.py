"""The one place where a routed program is run and its log-probabilities are read."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Set
from typing import Any, NamedTuple

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor, nn

from ..models.routing import Record, Site
from .structure import (
    RouteSite,
    Structure,
    in_data_plate,
    n_examples,
    read_structure,
    untouched_randomness,
)

# What a program raises that does not broadcast to the left.
_SHAPE_ERRORS = (RuntimeError, ValueError, IndexError, TypeError, AssertionError)


class Terms(NamedTuple):
    """Log-probabilities of one run, per sample and example.

    Batch shapes are (*enumerated sites, the last one first; samples; N), each of which
    may be absent or 1 where a term does not depend on it. A static site's term, and
    what is observed outside the data plate, have N = 1.
    """

    likelihood: Tensor  # log p(y | x, a), what is observed in the data plate
    static_likelihood: Tensor  # what is observed outside it
    prior: dict[str, Tensor]  # log p(a_l | z_l) for each route site
    routes: dict[str, Tensor]  # a_l as an index 0 .. M_l - 1
    observed: dict[str, Site]  # the observed sites in the data plate, as they ran
    dims: dict[str, int]  # where each enumerated site stands


class RoutedProgram:
    """A Pyro program with routing sites, run under enumeration, sampling or by route.

    A program that does not broadcast to the left (Python control flow on a route, say)
    is found out by comparing with a run of natural shape, once, and run route by route
    or sample by sample from then on, with a warning.

    Args:
        model: Any Pyro program; called as ``model(*args)``.
        structure: The routing sites, where they are another program's: of a guide's
            model.

    Raises:
        ValueError: At the first run, if the program is not one that can be routed:
            :func:`~latentroute.inference.structure.read_structure` says how.
    """

    def __init__(
        self, model: Callable[..., Any], structure: Structure | None = None
    ) -> None:
        self.model = model
        self._structure = structure
        self._broadcasts: dict[str, bool] = {}

    def structure(self, *args: Any) -> Structure:
        """The program's routing sites; read once, by a run of its own."""
        if self._structure is None:
            self._structure = read_structure(self.model, *args)
        return self._structure

    def enumerate(self, *args: Any) -> Terms:
        """All routes at once: each site on a dimension of its own.

        Site i of the structure stands at dim -2 - i of every term. Cost: the product of
        the numbers of choices, in evaluations of what follows the last site.
        """
        sites = self.structure(*args).sites
        first = -1 - self._nesting

        def assign(site: Site, i: int) -> Tensor:
            return _support(site, first - i)

        dims = {site.name: -2 - i for i, site in enumerate(sites)}
        terms = self._try_broadcast("enumerate", args, assign)
        if terms is None:
            runs = [self.given(*args, routes=row) for row in all_routes(sites)]
            terms = _as_enumerated(runs, sites)
        return terms._replace(dims=dims)

    def mixed(self, *args: Any, enumerate_sites: Set[str], n_samples: int) -> Terms:
        """Some sites enumerated, the others drawn from their routers.

        A site drawn after an enumerated one is drawn anew for each of its choices.

        Returns:
            Terms of shape (*enumerated sites, the last one first; S; N).

        Raises:
            ValueError: If the program does not broadcast over routes.
        """
        sites = self.structure(*args).sites
        shape = (n_samples,) + (1,) * self._nesting
        order = [s.name for s in sites if s.name in enumerate_sites]
        dims = {name: -3 - i for i, name in enumerate(order)}

        def assign(site: Site, i: int) -> Tensor:
            if site.name in dims:
                return _support(site, dims[site.name] + 1 - self._nesting)
            return _draw(site, shape)

        terms = self._try_broadcast("mix", args, assign)
        if terms is None:
            raise ValueError(
                "the program does not broadcast over routes on the left, so its sites "
                "cannot be enumerated in part: enumerate all or sample all"
            )
        return terms._replace(dims=dims)

    def sample(self, *args: Any, n_samples: int) -> Terms:
        """Routes drawn from the routers: terms of shape (S, N)."""
        self.structure(*args)
        shape = (n_samples,) + (1,) * self._nesting

        terms = self._try_broadcast("sample", args, lambda site, i: _draw(site, shape))
        if terms is not None:
            return _expand(terms, n_samples)
        runs = [self._run(args, lambda site, i: None) for _ in range(n_samples)]
        return _stack(runs)

    def given(self, *args: Any, routes: Tensor) -> Terms:
        """Routes given as indices.

        Args:
            *args: The program's arguments.
            routes: (*C, N, L) or, where one row holds for all examples, (L,); columns
                in program order, each 0 .. M_l - 1. Static sites read example 0.

        Returns:
            Terms of shape (*C, N) with at most one dimension C.
        """
        sites = self.structure(*args).sites
        if routes.dim() == 1:
            return self._run(args, _shared(sites, routes))
        if routes.dim() == 2:
            return self._run(args, _natural(sites, routes))
        middle = (1,) * (self._nesting - 1)

        def assign(site: Site, i: int) -> Tensor:
            index = routes[:, :1, i] if sites[i].static else routes[..., i]
            return sites[i].value_of(index.unflatten(0, (-1, *middle)))

        terms = self._try_broadcast("given", args, assign)
        if terms is not None:
            return _expand(terms, len(routes))
        return _stack([self._run(args, _natural(sites, row)) for row in routes])

    @property
    def _nesting(self) -> int:
        assert self._structure is not None
        return self._structure.nesting

    def _run(self, args: Any, assign: Callable[[Site, int], Tensor | None]) -> Terms:
        assert self._structure is not None
        place = {site.name: i for i, site in enumerate(self._structure.sites)}

        def value(site: Site) -> Tensor | None:
            return assign(site, place[site.name]) if site.name in place else None

        record = Record(value)
        record.run(self.model, *args)
        return _read(record.sites, self._structure)

    def _try_broadcast(
        self, way: str, args: Any, assign: Callable[[Site, int], Tensor]
    ) -> Terms | None:
        """Terms of a broadcasting run; None for a program that does not broadcast."""
        if not self._broadcasts.get(way, True):
            return None
        if way in self._broadcasts:
            return self._run(args, assign)
        try:
            terms = self._run(args, assign)
            reason = self._disagreement(terms, args)
        except _SHAPE_ERRORS as error:
            reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        self._broadcasts[way] = reason is None
        if reason is None:
            return terms
        warnings.warn(
            "the program does not broadcast over routes on the left, so it is run once "
            f"for each {'route' if way == 'enumerate' else 'sample'}, which is slower "
            f"({reason})",
            stacklevel=3,
        )
        return None

    def _disagreement(self, terms: Terms, args: Any) -> str | None:
        """How a broadcasting run differs from a plain one at the same routes."""
        sites = self.structure(*args).sites
        if not sites:
            return None
        with torch.no_grad(), untouched_randomness():
            n = terms.likelihood.shape[-1]
            lead = torch.broadcast_shapes(
                *(a.shape[:-1] for a in terms.routes.values())
            )
            picks = [torch.randint(size, ()) for size in lead]
            routes = {name: _at(a, picks) for name, a in terms.routes.items()}
            table = torch.stack([routes[site.name].expand(n) for site in sites], -1)
            plain = self._run(args, _natural(sites, table))
            again = self._run(args, _natural(sites, table))
        for name, value in _labelled(terms):
            expected = dict(_labelled(plain))[name]
            ours = _at(value, picks).broadcast_to(expected.shape)
            if _close(ours, expected):
                continue
            if not _close(dict(_labelled(again))[name], expected):
                return None  # the program draws numbers of its own, as dropout does
            return f"its {name} differs from that of a plain run"
        return None


def takes_index(program: Callable[..., Any]) -> bool:
    """Whether a program asks which rows of the data its examples are."""
    called = program.forward if isinstance(program, nn.Module) else program
    return "index" in inspect.signature(called).parameters


def _natural(
    sites: tuple[RouteSite, ...], routes: Tensor
) -> Callable[[Site, int], Tensor]:
    """Values of natural shape from (N, L) routes: (N,), or () at a static site."""

    def assign(site: Site, i: int) -> Tensor:
        return sites[i].value_of(routes[0, i] if sites[i].static else routes[:, i])

    return assign


def _shared(
    sites: tuple[RouteSite, ...], route: Tensor
) -> Callable[[Site, int], Tensor]:
    """Values of natural shape from one (L,) route for all examples."""

    def assign(site: Site, i: int) -> Tensor:
        shape = site.fn.batch_shape + site.fn.event_shape
        return sites[i].value_of(route[i]).expand(shape)

    return assign


def _draw(site: Site, shape: tuple[int, ...]) -> Tensor:
    """A value for each particle, and for each choice that the site depends on."""
    batch = torch.broadcast_shapes(site.fn.batch_shape, shape)
    value: Tensor = site.fn.expand(batch).sample()
    return value


def _support(site: Site, dim: int) -> Tensor:
    """All values of a site, on dimension ``dim`` of their batch."""
    support = site.fn.enumerate_support(expand=False)
    mark = getattr(support, "_pyro_categorical_support", None)
    event = site.fn.event_shape
    value: Tensor = support.reshape(-1, *(1,) * (-dim - 1), *event)
    if mark is not None:  # lets Pyro's log_prob transpose the logits, not gather them
        value._pyro_categorical_support = mark  # type: ignore[attr-defined]
    return value


def _read(sites: dict[str, Site], structure: Structure) -> Terms:
    """The terms of one run."""
    n = n_examples(sites)
    routes = {s.name: s for s in structure.sites}
    prior, index, observed = {}, {}, {}
    likelihood: Tensor | None = None
    outside: Tensor | None = None
    for site in sites.values():
        if site.name in routes:
            prior[site.name] = _log_prob(site, structure.nesting)
            index[site.name] = _drop_plates(
                routes[site.name].choice_of(site.value), structure.nesting
            )
        elif in_data_plate(site):
            observed[site.name] = site
            term = _log_prob(site, structure.nesting)
            likelihood = term if likelihood is None else likelihood + term
        else:
            term = _log_prob(site, structure.nesting)
            outside = term if outside is None else outside + term
    missing = [name for name in structure.names if name not in prior]
    if missing:
        raise ValueError(
            f"the program does not sample the routing site {missing[0]!r}: it must "
            f"sample each of {list(structure.names)} (it has {list(sites)})"
        )
    some = next(t for t in (likelihood, outside, *prior.values()) if t is not None)
    if likelihood is None:
        likelihood = some.new_zeros(n)
    if outside is None:
        outside = some.new_zeros(1)
    if likelihood.shape[-1] != n:
        likelihood = likelihood.expand(*likelihood.shape[:-1], n)
    return Terms(likelihood, outside, prior, index, observed, dims={})


def _log_prob(site: Site, nesting: int) -> Tensor:
    """A site's log-probability, free of the plates' scale, other plates summed.

    A scale by ``poutine.scale`` stays: it is the model's own (a tempered likelihood).
    """
    log_prob = site.fn.log_prob(site.value)
    scale = site.scale
    for frame in site.frames:
        if frame.full_size is not None and frame.full_size != frame.size:
            scale = scale * frame.size / frame.full_size
    log_prob = scale_and_mask(log_prob, scale, site.mask)
    plates = [f.dim for f in site.frames if f.dim != -1]
    if plates:
        log_prob = log_prob.sum(plates, keepdim=True)
    return _drop_plates(log_prob, nesting)


def _drop_plates(term: Tensor, nesting: int) -> Tensor:
    """(*lead, 1, .., 1, N or 1) -> (*lead, N or 1): at least one dimension is left."""
    if term.dim() == 0:
        return term.unsqueeze(0)
    for _ in range(min(nesting, term.dim()) - 1):
        term = term.squeeze(-2)
    return term


def _at(term: Tensor, picks: list[Tensor]) -> Tensor:
    """A term at one index of each of its leading dimensions."""
    for pick in picks[len(picks) - term.dim() + 1 :]:
        term = term[0] if len(term) == 1 else term[pick]
    return term


def _labelled(terms: Terms) -> Iterator[tuple[str, Tensor]]:
    yield "log-likelihood", terms.likelihood
    yield "log-likelihood outside the plate", terms.static_likelihood
    for name, value in terms.prior.items():
        yield f"log-probability of {name!r}", value


def _close(a: Tensor, b: Tensor) -> bool:
    rtol = 1e-3 if a.dtype != torch.float64 else 1e-8
    return a.shape == b.shape and torch.allclose(
        a, b, rtol=rtol, atol=rtol, equal_nan=True
    )


def all_routes(sites: tuple[RouteSite, ...]) -> Tensor:
    """(P, L): every route, the last site's choice changing fastest."""
    if not sites:
        return torch.zeros(1, 0, dtype=torch.long)
    axes = [torch.arange(site.n_choices) for site in sites]
    return torch.cartesian_prod(*axes).reshape(-1, len(sites))


def _map(terms: list[Terms], join: Callable[[list[Tensor]], Tensor]) -> Terms:
    """Join the runs' terms one by one."""
    first = terms[0]
    return Terms(
        join([t.likelihood for t in terms]),
        join([t.static_likelihood for t in terms]),
        {name: join([t.prior[name] for t in terms]) for name in first.prior},
        {name: join([t.routes[name] for t in terms]) for name in first.routes},
        first.observed,
        first.dims,
    )


def _expand(terms: Terms, n_samples: int) -> Terms:
    """Give terms that do not depend on a route their dimension of samples."""
    return _map([terms], lambda t: t[0].expand(n_samples, t[0].shape[-1]))


def _stack(runs: list[Terms]) -> Terms:
    """Runs of natural shape as one with a dimension of samples."""
    return _map(runs, torch.stack)


def _as_enumerated(runs: list[Terms], sites: tuple[RouteSite, ...]) -> Terms:
    """Runs at every route as one of shape (M_{L-1}, .., M_0, N)."""
    sizes = tuple(site.n_choices for site in sites)
    static = {site.name for site in sites if site.static}

    def join(values: list[Tensor]) -> Tensor:
        table: Tensor = torch.stack(values).unflatten(0, sizes)
        return table.permute(*reversed(range(len(sizes))), table.dim() - 1)

    def alone(table: Tensor) -> Tensor:
        """What stands outside the plate depends on the static sites alone."""
        for i, site in enumerate(sites):
            if not site.static:
                table = table.narrow(-2 - i, 0, 1)
        return table

    terms = _map(runs, join)
    prior = {name: alone(t) if name in static else t for name, t in terms.prior.items()}
    return terms._replace(static_likelihood=alone(terms.static_likelihood), prior=prior)
