"""The rows of a training history as labelled arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .groups import Group

# measured now and then, whatever `log_every` was
LOGGED = frozenset({"h_a", "h_b", "h_a_layers", "h_b_layers", "valid", "seconds"})


def training_group(
    history: Iterable[Mapping[str, Any]], n_sites: int
) -> tuple[Group, dict[str, NDArray[np.int64]]]:
    """History rows as the `training` group.

    What every row has (the loss) runs along `step`, what only some rows have (H(A),
    H(A|X), validation) along `log_step`, with NaN where a logged row lacks it.

    Args:
        history: Rows {"step": int, "loss": float, …}; a list of `n_sites` numbers is
            read as one value per route site.
        n_sites: Number of route sites.

    Returns:
        The group, its variables without the chain axis's name, and the coordinates
        `step` and `log_step`.

    Raises:
        ValueError: No rows, or a row without "step".
    """
    rows = list(history)
    if not rows or any("step" not in row for row in rows):
        raise ValueError(
            f"history: got {len(rows)} rows, expected one or more, each with 'step'"
        )
    names = list(dict.fromkeys(name for row in rows for name in row if name != "step"))
    everywhere = set.intersection(*(set(row) for row in rows)) - LOGGED
    logged = [row for row in rows if set(row) - everywhere - {"step"}]
    variables: dict[str, tuple[list[str], NDArray[Any]]] = {}
    for name in names:
        dim, where = ("step", rows) if name in everywhere else ("log_step", logged)
        values = _column(where, name)
        per_site = values.ndim == 2 and values.shape[1] == n_sites
        dims = [dim, *(["site"] if per_site else [])]
        variables[name] = (dims, values[None])
    coords = {
        "step": np.array([row["step"] for row in rows], dtype=np.int64),
        "log_step": np.array([row["step"] for row in logged], dtype=np.int64),
    }
    return Group(variables, sample_dims=["chain"]), coords


def _column(rows: list[Mapping[str, Any]], name: str) -> NDArray[np.float64]:
    """(n_rows,) or (n_rows, n) values of one name, NaN where a row has none."""
    found = next(row[name] for row in rows if name in row)
    missing = np.full(np.shape(found), np.nan)
    return np.array([row.get(name, missing) for row in rows], dtype=np.float64)
