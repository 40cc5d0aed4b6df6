"""Which module took over which true function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from ..matching import UNMATCHED, match_modules, one_hot
from ..truth import most_probable
from .shown import (
    best_runs,
    n_choices,
    probabilities,
    run_name,
    site_names,
    true_routes,
)
from .style import (
    StyledFigure,
    add_note,
    name_row,
    new_figure,
    readable_on,
    style,
)

if TYPE_CHECKING:
    import xarray as xr

Floats = NDArray[np.float64]

MOST_WRITTEN = 8  # with more modules than these no number fits into a cell


class Matched(NamedTuple):
    """One site's modules against the true ones."""

    shares: Floats
    """(R, M) of each true module's examples, the posterior mass on each found one, the
    columns in the order of `modules`; a row is NaN where no example has that truth."""
    modules: list[int]
    """(M,) found modules, those matched to true module 0, 1, … first."""
    accuracy: float
    """Share of examples whose most probable module is the one matched to theirs."""


def confusion(tree: xr.DataTree) -> StyledFigure:
    """True module against found module, after the best one-to-one matching.

    A row is a true module: where the posterior p(a_l|x,y) puts its examples, in shares
    that sum to one. Modules are matched to true ones site by site, since their numbers
    are arbitrary; recovered routes are a diagonal of ones. Of a comparison, each
    method's seed with the highest test log-likelihood is shown.

    Args:
        tree: One run, or a comparison, of a task whose true routes are known.

    Raises:
        ValueError: No run finished, or the true routes are not known.
    """
    shown = best_runs(tree)
    sites = site_names(shown[0].tree)
    found = [_matched_sites(run.tree) for run in shown]
    several = len(shown) > 1
    task = str(tree.attrs.get("task", "one task"))
    title = f"True modules and the modules found: {task}"
    widest = max(max(m.shares.shape) for line in found for m in line)
    side = 2.2 if widest <= MOST_WRITTEN else 3.2
    with style():
        figure = new_figure(
            title if several else f"{title}, {run_name(shown[0])}",
            width=max(7.0, 2.4 + (side + 0.5) * len(sites)),
            height=1.5 + (side + 0.5) * len(shown),
        )
        figure.set_layout_engine("compressed")  # the panels are squares
        grid = figure.subplots(len(shown), len(sites), squeeze=False)
        for line, matches, run in zip(grid, found, shown, strict=True):
            for axes, site, matched in zip(line, sites, matches, strict=True):
                _panel(axes, matched)
                axes.set_title(f"{site}: {matched.accuracy:.0%} right")
            line[0].set_ylabel("true module")
            if several:
                name_row(line[0], run_name(run))
        for axes in grid[-1]:
            axes.set_xlabel("module found, in matched order")
        figure.colorbar(
            grid[0, 0].images[0],
            ax=grid,
            shrink=0.8 / len(shown) ** 0.5,
            label="share of a true module's examples",
        )
        add_note(figure, _note(several))
    return figure


def matched_shares(truth: NDArray[np.int64], probs: Floats) -> Matched:
    """Where the posterior puts the examples of each true module.

    Args:
        truth: (N,) true modules.
        probs: (N, M) posterior over the modules found.
    """
    true = one_hot(truth, int(truth.max()) + 1)  # (N, R)
    modes = most_probable(probs[:, None])[:, 0]
    labels = match_modules(true, one_hot(modes, probs.shape[1]))
    last = true.shape[1]  # unmatched modules stand behind all others
    order = np.argsort(np.where(labels == UNMATCHED, last, labels), kind="stable")
    with np.errstate(invalid="ignore"):
        shares = (true.T @ probs) / true.sum(0)[:, None]
    accuracy = float((labels[modes] == truth).mean())
    return Matched(shares[:, order], order.tolist(), accuracy)


def _matched_sites(tree: xr.DataTree) -> list[Matched]:
    """Every site of a run."""
    truth = true_routes(tree)
    if truth is None:
        raise ValueError(
            "tree: got no true routes for its sites, expected constant_data to have "
            "routes_true (obs, site): nobody knows them for real data"
        )
    probs = probabilities(tree, "route_probs")
    return [
        matched_shares(truth[:, i], probs[:, i, :m])
        for i, m in enumerate(n_choices(tree))
    ]


def _panel(axes: Axes, matched: Matched) -> None:
    """One site's table as colours, with numbers where they fit."""
    shares = matched.shares
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="cividis", aspect="equal")
    axes.set_xticks(*_ticks(matched.modules))
    axes.set_yticks(*_ticks(range(len(shares))))
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    if max(shares.shape) > MOST_WRITTEN:
        return
    colours = image.to_rgba(shares)  # (R, M, 4)
    for (row, column), share in np.ndenumerate(shares):
        if np.isfinite(share):
            axes.text(
                column,
                row,
                f"{share:.2f}",
                ha="center",
                va="center",
                fontsize=9,
                color=readable_on(colours[row, column, :3]),
            )


def _ticks(modules: Sequence[int]) -> tuple[list[int], list[str]]:
    """Ticks with the modules' numbers, every second or third where there are many."""
    every = -(-len(modules) // 16)
    at = list(range(0, len(modules), every))
    return at, [str(modules[i]) for i in at]


def _note(several: bool) -> str:
    text = "A row sums to one: the posterior mass of a true module's test examples."
    return f"{text}\nShown is each method's best seed." if several else text
