"""One-to-one matching of module labels, which are arbitrary."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

UNMATCHED = -1
TIE = 1e-12  # of the largest co-use: far below what an example makes, above rounding
SLOT = re.compile(r"(.+_\d+)_\d+")  # a layer's name in those of its slots


def match_modules(
    reference: NDArray[np.generic], found: NDArray[np.generic]
) -> Int[np.ndarray, " found"]:
    """The reference's label of each found module, by how often they act together.

    The assignment maximises the summed co-use

        sum_m sum_n p_ref(label_m | n) p_found(m | n),

    so that the accuracy after it is the best over all one-to-one ones. Of a copy whose
    modules were permuted it undoes the permutation (Cauchy-Schwarz), up to modules
    whose probabilities are the same at every example, such as unused ones. Among equal
    assignments a module keeps its label where it can.

    Args:
        reference: (N, R) probabilities of R modules at one decision of N examples.
        found: (N, M) probabilities of M modules at the same examples.

    Returns:
        (M,) labels in 0 .. R - 1, each at most once; ``UNMATCHED`` (-1) for modules
        that are left over where M > R. A permutation where M = R.

    Raises:
        ValueError: If these are no two matrices of as many examples.
    """
    if reference.ndim != 2 or found.ndim != 2 or len(reference) != len(found):
        raise ValueError(
            "match_modules needs (N, R) and (N, M) probabilities of the same N "
            f"examples, got shapes {reference.shape} and {found.shape}"
        )
    co_use = reference.astype(np.float64).T @ found.astype(np.float64)  # (R, M)
    stay = TIE * co_use.max(initial=0.0) * np.eye(*co_use.shape)
    labels = np.full(found.shape[1], UNMATCHED, dtype=np.int64)
    # Imported here: it takes half a second, which no training needs.
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(co_use + stay, maximize=True)
    labels[columns] = rows
    return labels


def completed(labels: Int[np.ndarray, " found"]) -> Int[np.ndarray, " found"]:
    """The labels with those that were left over on what is free: a permutation."""
    free = np.setdiff1d(np.arange(len(labels)), labels)
    full = np.array(labels)
    full[labels == UNMATCHED] = free
    return full


def one_hot(
    route: NDArray[np.integer], n_modules: int
) -> Float[np.ndarray, "*shape modules"]:
    """Labels as probabilities, for :func:`match_modules`."""
    equal = np.equal(route[..., None], np.arange(n_modules))
    return np.asarray(equal, dtype=np.float64)


def layers_of(sites: Sequence[str]) -> list[list[int]]:
    """The sites whose choices are the same modules, and so share their labels.

    The K slots of a layer, named ``route_{l}_{k}``, choose from one bank. Every other
    site is a layer by itself.

    Args:
        sites: Names of the L routing sites.

    Returns:
        The positions in ``sites`` of each layer's.

    Example:
        >>> layers_of(["route_0_0", "route_0_1", "route_1_0", "route_1_1"])
        [[0, 1], [2, 3]]
        >>> layers_of(["route_0", "route_1"])
        [[0], [1]]
    """
    layers: dict[str, list[int]] = {}
    for i, site in enumerate(sites):
        slot = SLOT.fullmatch(str(site))
        layers.setdefault(f"{slot[1]} slots" if slot else str(site), []).append(i)
    return list(layers.values())


def match_layers(
    reference: NDArray[np.generic],
    found: NDArray[np.generic],
    n_choices: Sequence[int],
    layers: Sequence[Sequence[int]],
) -> Int[np.ndarray, "sites modules"]:
    """Match the modules of each layer to the reference's, slots of a layer together.

    Args:
        reference: (N, L, R) probabilities, R at most M.
        found: (N, L, M) probabilities, zero-padded where a site has fewer choices.
        n_choices: Of the L sites.
        layers: Positions of the sites that share their modules.

    Returns:
        (L, M): the reference's label of each found module. Padding keeps its own.
    """
    n_sites, n_modules = found.shape[1:]
    labels = np.tile(np.arange(n_modules), (n_sites, 1))
    for sites in map(list, layers):
        m = n_choices[sites[0]]
        # each slot's examples below the other's: one (N K, M) matrix a layer
        pairs = [
            np.concatenate([probs[:, site, :m] for site in sites])
            for probs in (reference, found)
        ]
        labels[sites, :m] = completed(match_modules(*pairs))
    return labels
