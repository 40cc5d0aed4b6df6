"""Numbers from anywhere (torch, NumPy, lists) as NumPy arrays.

torch is never imported here: who only looks at a saved tree should not wait for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def to_numpy(values: Any) -> NDArray[Any]:
    """`values` as a NumPy array of its own dtype, cut off from any gradient."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if str(values.dtype) == "torch.bfloat16":  # NumPy has no such dtype
            values = values.float()
        return np.asarray(values.numpy())
    return np.asarray(values)


def entropy(probs: NDArray[np.float64]) -> NDArray[np.float64]:
    """H = -sum_m p_m log p_m in nats over the last axis, with 0 log 0 = 0.

    Args:
        probs: (*batch, n_modules), rows that sum to one.

    Returns:
        (*batch,)
    """
    logs = np.log(probs, out=np.zeros_like(probs), where=probs > 0)
    # + 0.0 turns the -0.0 of a one-hot row into 0.0
    return np.asarray(-(probs * logs).sum(-1) + 0.0)
