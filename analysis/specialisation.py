"""Collapse and specialisation of modules against known rules."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from .labels import table_information
from .matching import UNMATCHED, match_modules

Floats = NDArray[np.float64]


class Specialisation(NamedTuple):
    """Measures of Mittal et al. for one decision; 0 is best, 1 is worst.

    Attributes:
        collapse_avg: Use that modules lack to an even share, all together.
        collapse_worst: The same of the least used module alone.
        alignment: Distance of p(module|rule) to the nearest one-to-one assignment.
        inverse_mi: Share of the information on the rule that the module does not carry.
        adaptation: How far the use of modules stays behind when the rules' frequencies
            change.
    """

    collapse_avg: float
    collapse_worst: float
    alignment: float
    inverse_mi: float
    adaptation: float


def specialisation(
    activation: Float[np.ndarray, "rules modules"], *, draws: int = 1000, seed: int = 0
) -> Specialisation:
    r"""How the modules of one decision share out R rules of equal frequency.

    With :math:`A_{rm} = p(m \mid r)` and :math:`p(m) = \frac1R \sum_r A_{rm}`:

    .. math::
        C_A &= \tfrac{M}{M - 1} \sum_m \max(0, \tfrac1M - p(m)), \quad
        C_W = 1 - M \min_m p(m) \\
        S_d &= 1 - \tfrac1R \max_\pi \sum_r A_{r \pi(r)}, \quad
        S_{IMI} = 1 - \frac{I(m; r)}{\log R} \\
        S_A &= E_{p \sim \mathrm{Dirichlet}(1)}\,
            \tfrac12 \sum_i |p_{(i)} - (p^\top A)_{(i)}|

    Where M = R these are the paper's, exactly. Conventions, and what holds beyond:

    - :math:`C_A, C_W` count modules, so that spare ones (M > R) read as collapse: R
      rules with a module each have :math:`C_A = (M - R) / (M - 1)`. One module: 0.
    - :math:`S_d`: :math:`\pi` gives each rule a module of its own while there are any;
      at M = R it is :math:`\|A - P\|_1 / (2 R)` to the nearest permutation P. With
      M < R at least 1 - M/R.
    - :math:`S_{IMI}`: with M < R at least 1 - log M / log R. One rule: 0. The paper's
      code adds 1e-8 within the logarithm; here 0 log 0 = 0.
    - :math:`S_A` sorts both vectors and fills the shorter with zeros. The half is in
      the paper's code and not in its equation 20, which gives twice this. The paper
      draws new data for each of 100 p; the modules' frequencies under p have the mean
      :math:`p^\top A`, which stands here without that noise. Monte Carlo over `draws`
      p from `seed`, with a standard error below 0.5 / sqrt(draws).

    Args:
        activation: (R, M) p(module | rule), rows that sum to one.
        draws: Frequencies of rules drawn for `adaptation`.
        seed: Of these draws.

    Raises:
        ValueError: `activation` is not (R, M) probabilities.

    References:
        Mittal, Bengio, Lajoie 2022, Is a modular architecture enough?
        (arXiv:2206.02713), equations 16 to 20.

    Example:
        >>> best = specialisation(np.eye(4)[[2, 0, 3, 1]])
        >>> [round(value, 12) for value in best]
        [0.0, 0.0, 0.0, 0.0, 0.0]
    """
    a = np.asarray(activation, dtype=np.float64)
    if a.ndim != 2 or 0 in a.shape:
        raise ValueError(f"activation: got shape {a.shape}, expected (rules, modules)")
    if not (a >= 0).all() or not np.allclose(a.sum(-1), 1, atol=1e-4):
        raise ValueError(
            "activation: got rows that are no probabilities, expected p(module | rule)"
        )
    n_rules, n_modules = a.shape
    use = a.mean(0)
    lacking = np.maximum(1 / n_modules - use, 0).sum()
    information = float(table_information(a / n_rules))
    return Specialisation(
        collapse_avg=float(lacking * n_modules / max(n_modules - 1, 1)),
        collapse_worst=float(max(1 - n_modules * use.min(), 0.0)),
        alignment=_alignment(a),
        inverse_mi=_share_missing(information, n_rules),
        adaptation=_adaptation(a, draws, seed),
    )


def activation_matrix(
    probs: Float[np.ndarray, "examples modules"], rules: NDArray[np.generic]
) -> Float[np.ndarray, "rules modules"]:
    """(R, M) mean p(module) of the examples of each rule that occurs, rules sorted."""
    return np.stack([probs[rules == rule].mean(0) for rule in np.unique(rules)])


def _share_missing(information: float, n_rules: int) -> float:
    """One minus the information as a share of log R, between 0 and 1."""
    if n_rules == 1:
        return 0.0
    return float(min(max(1 - information / np.log(n_rules), 0.0), 1.0))


def _alignment(a: Floats) -> float:
    """One minus the mean over rules of p(the rule's own module | rule)."""
    labels = match_modules(np.eye(len(a)), a)  # a rule each for up to R modules
    matched = labels != UNMATCHED
    own = a[labels[matched], np.flatnonzero(matched)]
    return float(max(1 - own.sum() / len(a), 0.0))


def _adaptation(a: Floats, draws: int, seed: int) -> float:
    """Mean total variation between sorted frequencies of rules and of modules."""
    p = np.random.default_rng(seed).dirichlet(np.ones(len(a)), draws)
    width = max(a.shape)
    sorted_p, sorted_q = (
        np.sort(np.pad(f, ((0, 0), (0, width - f.shape[1])))) for f in (p, p @ a)
    )
    return float(np.abs(sorted_p - sorted_q).sum(-1).mean() / 2)
