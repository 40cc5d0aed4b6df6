"""How sure the router becomes, and how evenly it uses the modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from ..groups import dataset
from ..runs import Run, finished
from .curves import collect, draw, seeds_note
from .style import REFERENCE, Look, StyledFigure, add_note, new_figure, style

if TYPE_CHECKING:
    import xarray as xr

COLUMNS = 4
LOOKS = {
    "h_b": ("H(A): how evenly modules are used", Look("#0072B2", "o", "-")),
    "h_a": ("H(A|X): how unsure the router is", Look("#D55E00", "s", "--")),
}


def entropies(tree: xr.DataTree, *, site: str | None = None) -> StyledFigure:
    """H(A) and H(A|X) over training, one panel a method.

    The ideal is H(A) at log M and H(A|X) near 0: their distance is what a route tells
    about its input, I(A;X).

    Args:
        tree: a comparison, or one run, with `training` groups.
        site: one route site; the mean over all of them if None.

    Raises:
        ValueError: no run finished, none kept its history, or there is no such site.
    """
    by_method = finished(tree)
    first = next(iter(by_method.values()))[0]
    highest = _log_choices(first, site)
    columns = min(COLUMNS, len(by_method))
    rows = -(-len(by_method) // columns)
    where = "mean over layers" if site is None else site
    with style():
        task = tree.attrs.get("task", "one task")
        title = f"Entropy of routing while training: {task}"
        figure = new_figure(title, width=2.4 + 2.5 * columns, height=1.6 + 2.6 * rows)
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, (method, of_method) in zip(grid.flat, by_method.items(), strict=False):
            _panel(axes, of_method, site, highest)
            axes.set(title=method, ylim=(-0.03 * highest, 1.12 * highest))
        for axes in grid.flat[len(by_method) :]:
            axes.remove()
        for axes in grid[:, 0]:
            axes.set_ylabel(f"entropy, {where} (nats)")
        for column in range(columns):
            below = [axes for axes in grid[:, column] if axes.figure is not None]
            below[-1].set_xlabel("step")
            below[-1].tick_params(labelbottom=True)
        handles = grid[0, 0].get_lines()
        figure.legend(handles=handles, loc="outside lower left", ncols=3)
        add_note(figure, seeds_note(by_method))
    return figure


def _panel(axes: Axes, of_method: list[Run], site: str | None, highest: float) -> None:
    """One method's two curves under the line of an even use."""
    for name, (label, look) in LOOKS.items():
        found = name if site is None else f"{name}_layers"
        draw(axes, collect(of_method, found, site=site), look, label=label)
    axes.axhline(
        highest,
        color=REFERENCE,
        linewidth=1,
        linestyle=":",
        label=f"log M = {highest:.2f}: all modules alike",
    )


def _log_choices(run: Run, site: str | None) -> float:
    """Log M of a site, or its mean over sites."""
    choices = dataset(run.tree, "routing")["n_choices"]
    if site is None:
        return float(np.log(choices.values).mean())
    if site not in choices["site"].values:
        raise ValueError(
            f"site: got {site!r}, expected one of {list(choices['site'].values)}"
        )
    return float(np.log(choices.sel(site=site)))
