"""How evenly each method uses the modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ..runs import Run, by_method, finished
from .shown import chain_probabilities, n_chains, n_choices, site_names
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
Z = 1.96  # standard errors of a 95% interval


class Use(NamedTuple):
    """How often each module of a site is used, (M,), the most used first."""

    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def module_use(tree: xr.DataTree) -> StyledFigure:
    """Share of examples that the router sends to each module, one panel a layer.

    Modules are ranked by use within each run: their numbers mean nothing across runs.
    Bars span the seeds (or chains); of one seed, the 95% interval that so many test
    examples leave. An even use is the dotted line.

    Args:
        tree: A comparison, or one run.

    Raises:
        ValueError: No run finished.
    """
    of = finished(tree)
    first = next(iter(of.values()))[0].tree
    sites = site_names(first)
    ranked = {method: _uses(found) for method, found in of.items()}
    looks = method_looks(list(by_method(tree)))
    # of all panels, which share it; room below 0 for the marks of unused modules
    top = max(float(use.high.max()) for uses in ranked.values() for use in uses)
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
            n_modules = n_choices(first)[i]
            even = f"1/M = {1 / n_modules:.2g}"
            axes.axhline(1 / n_modules, color=REFERENCE, linewidth=1, linestyle=":")
            axes.set(title=f"{site}  ({even} dotted)", ylim=(-0.02 * top, 1.05 * top))
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


def _uses(found: list[Run]) -> list[Use]:
    """Per site the shares of every seed and chain, the largest first."""
    of_chains = [
        probs
        for run in found
        for probs in chain_probabilities(run.tree, "router_probs")
    ]
    uses = []
    for site, m in enumerate(n_choices(found[0].tree)):
        probs = [chain[:, site, :m] for chain in of_chains]  # (N, m) each
        shares = np.stack([-np.sort(-p.mean(0)) for p in probs])
        if len(probs) > 1:
            uses.append(Use(shares.mean(0), shares.min(0), shares.max(0)))
            continue
        order = np.argsort(-probs[0].mean(0), kind="stable")
        error = Z * probs[0].std(0)[order] / np.sqrt(len(probs[0]))
        low, high = np.maximum(shares[0] - error, 0), np.minimum(shares[0] + error, 1)
        uses.append(Use(shares[0], low, high))
    return uses


def _method(axes: Axes, use: Use, offset: float, look: Look, method: str) -> None:
    """One method's mean shares with their bars."""
    mean, low, high = use
    rank = np.arange(1, len(mean) + 1) + offset
    # rounding can leave the mean of equal numbers outside them
    below, above = np.maximum(mean - low, 0), np.maximum(high - mean, 0)
    axes.plot(rank, mean, color=look.colour, linewidth=1, alpha=0.35)
    axes.errorbar(
        rank,
        mean,
        yerr=np.stack([below, above]),
        fmt=look.marker,
        color=look.colour,
        markersize=5,
        elinewidth=1.6,
        label=method,
    )


def _note(of: dict[str, list[Run]]) -> str:
    counts = {n_chains(found) for found in of.values()}
    bars = "Bar: lowest to highest seed, mark: their mean."
    if min(counts) == 1:
        one = "the 95% interval of the share, from the number of test examples."
        bars = f"Bar: {one}" if counts == {1} else f"{bars} Of one seed: {one}"
    return f"Modules are ranked within each run: their numbers are arbitrary.\n{bars}"
