"""The one place where a routed program is run and its log-probabilities are read."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence, Set
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..models.routing import ProgramError, Record, Site, local_parameters
from .assign import (
    drawn_value,
    drawn_values,
    natural_values,
    particle_values,
    shared_values,
    support_values,
)
from .broadcasting import disagreement
from .precision import full_precision, is_narrow
from .relaxed import RelaxedTerms, Relaxer, WeightsOf, stack_relaxed
from .structure import RouteSite, Structure, read_structure, untouched_randomness
from .terms import (
    Terms,
    choice_log_probs,
    enumerate_terms,
    expand_terms,
    read_terms,
    stack_terms,
)

TermsT = TypeVar("TermsT", Terms, RelaxedTerms)

# What a program raises that does not broadcast to the left.
_SHAPE_ERRORS = (RuntimeError, ValueError, IndexError, TypeError, AssertionError)


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
        self._local = local_parameters(model)
        self._broadcasts: dict[str, bool] = {}
        self.likelihood_scale = 1.0  # of every log-likelihood that a run gives

    def structure(self, *args: Any) -> Structure:
        """The program's routing sites; read once, by a run of its own."""
        if self._structure is None:
            self._structure = read_structure(self.model, *args)
        return self._structure

    def enumerate(self, *args: Any, prefix: tuple[int, ...] = ()) -> Terms:
        """All routes at once: each site on a dimension of its own.

        Site i of the structure stands at dim -2 - i of every term. Cost: the product of
        the numbers of choices, in evaluations of what follows the last site.

        Args:
            *args: The program's arguments.
            prefix: Choices at which the first sites are held, the others enumerated.
        """
        sites = self.structure(*args).sites
        first = -1 - self._nesting
        held = shared_values(sites, torch.tensor(prefix, dtype=torch.long))

        def assign(site: Site, i: int) -> Tensor:
            return held(site, i) if i < len(prefix) else support_values(site, first - i)

        dims = {s.name: -2 - i for i, s in enumerate(sites) if i >= len(prefix)}
        terms = self._try_broadcast("enumerate", args, assign, dims)
        if terms is None:
            rest = all_routes(sites[len(prefix) :])
            rows = torch.cat([torch.tensor([prefix] * len(rest)).long(), rest], -1)
            runs = [self.given(*args, routes=row) for row in rows]
            terms = enumerate_terms(runs, sites, n_held=len(prefix))
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
                return support_values(site, dims[site.name] + 1 - self._nesting)
            return drawn_value(site.fn, shape)

        terms = self._try_broadcast("mix", args, assign, dims)
        if terms is None:
            raise ValueError(
                "the program does not broadcast over routes on the left, so its sites "
                "cannot be enumerated in part: enumerate all or sample all"
            )
        return terms._replace(dims=dims)

    def sample(self, *args: Any, n_samples: int, given: Tensor | None = None) -> Terms:
        """Routes drawn from the routers: terms of shape (S, N).

        Args:
            *args: The program's arguments.
            n_samples: S.
            given: (C, N, L) routes that are run as well, in the same run: terms are
                then of shape (C + S, N), theirs first.
        """
        structure = self.structure(*args)
        rows = () if given is None else given.unbind()
        assign = drawn_values(structure, n_samples, given)
        terms = self._try_broadcast("sample", args, assign)
        if terms is not None:
            return expand_terms(terms, len(rows) + n_samples)
        runs = [self._run(args, natural_values(structure.sites, row)) for row in rows]
        runs += [self._run(args, lambda site, i: None) for _ in range(n_samples)]
        return stack_terms(runs)

    def broadcasts_samples(self, *args: Any) -> bool:
        """Whether S sampled routes are one run; tried out where it is not known."""
        if "sample" not in self._broadcasts:
            with torch.no_grad(), untouched_randomness():
                self.sample(*args, n_samples=2)
        return self._broadcasts["sample"]

    def relaxed(
        self, *args: Any, weights_of: WeightsOf, n_samples: int
    ) -> RelaxedTerms:
        """Every choice replaced by weights over all of a site's choices.

        A ModuleBank then mixes all its modules' values by them; at a site of a
        OneHotCategorical the weights are the value itself.

        Args:
            *args: The program's arguments.
            weights_of: Makes weights (*lead, N or 1, M) from a site's name and the
                log-probabilities of its choices, of that shape.
            n_samples: S; weights are made for each sample.

        Returns:
            Terms of shape (S, N), without the weights' own density.

        Raises:
            ValueError: If a site's weights were not used.
        """
        structure = self.structure(*args)
        if self.broadcasts_samples(*args):
            return self._relax(args, Relaxer(structure, weights_of, n_samples))
        relaxers = [Relaxer(structure, weights_of, None) for _ in range(n_samples)]
        return stack_relaxed([self._relax(args, relaxer) for relaxer in relaxers])

    def _relax(self, args: Any, relaxer: Relaxer) -> RelaxedTerms:
        record = self._record(args, relaxer)
        return self._tempered(relaxer.terms(record.sites))

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
            return self._run(args, shared_values(sites, routes))
        if routes.dim() == 2:
            return self._run(args, natural_values(sites, routes))
        assign = particle_values(self.structure(*args), routes)
        terms = self._try_broadcast("given", args, assign)
        if terms is not None:
            return expand_terms(terms, len(routes))
        return stack_terms(
            [self._run(args, natural_values(sites, row)) for row in routes]
        )

    @property
    def _nesting(self) -> int:
        assert self._structure is not None
        return self._structure.nesting

    def _run(self, args: Any, assign: Callable[[Site, int], Tensor | None]) -> Terms:
        assert self._structure is not None
        record = self._record(args, assign)
        return self._tempered(read_terms(record.sites, self._structure))

    def _record(
        self, args: Any, assign: Callable[[Site, int], Tensor | None]
    ) -> Record:
        """The statements of one run, its routing sites given their values."""
        assert self._structure is not None
        place = {site.name: i for i, site in enumerate(self._structure.sites)}

        def value(site: Site) -> Tensor | None:
            return assign(site, place[site.name]) if site.name in place else None

        record = Record(value)
        with self._local(), record:
            self.model(*args)
        return record

    def _tempered(self, terms: TermsT) -> TermsT:
        """The log-likelihoods scaled, as a regulariser may ask."""
        if self.likelihood_scale == 1.0:
            return terms
        return terms._replace(
            likelihood=self.likelihood_scale * terms.likelihood,
            static_likelihood=self.likelihood_scale * terms.static_likelihood,
        )

    def _try_broadcast(
        self,
        way: str,
        args: Any,
        assign: Callable[[Site, int], Tensor],
        dims: Mapping[str, int] = MappingProxyType({}),
    ) -> Terms | None:
        """Terms of a broadcasting run; None for a program that does not broadcast."""
        if not self._broadcasts.get(way, True):
            return None
        if way in self._broadcasts:
            return self._run(args, assign)
        try:
            terms = self._run(args, assign)
            reason = self._doubt(self._in_full(terms, args, assign), args, dims)
        except ProgramError:
            raise
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

    def _in_full(
        self, terms: Terms, args: Any, assign: Callable[[Site, int], Tensor]
    ) -> Terms:
        """The terms, of another run where these are of few digits."""
        if not is_narrow():
            return terms
        with torch.no_grad(), untouched_randomness(), full_precision():
            return self._run(args, assign)

    def _doubt(self, terms: Terms, args: Any, dims: Mapping[str, int]) -> str | None:
        """How a broadcasting run differs from a plain one at the same routes."""
        sites = self.structure(*args).sites
        if not sites:
            return None

        def plain(routes: Tensor) -> Terms:
            return self._run(args, natural_values(sites, routes))

        with torch.no_grad(), untouched_randomness(), full_precision():
            return disagreement(terms, self.structure(*args), plain, dims)

    def peek(self, *args: Any, routes: Tensor) -> Float[Tensor, "paths examples m"]:
        """The next site's log-probabilities after the first choices of some paths.

        The program stops at that site: nothing after it is evaluated.

        Args:
            *args: The program's arguments.
            routes: (C, N, l) choices at the first l sites, l < L.

        Returns:
            (C, N, M) log p(a_l | z_l) of each choice.
        """
        structure = self.structure(*args)
        names = structure.names[: routes.shape[-1] + 1]
        if "given" not in self._broadcasts:  # found out by a run to the end
            whole = routes.new_zeros(2, routes.shape[1], len(structure.sites))
            with torch.no_grad(), untouched_randomness():
                self.given(*args, routes=whole)
        if not self._broadcasts["given"]:
            plain = [natural_values(structure.sites, row) for row in routes]
            return torch.stack([self._peek(args, names, assign) for assign in plain])
        return self._peek(args, names, particle_values(structure, routes)).expand(
            len(routes), routes.shape[1], -1
        )

    def _peek(
        self, args: Any, names: Sequence[str], assign: Callable[[Site, int], Tensor]
    ) -> Tensor:
        seen: list[Tensor] = []

        def value(site: Site) -> Tensor | None:
            if site.name == names[-1]:
                seen.append(choice_log_probs(site, self._nesting))
                raise _Seen
            return assign(site, names.index(site.name)) if site.name in names else None

        with contextlib.suppress(_Seen), self._local(), Record(value):
            self.model(*args)
        return seen[0]


class _Seen(Exception):
    """Stops a program at a site."""


def takes_index(program: Callable[..., Any]) -> bool:
    """Whether a program asks which rows of the data its examples are."""
    called = program.forward if isinstance(program, nn.Module) else program
    return "index" in inspect.signature(called).parameters


def all_routes(sites: tuple[RouteSite, ...]) -> Tensor:
    """(P, L): every route, the last site's choice changing fastest."""
    if not sites:
        return torch.zeros(1, 0, dtype=torch.long)
    axes = [torch.arange(site.n_choices) for site in sites]
    return torch.cartesian_prod(*axes).reshape(-1, len(sites))
