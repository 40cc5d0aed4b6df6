"""What a program says of its data at one draw: likelihoods and discrete sites."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from ...inference.posterior import importance_posterior
from .elimination import Factor, NotSummable, draw, eliminate, sum_over
from .factors import (
    SHAPE_ERRORS,
    Factors,
    disagreement,
    log_prob_of,
    most_elements,
    read_factors,
    read_one_by_one,
    value_of,
    warn_one_by_one,
)
from .layout import Layout, Plate, Program, SiteLayout, traced
from .names import shared_name

_IMPORTANCE_SAMPLES = 1000


class Scored(NamedTuple):
    """A program at one draw of its continuous sites, its discrete sites summed out.

    Attributes:
        lp: log p(y, w), nats.
        log_likelihood: log p(y | w) by variable; the axes are the plates over whose
            elements it is a sum.
        sites: The statements that each of these is of.
        choices: (n, *plates) draws of each discrete site from its posterior, int64.
        importance: `pareto_k`, `ess` and `error` of the likelihood by importance
            sampling; empty where it is exact.
    """

    lp: float
    log_likelihood: dict[str, Factor]
    choices: dict[str, Tensor]
    importance: dict[str, Factor]


Way = Literal["at once", "one by one", "importance"]


class Scorer:
    """Sums a program's discrete sites out: exactly, or by importance sampling.

    How is found out at the first draw: with all choices at once; one by one, where the
    program does not broadcast; by importance sampling, where the sums are too large.

    Args:
        layout: The program's statements.
        given: Names of the latent sites that draws have values of.
    """

    def __init__(self, layout: Layout, given: Sequence[str]) -> None:
        self.layout = layout
        self.discrete = discrete_sites(layout)
        self.way: Way | None = None
        self._given = [name for name in given if layout.sites[name].support is None]

    @property
    def exact(self) -> bool:
        """Whether discrete sites are summed out exactly."""
        return self.way != "importance"

    def score(self, program: Program, n: int) -> Scored:
        """Score a program whose continuous sites have their values.

        Args:
            program: The program.
            n: Draws of the discrete sites.

        Raises:
            ValueError: If the sites can be summed out neither way.
        """
        if self.way is None:
            return self._first(program, n)
        if self.way == "at once":
            return self._exact(read_factors(program, self.layout, self.discrete), n)
        if self.way == "one by one":
            return self._exact(read_one_by_one(program, self.layout, self.discrete), n)
        return self._weighted(program, n)

    def _first(self, program: Program, n: int) -> Scored:
        """Try the ways in turn."""
        try:
            factors, reason = self._at_once(program)
            self.way = "at once"
            if factors is None:
                factors = read_one_by_one(program, self.layout, self.discrete)
                self.way = "one by one"
                warn_one_by_one(reason)
            return self._exact(factors, n)
        except NotSummable as error:
            self.way = "importance"
            return self._first_weighted(program, n, str(error))

    def _first_weighted(self, program: Program, n: int, reason: str) -> Scored:
        """Weight where sums are too large, and say so."""
        try:
            scored = self._weighted(program, n)
        except ValueError as error:
            raise ValueError(
                f"the discrete sites {[s.name for s in self.discrete]} can be summed "
                f"out neither exactly ({reason}) nor by importance sampling ({error}): "
                "write them in pyro.markov, or give fewer rows"
            ) from error
        worst = scored.importance["pareto_k"].values.max().item()
        warnings.warn(
            "the discrete sites are summed out by importance sampling, as the exact "
            f"sum does not fit ({reason}); its Pareto k is up to {worst:.2f} at the "
            "first draw, and above 0.7 the likelihood is not to be trusted",
            stacklevel=2,
        )
        return scored

    def _at_once(self, program: Program) -> tuple[Factors | None, str]:
        """The factors, or why the program does not broadcast."""
        try:
            factors = read_factors(program, self.layout, self.discrete)
        except SHAPE_ERRORS as error:
            return None, f"{type(error).__name__}: {str(error).splitlines()[0]}"
        if not self.discrete:
            return factors, ""
        choices = self._exact(factors, 1).choices
        values = {s.name: value_of(s, choices[s.name][0]) for s in self.discrete}
        plain = poutine.condition(program, data=values)
        reason = disagreement(factors, choices, plain)
        return (factors, "") if reason is None else (None, reason)

    def _exact(self, factors: Factors, n: int) -> Scored:
        done = eliminate(factors.terms, factors.variables, most=most_elements())
        return Scored(
            lp=done.total().item(),
            log_likelihood=pointwise(factors, done.parts, self.layout),
            choices=draw(done.steps, factors.variables, factors.plates, n),
            importance={},
        )

    def _weighted(self, program: Program, n: int) -> Scored:
        """By importance sampling from the discrete sites' own distributions."""
        order = list(self.layout.sites)
        first = min(order.index(site.name) for site in self.discrete)
        late = [name for name in self._given if order.index(name) > first]
        if late:
            raise ValueError(f"site {late[0]!r} may depend on them")
        hidden = poutine.block(program, hide=self._given)
        found = importance_posterior(hidden, n_samples=_IMPORTANCE_SAMPLES, seed=None)
        weights = found.log_weights.exp().T  # (N or 1, S)
        picked = torch.multinomial(weights, n, replacement=True).T
        picked = picked.expand(n, found.routes.shape[1])
        choices = {}
        for i, site in enumerate(self.discrete):
            drawn = found.routes[..., i].gather(0, picked)
            choices[site.name] = drawn if site.plates else drawn[:, 0]
        observed = self.layout.of_kind("observed") or self.layout.of_kind("factor")
        name = shared_name([site.name for site in observed])
        values = {
            "pareto_k": found.pareto_k,
            "ess": found.ess,
            "error": found.log_marginal_error,
        }
        shape = found.log_marginal.shape
        data = (p.name for p in self._all_plates() if p.dim == -1)
        dims = (next(data),) if shape else ()
        nodes = traced(program)
        terms = [log_prob_of(nodes[name], masked=True) for name in self._given]
        prior = math.fsum(term.sum().item() for term in terms)
        return Scored(
            lp=found.log_marginal.double().sum().item() + prior,
            log_likelihood={
                name: Factor(found.log_marginal.double(), dims, frozenset())
            },
            choices=choices,
            importance={
                key: Factor(value.reshape(shape), dims, frozenset())
                for key, value in values.items()
            },
        )

    def _all_plates(self) -> list[Plate]:
        return [p for site in self.layout.sites.values() for p in site.plates]


