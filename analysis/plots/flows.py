"""How examples flow through the layers: from their label to module after module."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from numpy.typing import NDArray

from ..groups import dataset
from ..runs import Run, is_classification, listed
from .shown import best_runs, n_choices, run_name, site_names, true_routes
from .style import (
    REFERENCE,
    StyledFigure,
    add_note,
    module_colours,
    new_figure,
    number,
    readable_on,
    style,
    wrapped,
)

if TYPE_CHECKING:
    import xarray as xr

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

MOST_PATHS = 16  # with more true routes than these, examples start at their label
MOST_VALUES = 12  # a number with more values than these is cut into quantiles
QUANTILES = 5
BOX = 0.16  # width of a box; columns are 1 apart
PAD = 0.16  # space between the boxes of a column, all together
LINE = 0.125  # inches that a line of small print needs
LABEL_BOX = "#bdbdbd"
PANEL_HEIGHT = 3.1


class Column(NamedTuple):
    """What examples are at one stage: a label, or a module."""

    name: str
    codes: Codes
    """(1 or draws, N) which of the values each example has."""
    texts: list[str]
    """One a value."""
    colours: list[str]


def flows(tree: xr.DataTree) -> StyledFigure:
    """Examples from their label to module after module, as wide as their share.

    A ribbon from one column to the next is as wide as the share of examples that go
    from the one to the other, averaged over draws of whole routes from p(a|x,y): the
    joint of the two, not the product of their shares. Examples start at their class or
    target (in fifths where it takes many values), or at their true route where that is
    known. Of a comparison, each method's seed with the highest test log-likelihood is
    shown.

    Args:
        tree: One run, or a comparison.

    Raises:
        ValueError: No run finished, or one site and no targets: nothing flows.
    """
    shown = best_runs(tree)
    stages = [_columns(run.tree) for run in shown]
    wide = 1.6 * len(stages[0]) + 0.4
    across = max(1, min(len(shown), int(13 // wide)))
    rows = -(-len(shown) // across)
    several = len(shown) > 1
    height = PANEL_HEIGHT * (1 if several else 1.3)
    task = str(tree.attrs.get("task", "one task"))
    title = f"Flow from {stages[0][0].name} through the modules: {task}"
    with style():
        figure = new_figure(
            title if several else f"{title}, {run_name(shown[0])}",
            width=max(7.5, wide * across),
            height=1.3 + height * rows,
        )
        grid = figure.subplots(rows, across, squeeze=False)
        for axes, run, columns in zip(grid.flat, shown, stages, strict=False):
            _panel(axes, columns, height - 0.8)
            if several:
                axes.set_title(wrapped(run_name(run), 32))
        for axes in grid.flat[len(shown) :]:
            axes.remove()
        add_note(figure, _note(shown))
    return figure


def joint_shares(a: Codes, b: Codes, n_a: int, n_b: int) -> Floats:
    """(n_a, n_b) share of all draws and examples at each pair of values.

    Args:
        a: (1 or draws, N) values in 0 .. n_a - 1.
        b: (1 or draws, N) values in 0 .. n_b - 1.
        n_a: Values that the first can take.
        n_b: Values that the second can take.
    """
    pairs = (a * n_b + b).ravel()
    counts = np.bincount(pairs, minlength=n_a * n_b).reshape(n_a, n_b)
    return np.asarray(counts / pairs.size)


def _columns(tree: xr.DataTree) -> list[Column]:
    """Where examples start, and a column for each site."""
    dims = ("chain", "draw", "obs", "site")
    route = dataset(tree, "posterior")["route"].transpose(*dims)
    draws = route.values.reshape(-1, *route.shape[2:]).astype(np.int64)
    counts = n_choices(tree)
    sites = [
        Column(name, draws[..., i], [str(m) for m in range(m_all)], colours)
        for i, (name, m_all) in enumerate(zip(site_names(tree), counts, strict=True))
        for colours in [module_colours(max(counts))[:m_all]]
    ]
    start = _start(tree)
    columns = sites if start is None else [start, *sites]
    if len(columns) < 2:
        raise ValueError(
            "tree: got one route site and no targets, expected two columns or more "
            "for something to flow between"
        )
    return columns


def _start(tree: xr.DataTree) -> Column | None:
    """The true route, the class or the target of each example."""
    truth = true_routes(tree)
    if truth is not None:
        paths, codes = np.unique(truth, axis=0, return_inverse=True)
        if len(paths) <= MOST_PATHS:
            texts = ["-".join(map(str, path)) for path in paths.tolist()]
            return _grey("true route", codes.reshape(-1), texts)
    if "observed_data" not in tree.children:
        return None
    y = dataset(tree, "observed_data")["y"].values
    if is_classification(tree):
        names = listed(tree, "class_names")
        values, codes = np.unique(y, return_inverse=True)
        texts = [str(names[c]) if names else str(c) for c in values.tolist()]
        return _grey("class", codes, texts)
    name = "y" if y.ndim == 1 or y.shape[1] == 1 else "y[0]"
    return _grey(name, *_fifths(y.reshape(len(y), -1)[:, 0].astype(np.float64)))


def _fifths(y: Floats) -> tuple[Codes, list[str]]:
    """Which value, or which fifth, each target is; and what these are called."""
    values, codes = np.unique(y, return_inverse=True)
    if len(values) <= MOST_VALUES:
        return codes, [f"{value:g}" for value in values]
    edges = np.quantile(y, np.linspace(0, 1, QUANTILES + 1)[1:-1])
    codes = np.searchsorted(edges, y, side="right")
    low, *rest, high = (number(float(edge), 2) for edge in edges)
    between = [f"{a} to {b}" for a, b in zip([low, *rest], [*rest, high], strict=True)]
    return codes, [f"below {low}", *between, f"above {high}"]


def _grey(name: str, codes: Codes, texts: list[str]) -> Column:
    return Column(name, codes[None], texts, [LABEL_BOX] * len(texts))


def _panel(axes: Axes, columns: Sequence[Column], inches: float) -> None:
    """One run: boxes, and ribbons between them. `inches` is the panel's height."""
    counts = [np.bincount(c.codes.ravel(), minlength=len(c.texts)) for c in columns]
    shares = [np.asarray(count / count.sum()) for count in counts]
    pairs = [
        joint_shares(a.codes, b.codes, len(a.texts), len(b.texts))
        for a, b in pairwise(columns)
    ]
    tops = _tops(shares, pairs)
    for i, column in enumerate(columns):
        _boxes(axes, i, column, shares[i], tops[i], inches)
    for i, joint in enumerate(pairs):
        _ribbons(axes, i, columns[i : i + 2], joint, tops[i : i + 2])
    axes.set(xlim=(-BOX, len(columns) - 1 + BOX), ylim=(1 + PAD + 0.01, -0.01))
    axes.set_xticks(range(len(columns)), [column.name for column in columns])
    axes.set_yticks([])
    axes.tick_params(axis="x", length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)


