"""Sums over discrete variables of a product of labelled factors, and draws of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class NotSummable(Exception):
    """The discrete sites cannot be summed out exactly; says why."""


class Factor(NamedTuple):
    """A log-probability with a name for each of its axes.

    Attributes:
        values: (*dims) in nats.
        dims: Names of discrete variables, then of plates.
        sites: The statements whose log-probabilities were added up.
    """

    values: Tensor
    dims: tuple[str, ...]
    sites: frozenset[str]


class Variable(NamedTuple):
    """A discrete variable: how many choices, and the plates that it stands in."""

    size: int
    plates: tuple[str, ...]


class Step(NamedTuple):
    """A variable that was summed out, and all that depended on it at that time."""

    name: str
    factor: Factor


class Eliminated(NamedTuple):
    """What is left when every variable is summed out.

    Attributes:
        parts: Log-sums, each over the plates in which its elements are independent.
        steps: The sums in the order in which they were made.
    """

    parts: list[Factor]
    steps: list[Step]

    def total(self) -> Tensor:
        """() the log of the whole sum."""
        return torch.stack([part.values.sum() for part in self.parts]).sum()


def eliminate(
    factors: Sequence[Factor],
    variables: Mapping[str, Variable],
    *,
    most: float = math.inf,
) -> Eliminated:
    r"""Log sum_a prod_f f(a), one variable at a time, deepest plates first.

    Within a plate the variable goes next whose sum makes the smallest table, so that a
    chain of T states costs T tables of M^2. What stands in a plate is multiplied over
    it as soon as all that it shares stands outside:

    .. math:: \log \sum_b \prod_n \sum_{a_n} f(a_n, b)

    Args:
        factors: The joint log-probability, as a sum.
        variables: The variables by name.
        most: Elements that a table may have.

    Raises:
        NotSummable: If a table would be larger, or plates cross.

    References:
        Obermeyer et al. 2019, Tensor variable elimination for plated factor graphs,
        arXiv:1902.03210, algorithm 1.
    """
    left, steps = list(factors), []
    todo = {name: v for name, v in variables.items() if v.size > 1}
    while todo:
        deepest = max(len(v.plates) for v in todo.values())
        costs = {}
        for name, variable in todo.items():
            if len(variable.plates) == deepest:
                sizes = _sizes([f for f in left if name in f.dims])
                costs[name] = math.prod(sizes.values())
        name = min(costs, key=lambda n: costs[n])
        touching = [_shrink(f, todo) for f in left if name in f.dims]
        left = [f for f in left if name not in f.dims]
        product = _multiply(name, touching, todo, most)
        steps.append(Step(name, product))
        summed = torch.logsumexp(product.values, 0)
        left.append(Factor(summed, product.dims[1:], product.sites))
        del todo[name]
    return Eliminated([_shrink(f, variables) for f in left], steps)


def draw(
    steps: Sequence[Step],
    variables: Mapping[str, Variable],
    plates: Mapping[str, int],
    n: int,
) -> dict[str, Tensor]:
    """Draw every variable from the joint posterior, the last summed out first.

    Args:
        steps: What :func:`eliminate` did.
        variables: The variables by name.
        plates: Sizes of the plates.
        n: Independent draws.

    Returns:
        Each variable's choices (n, *its plates), int64.

    Raises:
        ValueError: If no choice has a positive probability.
    """
    drawn = {
        name: torch.zeros(n, *(plates[p] for p in v.plates), dtype=torch.long)
        for name, v in variables.items()
        if v.size == 1
    }
    for name, factor in reversed(steps):
        over = variables[name].plates
        logits = _at(factor, drawn, variables, over, plates, n, skip=1)
        logits = logits.expand(n, *(plates[p] for p in over), logits.shape[-1])
        if torch.isneginf(logits).all(-1).any():
            raise ValueError(
                f"site {name!r}: no choice has a positive probability given the "
                "observations; expected at least one"
            )
        flat = logits.softmax(-1).reshape(-1, logits.shape[-1])
        drawn[name] = torch.multinomial(flat, 1).reshape(logits.shape[:-1])
    return drawn


def value_at(
    factor: Factor,
    choices: Mapping[str, Tensor],
    variables: Mapping[str, Variable],
    plates: Mapping[str, int],
    n: int,
) -> Tensor:
    """(n, *plates of the factor) its values at choices of its variables."""
    over = tuple(dim for dim in factor.dims if dim not in variables)
    return _at(factor, choices, variables, over, plates, n, skip=0)


def _at(
    factor: Factor,
    choices: Mapping[str, Tensor],
    variables: Mapping[str, Variable],
    over: tuple[str, ...],
    plates: Mapping[str, int],
    n: int,
    *,
    skip: int,
) -> Tensor:
    """(n, *over, *first axes) with all but the first ``skip`` variables chosen."""
    plates = {**plates, **_sizes([factor])}
    order = [d for d in factor.dims[skip:] if d in variables]
    order += [d for d in over if d in factor.dims]
    where = [factor.dims.index(d) for d in order]
    values = factor.values.permute([*where, *range(skip)])
    index = []
    for dim in order:
        if dim in variables:
            own = variables[dim].plates
            shape = [plates[p] if p in own else 1 for p in over]
            index.append(_spread(choices[dim], own, over, shape, n))
        else:
            at = [-1 if p == dim else 1 for p in over]
            index.append(torch.arange(plates[dim]).reshape(1, *at))
    if not index:
        return values.expand(n, *(1,) * len(over), *values.shape)
    values = values[tuple(index)]
    return values.expand(n, *values.shape[1:])


def _spread(
    choice: Tensor,
    own: tuple[str, ...],
    over: tuple[str, ...],
    shape: list[int],
    n: int,
) -> Tensor:
    """(n, *own plates) -> (n, *over), of size 1 where it does not vary."""
    order = [own.index(p) for p in over if p in own]
    return choice.permute([0, *(1 + i for i in order)]).reshape(n, *shape)


def _shrink(factor: Factor, variables: Mapping[str, Variable]) -> Factor:
    """Multiply over the plates that none of the factor's variables stands in."""
    own = [variables[d] for d in factor.dims if d in variables]
    if not own:
        return factor
    kept = {plate for variable in own for plate in variable.plates}
    extra = [d for d in factor.dims if d not in variables and d not in kept]
    return sum_over(factor, extra)