def pointwise(
    factors: Factors, parts: Sequence[Factor], layout: Layout
) -> dict[str, Factor]:
    r"""log p(y_n | w) of the observed sites, as far as they are independent given w.

    Sites that share a discrete site have one value together. Where a part holds given
    latent sites too, what it is without its observations is divided out:

    .. math:: p(y_n \mid w) = \frac{\sum_a p(y_n, a, w_n)}{\sum_a p(a, w_n)}
    """
    seen = {site.name for site in layout.of_kind("observed", "factor")}
    latent = {site.name for site in layout.of_kind("latent")}
    result: dict[str, Factor] = {}
    for part in parts:
        named = _observed(part, layout)
        if not named:
            continue
        values = part.values
        if (part.sites & latent) - set(factors.variables):
            own = [t for t in factors.terms if t.sites <= part.sites - seen]
            for prior in eliminate(own, factors.variables).parts:
                extra = [d for d in prior.dims if d not in part.dims]
                values = values - _like(sum_over(prior, extra), part)
        result[shared_name(named)] = part._replace(values=values)
    return result


def _observed(part: Factor, layout: Layout) -> list[str]:
    """The observed statements of a part; its factors, where it has no others."""
    names = [name for name in layout.sites if name in part.sites]
    named = [name for name in names if layout.sites[name].kind == "observed"]
    if named or not part.dims:  # a factor outside every plate scores no observation
        return named
    return [name for name in names if layout.sites[name].kind == "factor"]


def _like(factor: Factor, part: Factor) -> Tensor:
    """The values of a factor with the axes of a part."""
    present = [d for d in part.dims if d in factor.dims]
    values = factor.values.permute([factor.dims.index(d) for d in present])
    sizes = dict(zip(present, values.shape, strict=True))
    return values.reshape([sizes.get(d, 1) for d in part.dims])


def discrete_sites(layout: Layout) -> list[SiteLayout]:
    """The latent sites whose choices can be listed."""
    return [s for s in layout.of_kind("latent") if s.support is not None]
