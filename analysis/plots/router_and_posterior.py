"""How much the target moves the route: the router against the posterior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from .shown import best_runs, n_choices, probabilities, run_name, site_names
from .style import (
    REFERENCE,
    StyledFigure,
    add_note,
    method_looks,
    name_row,
    new_figure,
    number,
    style,
)

if TYPE_CHECKING:
    import xarray as xr

Floats = NDArray[np.float64]

BINS = 20
FAINTEST = 0.2  # the scale's white: one pair must still be seen on it
MOVES = np.geomspace(1e-4, 10, 121)
"""Nats: where the shares of moved examples are drawn."""


def router_and_posterior(tree: xr.DataTree) -> StyledFigure:
    """Posterior p(a_l|x,y) against router p(a_l|x), a panel a layer.

    A cell counts pairs of an example and a module: on the diagonal the target told
    nothing new about the route, above it the target spoke for the module. The last
    panel of a row has, for each layer, the share of examples whose posterior is
    further than so many nats from the router, KL(p(a_l|x,y) || p(a_l|x)); its mean
    estimates the conditional mutual information I(A_l;Y|X) where the model is right.
    Of a comparison, each method's seed with the highest test log-likelihood is shown.

    Args:
        tree: One run, or a comparison.

    Raises:
        ValueError: No run finished.
    """
    shown = best_runs(tree)
    sites = site_names(shown[0].tree)
    several = len(shown) > 1
    task = str(tree.attrs.get("task", "one task"))
    title = f"What the target adds to the router's choice: {task}"
    with style():
        figure = new_figure(
            title if several else f"{title}, {run_name(shown[0])}",
            width=(2.6 if several else 1.4) + 2.8 * (len(sites) + 1),
            height=1.6 + 2.0 * len(shown),
        )
        figure.set_layout_engine("compressed")  # the panels are squares
        grid = figure.subplots(len(shown), len(sites) + 1, squeeze=False)
        for line, run in zip(grid, shown, strict=True):
            posterior = probabilities(run.tree, "route_probs")
            router = probabilities(run.tree, "router_probs")
            moved = divergence(posterior, router)
            for i, axes in enumerate(line[:-1]):
                m = n_choices(run.tree)[i]
                _heat_map(axes, router[:, i, :m], posterior[:, i, :m])
                axes.set_title(f"{sites[i]}: mean KL {number(moved[:, i].mean(), 3)}")
            _moved(line[-1], moved, sites)
            if several:
                name_row(line[0], run_name(run))
        _name_axes(grid)
        _colour_bar(figure, grid)
        figure.legend(handles=grid[0, -1].get_lines(), loc="outside right upper")
        best = " Shown is each method's best seed." if several else ""
        add_note(figure, f"KL in nats. Dashed: y says nothing about the route.{best}")
    return figure


def divergence(posterior: Floats, router: Floats) -> Floats:
    """KL(posterior || router) in nats over the last axis.

    Args:
        posterior: (..., M) probabilities.
        router: (..., M) probabilities; infinity where one is 0 and the posterior's not.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(posterior > 0, posterior * np.log(posterior / router), 0.0)
    # float32 rows sum to one within 1e-7 only
    return np.asarray(np.maximum(terms.sum(-1), 0.0))


def _heat_map(axes: Axes, router: Floats, posterior: Floats) -> None:
    """How many (example, module) pairs have which two probabilities."""
    edges = np.linspace(0, 1, BINS + 1)
    at_x, at_y = np.clip(router.ravel(), 0, 1), np.clip(posterior.ravel(), 0, 1)
    counts, _, _ = np.histogram2d(at_x, at_y, bins=[edges, edges])
    mesh = np.ma.masked_equal(counts.T, 0)  # (posterior, router)
    axes.pcolormesh(edges, edges, mesh, cmap="Blues")
    axes.plot([0, 1], [0, 1], color=REFERENCE, linewidth=1, linestyle="--")
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    axes.set_box_aspect(1)
    axes.grid(False)


def _moved(axes: Axes, moved: Floats, sites: Sequence[str]) -> None:
    """Share of examples whose KL is above x, a line a site."""
    for i, (site, look) in enumerate(method_looks(sites).items()):
        share = (moved[:, i, None] > MOVES).mean(0)
        axes.plot(MOVES, share, color=look.colour, linestyle=look.dash, label=site)
    axes.set_xscale("log")
    axes.set(xlim=(MOVES[0], MOVES[-1]), ylim=(-0.02, 1.02))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_box_aspect(1)


def _name_axes(grid: Any) -> None:
    """What the axes are, at the edges of the grid alone."""
    for axes in grid[:-1].flat:
        axes.tick_params(labelbottom=False)
    for axes in grid[:, 1:-1].flat:
        axes.tick_params(labelleft=False)
    for axes in grid[:, 0]:
        axes.set_ylabel("posterior p(a|x,y)")
    for axes in grid[:, -1]:
        axes.set_ylabel("share of test examples")
    for axes in grid[-1, :-1]:
        axes.set_xlabel("router p(a|x)")
    grid[0, -1].set_title("examples that y moves")
    grid[-1, -1].set_xlabel("by more than … nats (KL)")


def _colour_bar(figure: StyledFigure, grid: Any) -> None:
    """One scale of counts for all heat maps."""
    meshes = [axes.collections[0] for axes in grid[:, :-1].flat]
    most = max(float(mesh.get_array().max()) for mesh in meshes)
    norm = LogNorm(FAINTEST, max(most, 2.0))
    for mesh in meshes:
        mesh.set_norm(norm)
    bar = figure.colorbar(
        meshes[0],
        ax=grid,
        label="(example, module) pairs",
        shrink=0.8 / len(grid) ** 0.5,
        aspect=16,
    )
    bar.ax.set_ylim(1, None)