def sum_over(factor: Factor, dims: Sequence[str]) -> Factor:
    """Add a factor up over some of its axes."""
    if not dims:
        return factor
    values = factor.values.sum([factor.dims.index(d) for d in dims])
    return factor._replace(
        values=values, dims=tuple(d for d in factor.dims if d not in dims)
    )


def _multiply(
    name: str,
    factors: Sequence[Factor],
    variables: Mapping[str, Variable],
    most: float,
) -> Factor:
    """The product of factors, as a table with one variable's axis first."""
    sizes = _sizes(factors)
    others = [d for d in sizes if d in variables and d != name]
    plates = [d for d in sizes if d not in variables]
    crossing = set(plates) - set(variables[name].plates)
    if crossing:
        raise NotSummable(
            f"site {name!r} in plates {sorted(variables[name].plates)} is coupled to "
            f"sites in plates {sorted(crossing)}, which cross them"
        )
    elements = math.prod(sizes.values())
    if elements > most:
        raise NotSummable(
            f"summing out site {name!r} takes a table of {elements:,} elements, and "
            f"{int(most):,} may be used"
        )
    dims = (name, *others, *plates)
    total = torch.zeros(())
    for factor in factors:
        total = total + _aligned(factor, dims)
    sites = frozenset[str]().union(*(f.sites for f in factors))
    return Factor(total.expand([sizes[d] for d in dims]), dims, sites)


def _aligned(factor: Factor, dims: tuple[str, ...]) -> Tensor:
    """The values with their axes in the order of ``dims``, 1 where there is none."""
    present = [d for d in dims if d in factor.dims]
    values = factor.values.permute([factor.dims.index(d) for d in present])
    sizes = dict(zip(present, values.shape, strict=True))
    return values.reshape([sizes.get(d, 1) for d in dims])


def _sizes(factors: Sequence[Factor]) -> dict[str, int]:
    """Size of every axis of some factors."""
    return {
        dim: size
        for factor in factors
        for dim, size in zip(factor.dims, factor.values.shape, strict=True)
    }
