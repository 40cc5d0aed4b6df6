"""Curves over training: a mean over seeds with the range that the seeds span."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from ..groups import dataset
from ..runs import Run
from .shown import n_chains
from .style import Look

if TYPE_CHECKING:
    import xarray as xr

BLOCKS = 100  # a loss is averaged over stretches of 1/100 of training


class Curves(NamedTuple):
    """One quantity of several runs over the same steps."""

    steps: NDArray[np.int64]
    """(n_steps,)"""
    values: NDArray[np.float64]
    """(n_runs, n_steps); NaN where a run has none, which leaves a gap in its line"""


def collect(seeds: Sequence[Run], name: str, *, site: str | None = None) -> Curves:
    """A training quantity of some runs, at the steps that all of them have it.

    Args:
        seeds: Runs of one method.
        name: Variable of the group `training`.
        site: For a variable per site, which one.

    Returns:
        Curves, a row a chain of each run; of no steps where no run has the variable.
    """
    import xarray as xr

    histories = [dataset(run.tree, "training") for run in seeds]
    arrays = [_curve(rows[name], site) for rows in histories if name in rows]
    if not arrays:
        return Curves(np.zeros(0, np.int64), np.zeros((0, 0)))
    both = xr.concat(arrays, dim="run", join="inner").dropna("at", how="all")
    return Curves(both["at"].values, both.values)


def _curve(variable: xr.DataArray, site: str | None) -> xr.DataArray:
    """One run's (run, at) curves, a row a chain, whichever dim the steps had."""
    if site is not None:
        variable = variable.sel(site=site)
    along = "step" if "step" in variable.dims else "log_step"
    return variable.rename({along: "at", "chain": "run"}).drop_vars(
        ["site", "chain", "run"], errors="ignore"
    )


def smooth(curves: Curves) -> tuple[Curves, int]:
    """Means over stretches of steps, and how many steps one stretch has."""
    length = max(1, len(curves.steps) // BLOCKS)
    whole = len(curves.steps) // length * length
    steps = curves.steps[:whole].reshape(-1, length)[:, -1]
    values = curves.values[:, :whole].reshape(len(curves.values), -1, length).mean(-1)
    return Curves(steps, values), length


def draw(axes: Axes, curves: Curves, look: Look, *, label: str) -> None:
    """The mean over runs as a line, lowest to highest run as a band."""
    if not curves.steps.size:
        return
    mean = curves.values.mean(0)
    axes.plot(
        curves.steps,
        mean,
        color=look.colour,
        linestyle=look.dash,
        label=label,
        marker=look.marker if len(mean) == 1 else None,
    )
    if len(curves.values) > 1:
        low, high = curves.values.min(0), curves.values.max(0)
        axes.fill_between(
            curves.steps,
            low,
            high,
            color=look.colour,
            alpha=0.2,
            linewidth=0,
            label=label,
        )


def seeds_note(of: Mapping[str, Sequence[Run]]) -> str:
    """What line and band stand for, with the number of seeds."""
    counts = sorted({n_chains(seeds) for seeds in of.values()})
    if counts == [1]:
        return "One seed per method: no interval."
    number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"Line: mean over {number} seeds. Band: lowest to highest seed."
