"""How evenly each method uses the modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ..groups import dataset
from ..runs import Run, by_method, finished
from ..summary import module_use as use_per_site
from .style import (
    REFERENCE,
    Look,
    StyledFigure,
    add_legend,
    add_note,
    method_looks,
    new_figure,
    style,
)

if TYPE_CHECKING:
    import xarray as xr

COLUMNS = 4
SPREAD = 0.6  # methods stand side by side within this much of a rank


def module_use(tree: xr.DataTree) -> StyledFigure:
    """Share of examples that the router sends to each module, one panel a layer.

    Modules are ranked by use within each run: their numbers mean nothing across runs.

    Args:
        tree: A comparison, or one run.

    Raises:
        ValueError: No run finished.
    """
    of = finished(tree)
    first = dataset(next(iter(of.values()))[0].tree, "routing")
    sites = [str(site) for site in first["site"].values]
    ranked = {method: _ranked(found) for method, found in of.items()}
    looks = method_looks(list(by_method(tree)))
    offsets = np.linspace(-0.5, 0.5, len(of) + 2)[1:-1] * SPREAD
    columns = min(COLUMNS, len(sites))
    rows = -(-len(sites) // columns)
    with style():
        title = f"Module use per layer: {tree.attrs.get('task', 'one task')}"
        size = {"width": 2.6 + 3.4 * columns, "height": 1.6 + 2.6 * rows}
        figure = new_figure(title, **size)
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for i, (axes, site) in enumerate(zip(grid.flat, sites, strict=False)):
            for (method, uses), offset in zip(ranked.items(), offsets, strict=True):
                _method(axes, uses[i], float(offset), looks[method], method)
            # room below 0 for the marks of unused modules
            highest = max(float(uses[i].max()) for uses in ranked.values())
            n_modules = int(first["n_choices"].values[i])
            even = f"1/M = {1 / n_modules:.2g}"
            axes.axhline(1 / n_modules, color=REFERENCE, linewidth=1, linestyle=":")
            axes.set(title=f"{site}  ({even} dotted)", ylim=(-0.02 * highest, None))
            axes.set_xlim(0.5, n_modules + 0.5)
            axes.xaxis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1))
            axes.grid(False, axis="x")
        for axes in grid.flat[len(sites) :]:
            axes.remove()
        for axes in grid[:, 0]:
            axes.set_ylabel("share of test examples")
        for axes in list(grid.flat)[: len(sites)][-columns:]:
            axes.set_xlabel("module, ranked by use")
        handles, _ = grid[0, 0].get_legend_handles_labels()
        add_legend(figure, handles)
        add_note(figure, _note(of))
    return figure


def _ranked(found: list[Run]) -> list[NDArray[np.float64]]:
    """Per site (n_runs, n_modules): each run's shares, the largest first."""
    per_run = [use_per_site(dataset(run.tree, "routing")) for run in found]
    sites = zip(*per_run, strict=True)
    return [np.stack([-np.sort(-use) for use in site]) for site in sites]


def _method(
    axes: Axes, uses: NDArray[np.float64], offset: float, look: Look, method: str
) -> None:
    """One method's mean shares, with a bar from the lowest to the highest seed."""
    rank = np.arange(1, uses.shape[1] + 1) + offset
    mean, low, high = uses.mean(0), uses.min(0), uses.max(0)
    # rounding can leave the mean of equal numbers outside them
    below, above = np.maximum(mean - low, 0), np.maximum(high - mean, 0)
    axes.plot(rank, mean, color=look.colour, linewidth=1, alpha=0.35)
    axes.errorbar(
        rank,
        mean,
        yerr=np.stack([below, above]) if len(uses) > 1 else None,
        fmt=look.marker,
        color=look.colour,
        markersize=5,
        elinewidth=1.6,
        label=method,
    )


def _note(of: dict[str, list[Run]]) -> str:
    counts = {len(found) for found in of.values()}
    bars = "" if counts == {1} else " Bar: lowest to highest seed, mark: their mean."
    return f"Modules are ranked within each run: their numbers are arbitrary.{bars}"