def _tops(shares: Sequence[Floats], pairs: Sequence[Floats]) -> list[Floats]:
    """Upper edge of each box (y grows downwards); modules stand near their sources."""
    tops = [_stacked(shares[0], np.arange(len(shares[0])))]
    for share, joint in zip(shares[1:], pairs, strict=True):
        centre = tops[-1] + joint.sum(1) / 2
        mean = (centre @ joint) / np.maximum(joint.sum(0), 1e-12)
        tops.append(_stacked(share, np.lexsort([mean, share <= 0])))
    return tops


def _stacked(share: Floats, order: NDArray[np.intp]) -> Floats:
    """Upper edges of boxes one below the other, in order, with even spaces."""
    used = int((share > 0).sum())
    space = PAD / (used - 1) if used > 1 else 0.0
    start = 0.0 if used > 1 else PAD / 2
    tops = np.zeros(len(share))
    for i in order:
        tops[i] = start
        start += share[i] + (space if share[i] > 0 else 0.0)
    return tops


def _boxes(
    axes: Axes, at: int, column: Column, share: Floats, tops: Floats, inches: float
) -> None:
    """A box for each value that some example has, with its name where that fits."""
    per_inch = (1 + PAD) / inches
    first = not at and column.colours[0] == LABEL_BOX
    last_text = -np.inf
    for i in np.argsort(tops, kind="stable"):
        if share[i] <= 0:
            continue
        box = Rectangle(
            (at - BOX / 2, tops[i]),
            BOX,
            share[i],
            facecolor=column.colours[i],
            edgecolor="white",
            linewidth=0.5,
            label=f"{column.name} {column.texts[i]}",
        )
        axes.add_artist(box)
        centre = tops[i] + share[i] / 2
        fits = centre - last_text if first else share[i]
        if fits < LINE * per_inch:
            continue
        last_text = centre
        axes.text(
            at - BOX / 2 - 0.03 if first else at,
            centre,
            wrapped(column.texts[i], 18) if first else column.texts[i],
            ha="right" if first else "center",
            va="center",
            fontsize=9,
            color=REFERENCE if first else readable_on(column.colours[i]),
        )


def _ribbons(
    axes: Axes, at: int, ends: Sequence[Column], joint: Floats, tops: Sequence[Floats]
) -> None:
    """What goes from each value of a column to each of the next."""
    left, right = tops[0].copy(), tops[1].copy()
    by_label = ends[0].colours[0] == LABEL_BOX
    for i in np.argsort(tops[0], kind="stable"):
        for j in np.argsort(tops[1], kind="stable"):
            width = float(joint[i, j])
            if width <= 0:
                continue
            colour = ends[1].colours[j] if by_label else ends[0].colours[i]
            name = f"{ends[0].name} {ends[0].texts[i]} to"
            ribbon = PathPatch(
                _ribbon(at + BOX / 2, left[i], at + 1 - BOX / 2, right[j], width),
                facecolor=colour,
                alpha=0.55,
                linewidth=0,
                label=f"{name} {ends[1].name} {ends[1].texts[j]}",
            )
            axes.add_artist(ribbon)  # add_patch looks for limits, which are given
            left[i] += width
            right[j] += width


def _ribbon(x0: float, y0: float, x1: float, y1: float, width: float) -> Path:
    """A band from the left, upper edge at y0, to the right, upper edge at y1."""
    middle = (x0 + x1) / 2
    points = [
        (x0, y0),
        (middle, y0),
        (middle, y1),
        (x1, y1),
        (x1, y1 + width),
        (middle, y1 + width),
        (middle, y0 + width),
        (x0, y0 + width),
        (x0, y0),
    ]
    curve = [Path.CURVE4] * 3
    return Path(points, [Path.MOVETO, *curve, Path.LINETO, *curve, Path.CLOSEPOLY])


def _note(shown: Sequence[Run]) -> str:
    text = (
        "As wide as the share of test examples, over draws of whole routes from "
        "p(a|x,y). Numbers in boxes are modules."
    )
    best = "Shown is each method's best seed. Module numbers are arbitrary in each run."
    return text if len(shown) == 1 else f"{text}\n{best}"
