"""Which modules handle which examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch, StepPatch
from numpy.typing import NDArray

from ..groups import dataset
from ..runs import Run, is_classification, listed
from .shown import best_runs, site_names, true_routes
from .style import (
    StyledFigure,
    add_note,
    module_colours,
    new_figure,
    number,
    style,
    wrapped,
)

if TYPE_CHECKING:
    import xarray as xr

MOST_GROUPS = 12  # a number with more values than this is sorted by, not grouped by
MOST_TICKS = 20
MOST_EXAMPLES = 2000  # more columns than a screen has


class Sort(NamedTuple):
    """What the examples are sorted by."""

    name: str
    values: NDArray[np.generic]
    """(N,)"""
    labels: dict[float, str]
    """Text of each value where it names a group; empty where values are numbers."""


def posterior_routes(
    tree: xr.DataTree, *, feature: int | None = None, output: int = 0
) -> StyledFigure:
    """Posterior p(a_l|x,y) of each example: a column an example, a colour a module.

    Examples are grouped by their true module where that is known, else sorted by class
    or target; within a group by their most probable route. Of a comparison, each
    method's seed with the highest test log-likelihood is shown, one row a method.

    Args:
        tree: One run, or a comparison.
        feature: Sort by this input feature instead.
        output: Sort by this target where there are several.

    Raises:
        ValueError: No run finished, or no such feature or output.
    """
    shown = best_runs(tree)
    routings = [dataset(run.tree, "routing") for run in shown]
    sites = site_names(shown[0].tree)
    sorts = [_sorts(run.tree, len(sites), feature, output) for run in shown]
    first = sorts[0][0]
    n_modules = max(int(routing["n_choices"].values.max()) for routing in routings)
    colours = module_colours(n_modules)
    # many runs: a row each, a column a site; one run: a row each site, to compare them
    several = len(shown) > 1
    rows, columns = (len(shown), len(sites)) if several else (len(sites), 1)
    task = str(tree.attrs.get("task", "one task"))
    title = f"Posterior over modules by {first.name}: {task}"
    with style():
        figure = new_figure(
            title if several else f"{title}, {shown[0].method}",
            width=max(10.7, 2.7 + 3.2 * columns),
            height=1.5 + 1.35 * rows,
        )
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        panels = grid if several else grid.T  # (runs, sites)
        for routing, by_site, line in zip(routings, sorts, panels, strict=True):
            for site, axes in enumerate(line):
                _panel(axes, routing, site, by_site[site], colours)
        orders = [sort.values for by_site in sorts for sort in by_site]
        if all(np.array_equal(orders[0], order) for order in orders):
            for axes in grid[:-1].flat:
                axes.tick_params(labelbottom=False)
        how = "grouped" if first.labels else "sorted"
        for axes in grid[-1]:
            axes.set_xlabel(f"test examples, {how} by {first.name}")
        names = [f"{wrapped(run.method)}\n{run.seed}" for run in shown]
        _name_panels(panels, names if several else [], sites)
        _legend(figure, colours)
        add_note(figure, _note(shown))
    return figure


def _legend(figure: StyledFigure, colours: list[str]) -> None:
    """Which colour is which module."""
    figure.legend(
        handles=[
            Patch(color=colour, label=f"module {m}") for m, colour in enumerate(colours)
        ],
        loc="outside right upper",
        ncols=1 + (len(colours) - 1) // 16,
    )


def _sorts(
    tree: xr.DataTree, n_sites: int, feature: int | None, output: int
) -> list[Sort]:
    """What to sort the examples of each site's panel by."""
    truth = true_routes(tree)
    if feature is not None or truth is None:
        return [_sort(tree, feature, output)] * n_sites
    return [
        Sort("true module", column, {m: str(m) for m in np.unique(column).tolist()})
        for column in truth.T
    ]


