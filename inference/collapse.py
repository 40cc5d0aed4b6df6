"""A router that gives every example to the same module."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

from .entropies import Entropies
from .evaluate import Evaluation

_SHARE = 0.05  # of log M: H(A) where one of 4 modules gets 99 of 100 examples
_FEWEST = 20  # examples by which it can be told


class CollapseWarning(UserWarning):
    """A layer gives nearly every example to one module."""


def collapsed_layers(seen: Evaluation, entropies: Entropies) -> list[str]:
    """Sites whose H(A) is below 5% of log M, said with it.

    H(A | X), at most H(A), is then near 0 too: the router is certain, and of the same
    module for every example. A site with one choice is not meant, nor are programs with
    a static site, which decides once for all examples.
    """
    if seen.coupled or len(seen.router_probs) < _FEWEST:
        return []
    return [
        f"{name!r} (H(A) = {used:.2g} of {math.log(n):.2g} nats, H(A|X) = {sure:.2g})"
        for name, n, sure, used in zip(
            seen.names,
            seen.n_choices,
            entropies.h_a.tolist(),
            entropies.h_b.tolist(),
            strict=True,
        )
        if n > 1 and used < _SHARE * math.log(n)
    ]


def warn_of_collapse(layers: Sequence[str]) -> None:
    """Say it in one line, with what to try."""
    warnings.warn(
        f"collapsed: nearly every example goes to one module at {', '.join(layers)}; "
        "try a regulariser (MarginalEntropy, LoadBalancing), a smaller lr, or another "
        "method",
        CollapseWarning,
        stacklevel=2,
    )
