"""Whether chains agree: R-hat and effective sample sizes that labels cannot spoil."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from .groups import dataset

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

EXAMPLES = 200  # enough for a quantile over examples
QUANTILE = 0.95
TAIL = (0.05, 0.95)
FEWEST_DRAWS = 4  # two in each half of a chain

Draws = Float[np.ndarray, "chains draws quantities"]
Values = NDArray[np.float64]


class Diagnostics(NamedTuple):
    """R-hat and effective sample sizes of K quantities, each (K,)."""

    rhat: Values
    ess_bulk: Values
    ess_tail: Values
    note: list[str]


def diagnose(tree: xr.DataTree, *, examples: int = EXAMPLES) -> pd.DataFrame:
    """R-hat and effective sample sizes of a run with its labels matched.

    Never of label codes, whose mean says nothing. Rows:

    - `log joint`: `sample_stats.lp`, which needs no labels;
    - `use of route_0 = m`: the share of examples that each draw gives to a module;
    - `route_0 by example`: of the indicators 1[a_l = m] of single examples, the
      95% quantile over examples of the worst R-hat, and the 5% quantile of the lowest
      effective sample size.

    Where all draws are equal there is nothing to estimate: R-hat is NaN, and the note
    says `unused` of a module, `settled` of an example's routes, `constant` of others.
    Chains that never move and yet differ are `stuck`: R-hat is infinity, and each
    counts as one draw. So is the log joint of seeds whose weights are point estimates.
    With one chain R-hat is NaN.

    Args:
        tree: A run, of :func:`latentroute.analysis.join_chains` or of several chains.
        examples: How many examples, evenly spaced, the rows by example look at.

    Returns:
        A table with one row a quantity and the columns `mean`, `rhat` (rank-normalised,
        split), `ess_bulk`, `ess_tail` and `note`.

    Raises:
        ValueError: Fewer than four draws a chain, which cannot be split.

    References:
        Vehtari, Gelman, Simpson, Carpenter, Bürkner 2021, arXiv:1903.08008.
    """
    import pandas as pd

    routing, posterior = dataset(tree, "routing"), dataset(tree, "posterior")
    if posterior.sizes["draw"] < FEWEST_DRAWS:
        raise ValueError(
            f"tree: got {posterior.sizes['draw']} draws a chain, expected at least "
            f"{FEWEST_DRAWS} (evaluate with more draws=)"
        )
    share = dataset(tree, "usage")["share"].transpose("chain", "draw", "site", "module")
    route = posterior["route"].transpose("chain", "draw", "obs", "site").values
    kept = np.linspace(0, route.shape[2] - 1, min(examples, route.shape[2])).astype(int)
    rows = _log_joint(tree)
    for i, site in enumerate(routing["site"].values):
        m = int(routing["n_choices"].values[i])
        rows |= _use(str(site), share.values[:, :, i, :m].astype(np.float64))
        rows |= _by_example(str(site), route[:, :, kept, i], m)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("quantity")


def diagnostics(draws: Draws, *, unmoved: str = "constant") -> Diagnostics:
    """R-hat and effective sample sizes through ArviZ, without its warnings.

    Args:
        draws: (chain, draw, K) draws of K quantities.
        unmoved: The note on quantities all of whose draws are equal.
    """
    chains, half = len(draws), draws.shape[1] // 2
    rhat, bulk, tail = np.full((3, draws.shape[2]), np.nan)
    halves = np.concatenate([draws[:, :half], draws[:, -half:]])  # as split R-hat does
    known = np.isfinite(draws).all((0, 1))
    still = known & (halves == halves[:, :1]).all((0, 1))
    same = known & (draws == draws[:1, :1]).all((0, 1))
    moving = known & ~still
    rhat[still & ~same] = np.inf
    bulk[still & ~same] = tail[still & ~same] = chains
    note = np.full(draws.shape[2], "one chain" if chains == 1 else "", dtype=object)
    note[still] = "stuck"
    note[same] = unmoved
    note[~known] = "not finite"
    if moving.any():
        found = draws[:, :, moving]
        rhat[moving] = _rhat(found)
        bulk[moving], tail[moving] = _ess(found, "bulk"), _ess(found, "tail")
    return Diagnostics(rhat, bulk, tail, note.tolist())


def _log_joint(tree: xr.DataTree) -> dict[str, dict[str, float | str]]:
    lp = dataset(tree, "sample_stats")["lp"].transpose("chain", "draw").values
    return _rows(["log joint"], lp[..., None].astype(np.float64), "constant")


def _use(site: str, share: Draws) -> dict[str, dict[str, float | str]]:
    """A row for each module of a site; `unused` where its share is always 0."""
    names = [f"use of {site} = {m}" for m in range(share.shape[-1])]
    rows = _rows(names, share, "constant")
    for row in rows.values():
        if row["note"] == "constant" and row["mean"] == 0:
            row["note"] = "unused"
    return rows


def _rows(
    names: list[str], draws: Draws, unmoved: str
) -> dict[str, dict[str, float | str]]:
    found = diagnostics(draws, unmoved=unmoved)
    means = draws.mean((0, 1))
    return {
        name: {
            "mean": float(means[i]),
            "rhat": float(found.rhat[i]),
            "ess_bulk": float(found.ess_bulk[i]),
            "ess_tail": float(found.ess_tail[i]),
            "note": found.note[i],
        }
        for i, name in enumerate(names)
    }


def _by_example(
    site: str, route: NDArray[np.integer], n_modules: int
) -> dict[str, dict[str, float | str]]:
    """One row of all indicators of the examples of one site."""
    n = route.shape[2]
    worst, lowest = np.full((2, n_modules, n), np.nan)
    for m in range(n_modules):  # one module at a time: no array of all indicators
        indicators = (route == m).astype(np.float64)
        moving = (indicators != indicators[:1, :1]).any((0, 1))
        if moving.any():  # most are 0 in every draw
            found = diagnostics(indicators[:, :, moving])
            worst[m, moving], lowest[m, moving] = found.rhat, found.ess_bulk
    settled = np.isnan(worst).all(0)
    rhat = np.where(settled, 1.0, np.nanmax(worst, 0, initial=-np.inf))
    note = "one chain" if len(route) == 1 else f"{settled.mean():.0%} settled"
    known = ~np.isnan(lowest)
    row: dict[str, float | str] = {
        "mean": np.nan,
        "rhat": np.nan if settled.all() else float(_upper(rhat)),
        "ess_bulk": float(np.quantile(lowest[known], 1 - QUANTILE))
        if known.any()
        else np.nan,
        "ess_tail": np.nan,
        "note": "settled" if settled.all() and len(route) > 1 else note,
    }
    return {f"{site} by example": row}


def _upper(values: Values) -> float:
    """The quantile over examples, which may be infinite."""
    return float(np.quantile(values, QUANTILE, method="higher"))


def _rhat(draws: Draws) -> Values:
    """(K,) rank-normalised split R-hat, NaN of one chain."""
    if len(draws) == 1:
        return np.full(draws.shape[2], np.nan)
    # of two values, ranks and folding change nothing, but may divide 0 by 0
    binary = np.array([len(np.unique(k)) == 2 for k in np.moveaxis(draws, 2, 0)])
    out = np.empty(draws.shape[2])
    for kind, of_kind in (("split", binary), ("rank", ~binary)):
        if of_kind.any():
            out[of_kind] = arviz_stats().rhat(
                draws[:, :, of_kind], method=kind, chain_axis=0, draw_axis=1
            )
    return out


def _ess(draws: Draws, kind: str) -> Values:
    """(K,) effective sample sizes."""
    prob = TAIL if kind == "tail" else None
    found = arviz_stats().ess(draws, method=kind, prob=prob, chain_axis=0, draw_axis=1)
    return np.asarray(found, dtype=np.float64)


def arviz_stats() -> Any:
    """ArviZ's statistics, imported late."""
    return import_module("arviz_stats")  # late: it takes seconds; and it is not typed
