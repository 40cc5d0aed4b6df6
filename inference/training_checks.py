"""What a training run is asked for, checked before any of it."""

from __future__ import annotations

import math
import operator
from typing import Any

from ..models.checks import check_count


def check_training(
    *,
    steps: Any,
    batch_size: Any,
    lr: Any,
    seed: Any,
    log_every: Any,
    checkpoint_every: Any,
) -> None:
    """Refuse numbers that no training can have; arguments as those of ``fit``.

    Raises:
        ValueError: Names the argument, what was given and what is accepted.
    """
    counts = {"steps": steps, "batch_size": batch_size}
    optional = {"log_every": log_every, "checkpoint_every": checkpoint_every}
    counts |= {name: n for name, n in optional.items() if n is not None}
    for name, value in counts.items():
        check_count(name, value)
    try:
        accepted = 0 < lr < math.inf
    except TypeError:
        accepted = False
    if not accepted:
        raise ValueError(f"lr must be positive, got {lr!r}")
    try:
        operator.index(seed)
    except TypeError:
        raise ValueError(f"seed must be a whole number, got {seed!r}") from None
