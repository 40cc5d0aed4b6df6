"""Sums over routes: from the terms of an enumerated run to marginals and posteriors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from .structure import Structure
from .terms import Terms


def sum_routes(
    terms: Terms, structure: Structure, *, data_scale: float = 1.0
) -> Float[Tensor, "*batch"]:
    """Log sum_a p(y, a | x) from the terms of an enumerated run.

    All sites at once where one factor depends on them all, else each in turn, the last
    first: one logsumexp of the sum of the factors that depend on it, so that the
    gradient is the posterior's whatever the distance between prior and likelihood.
    (Shifting each factor by its own maximum, as
    Pyro's contraction does, loses the gradient once their modes are some 16 nats apart
    in float32.) Cost: that of the largest factor.

    Args:
        terms: What :meth:`RoutedProgram.enumerate` gives.
        structure: The program's sites.
        data_scale: N / B where the batch stands for N examples and they are coupled.

    Returns:
        (N,) per example; () where examples are coupled:
        log sum_a p(a) prod_n p(y_n | x_n, a)^data_scale.
    """
    factors = _factors(terms, structure, data_scale)
    shape = () if structure.coupled else (-1,)
    return _add(eliminate(factors, terms.dims)).reshape(shape)


def tabulate_routes(
    terms: Terms, structure: Structure
) -> Float[Tensor, "examples routes"]:
    """Log p(y, a | x) of every route a, from the terms of an enumerated run.

    Returns:
        (N, P), routes ordered with the last site's choice changing fastest. With static
        sites (1, P) over those alone, the others summed out.
    """
    joint = _add(_factors(terms, structure, 1.0))
    n = joint.shape[-1]
    summed = bool(structure.static_sites)  # whether dynamic sites are summed out
    sizes = [1 if summed and not s.static else s.n_choices for s in structure.sites]
    joint = joint.expand(*reversed(sizes), n)
    return joint.permute(*reversed(range(joint.dim()))).reshape(n, -1)


def _factors(terms: Terms, structure: Structure, data_scale: float) -> list[Tensor]:
    """Factors over the sites that are left: all of them, or the static ones."""
    inner = [terms.likelihood]
    inner += [terms.prior[site.name] for site in structure.sites if not site.static]
    if not structure.coupled:
        return inner
    dynamic = [site for site in structure.sites if not site.static]
    dims = {s.name: terms.dims[s.name] for s in dynamic if s.name in terms.dims}
    per_example = _add(eliminate(inner, dims))
    shared = data_scale * per_example.sum(-1, keepdim=True)
    outer = [terms.prior[site.name] for site in structure.static_sites]
    return [shared, terms.static_likelihood, *outer]


def eliminate(factors: list[Tensor], dims: Mapping[str, int]) -> list[Tensor]:
    """Sum sites, the leftmost first, out of a product of factors in logarithms."""
    sites = sorted(dims.values())
    widest = max(factors, key=Tensor.numel)
    if sites and all(widest.dim() >= -d and widest.shape[d] > 1 for d in sites):
        # Nothing is gained by fewer dimensions: the smallest factors are added first.
        return [logsumexp(_add(sorted(factors, key=Tensor.numel)), sites)]
    for dim in sites:
        touched = [f for f in factors if f.dim() >= -dim and f.shape[dim] > 1]
        if not touched:  # one choice, of probability one
            continue
        factors = [f for f in factors if f.dim() < -dim or f.shape[dim] == 1]
        factors.append(logsumexp(_add(touched), dim))
    return factors


def logsumexp(values: Tensor, dim: int | list[int]) -> Tensor:
    """log sum exp over some dimensions, which are kept.

    As torch's, but for its gradient, the softmax: it is accurate at -1e6 in float32,
    where the total is rounded to .06 nats (so not exp(values - total)), and zero, not
    NaN, where every value is -inf, a route that a program forbids.
    """
    limits = torch.finfo(values.dtype)
    largest = values.detach().amax(dim, keepdim=True)
    shifted = values - largest.clamp(limits.min, limits.max)
    # At least 1, and 0 where all are -inf: clamped, for the gradient's sake.
    total = shifted.exp().sum(dim, keepdim=True).clamp_min(limits.tiny)
    return total.log() + largest


def _add(factors: list[Tensor]) -> Tensor:
    total = factors[0]
    for factor in factors[1:]:
        total = total + factor
    return total