def _sort(tree: xr.DataTree, feature: int | None, output: int) -> Sort:
    """What to sort examples by, from the run's data."""
    if feature is not None:
        x = dataset(tree, "constant_data")["x"].values
        if x.ndim != 2 or not 0 <= feature < x.shape[1]:
            raise ValueError(f"feature: got {feature}, expected one of x {x.shape}")
        names = listed(tree, "feature_names")
        name = str(names[feature]) if names else f"feature {feature}"
        return Sort(name, x[:, feature], {})
    if "observed_data" not in tree.children:
        raise ValueError(
            "tree: got no targets to sort by, expected feature= to be given"
        )
    y = dataset(tree, "observed_data")["y"].values
    if is_classification(tree):
        names = listed(tree, "class_names")
        labels = {c: str(names[c]) if names else str(c) for c in np.unique(y).tolist()}
        return Sort("class", y, labels)
    name = "y"
    if y.ndim == 2:
        if not 0 <= output < y.shape[1]:
            raise ValueError(f"output: got {output}, expected one of y {y.shape}")
        name = "y" if y.shape[1] == 1 else f"y[{output}]"
        y = y[:, output]
    found = np.unique(y).tolist()
    few = len(found) <= MOST_GROUPS
    return Sort(name, y, {v: f"{v:g}" for v in found} if few else {})


def _panel(
    axes: Axes, routing: xr.Dataset, site: int, sort: Sort, colours: list[str]
) -> None:
    """One site's probabilities as coloured columns that fill the height."""
    probs = routing["route_probs"].values.astype(np.float64)
    order = _order(sort, probs)
    top = probs[order, site].cumsum(-1)
    edges = np.linspace(0, len(sort.values), len(order) + 1)
    below = np.zeros(len(order))
    for m in range(int(routing["n_choices"].values[site])):
        stairs = StepPatch(
            top[:, m],
            edges,
            baseline=below,  # type: ignore[arg-type]  # stubs know of one number
            fill=True,
            color=colours[m],
            linewidth=0,
            label=f"module {m}",
        )
        # not add_patch, which looks at every corner for limits that are given below
        axes.add_artist(stairs)
        below = top[:, m]
    axes.set(xlim=(0, len(sort.values)), ylim=(0, 1), yticks=[0, 0.5, 1])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    _ticks(axes, sort)


def _order(sort: Sort, probs: NDArray[np.float64]) -> NDArray[np.int64]:
    """(n_shown,) examples by value, then by most probable route, then by its weight."""
    best = probs.argmax(-1)
    keys = [probs.max(-1).prod(-1), *best.T[::-1], sort.values]  # the last counts most
    order = np.lexsort(keys)
    if len(order) > MOST_EXAMPLES:
        order = order[np.linspace(0, len(order) - 1, MOST_EXAMPLES).astype(int)]
    return order


def _ticks(axes: Axes, sort: Sort) -> None:
    """A label under each group with lines between groups, or values at quantiles."""
    values = np.sort(sort.values)
    if not sort.labels:
        at = np.linspace(0, len(values) - 1, 6).astype(int)
        axes.set_xticks(at + 0.5, [number(float(values[i]), 2) for i in at])
        return
    starts = np.searchsorted(values, list(sort.labels))
    ends = np.append(starts[1:], len(values))
    every = -(-len(starts) // MOST_TICKS)
    texts = list(sort.labels.values())[::every]
    longest = max(len(text) for text in texts)
    crowded = longest * len(texts) > 60
    axes.set_xticks(
        ((starts + ends) / 2)[::every],
        texts,
        rotation=40 if crowded else 0,
        ha="right" if crowded else "center",
    )
    axes.tick_params(axis="x", length=0)
    for start in starts[1:]:
        axes.axvline(float(start), color="white", linewidth=1.4)


def _name_panels(
    panels: NDArray[np.object_], rows: list[str], sites: list[str]
) -> None:
    """Sites above panels; methods left of rows where there are several."""
    for line in panels if not rows else panels[:1]:
        for axes, site in zip(line, sites, strict=True):
            axes.set_title(site)
    if not rows:
        for axes in panels[0]:
            axes.set_ylabel("p(a|x,y)")
    for line, method in zip(panels, rows, strict=False):
        line[0].set_ylabel(method, rotation=0, ha="right", va="center", weight="bold")


def _note(shown: list[Run]) -> str:
    column = "Each column is one test example, filled by its posterior p(a|x,y)."
    if len(shown) == 1:
        return column
    return (
        f"{column} Shown is each method's best seed.\n"
        "Module numbers are arbitrary in each run: compare patterns, not colours."
    )
