"""What is drawn of one example: itself, its posterior over routes, its prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from ..groups import dataset
from ..runs import is_classification, listed
from .shown import n_choices, probabilities, site_names
from .style import NOTE, REFERENCE, module_colours, number, readable_on, wrapped

if TYPE_CHECKING:
    import xarray as xr

Floats = NDArray[np.float64]

WRITTEN = 0.15  # a narrower part of a bar has no room for its module's number
MOST_FEATURES = 10
MOST_CLASSES = 3
MOST_OUTPUTS = 4
FAR = 3.0  # standard deviations at which a feature's bar ends
TRUE, OTHER = "#a0a0a0", "#e0e0e0"  # no hue: hues are modules
LINE = 0.2  # inches of a line of text or a bar
INTERVAL = (0.05, 0.95)


class Part(NamedTuple):
    """One panel of every example."""

    name: str
    height: float
    """Inches."""
    draw: Callable[[Axes, int], None]
    """Draw the example of this row of the data."""
    lines: Sequence[str] = ()
    """Names of the panel's lines, the first on top at height 0."""
    keys: Sequence[Any] = ()
    """What the legend says of it."""
    note: str = ""


def input_part(tree: xr.DataTree, rows: NDArray[np.intp]) -> Part:
    """The example itself: a picture, or its values by name.

    Args:
        tree: One run.
        rows: Which examples are shown: features are chosen for them.

    Raises:
        ValueError: x has other dimensions than (N, feature) or (N, height, width).
    """
    x = dataset(tree, "constant_data")["x"].values.astype(np.float64)
    shape = listed(tree, "image_shape")
    if shape:
        x = x.reshape(len(x), *map(int, shape))
    if x.ndim == 3:
        return _picture_part(x)
    if x.ndim != 2:
        raise ValueError(
            f"x: got shape {x.shape}, expected (N, feature) or (N, height, width)"
        )
    names = [str(name) for name in listed(tree, "feature_names")]
    return _feature_part(x, names or [f"x{i}" for i in range(x.shape[1])], rows)


def _picture_part(pictures: Floats) -> Part:
    """Pictures, dark where x is large."""
    low, high = float(pictures.min()), float(pictures.max())

    def draw(axes: Axes, row: int) -> None:
        axes.imshow(pictures[row], cmap="gray_r", vmin=low, vmax=high)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color="#bbbbbb")
        axes.grid(False)

    return Part("", 1.35, draw)


def _feature_part(x: Floats, names: Sequence[str], rows: NDArray[np.intp]) -> Part:
    """Values by name, with a bar for how unusual each is."""
    spread = x.std(0)
    z = (x - x.mean(0)) / np.where(spread > 0, spread, 1.0)
    order = np.argsort(-np.abs(z[rows]).mean(0), kind="stable")[:MOST_FEATURES]
    chosen = np.sort(order)

    def draw(axes: Axes, row: int) -> None:
        at = np.arange(len(chosen))
        bars = np.clip(z[row, chosen], -FAR, FAR)
        axes.barh(at, bars, height=0.7, color=TRUE, label="features")
        for height, value in enumerate(x[row, chosen]):
            text = f"{value:.3g}".replace("-", "\N{MINUS SIGN}")
            axes.text(2 * FAR, height, text, ha="right", va="center", fontsize=8)
        axes.axvline(0, color=NOTE, linewidth=0.6)
        _bare(axes, (-FAR, 2 * FAR), len(chosen))

    note = f"Bars: distance of a feature from its mean, at most {FAR:g} deviations."
    if len(chosen) < x.shape[1]:
        note += f" The {len(chosen)} of {x.shape[1]} features furthest from it."
    lines = [wrapped(names[i], 20) for i in chosen]
    return Part("", LINE * len(chosen) + 0.1, draw, lines, note=note)


def route_part(tree: xr.DataTree) -> Part:
    """A bar a layer, filled by the posterior over its modules."""
    probs = probabilities(tree, "route_probs")
    sites, counts = site_names(tree), n_choices(tree)
    colours = module_colours(max(counts))

    def draw(axes: Axes, row: int) -> None:
        for site, m_all in enumerate(counts):
            ends = probs[row, site, :m_all].cumsum()
            for m, p in enumerate(probs[row, site, :m_all]):
                start = ends[m] - p
                name = f"module {m}"
                axes.barh(site, p, left=start, height=0.8, color=colours[m], label=name)
                if p >= WRITTEN:
                    axes.text(
                        start + p / 2,
                        site,
                        str(m),
                        ha="center",
                        va="center",
                        fontsize=8,
                        color=readable_on(colours[m]),
                    )
        _bare(axes, (0, 1), len(sites))

    keys = [Patch(color=c, label=f"module {m}") for m, c in enumerate(colours)]
    return Part("p(a|x,y)", LINE * len(sites) + 0.1, draw, sites, keys)


def prediction_part(tree: xr.DataTree) -> Part | None:
    """What is predicted, and the truth; None of a program that only scores."""
    y = None
    if "observed_data" in tree.children:
        y = dataset(tree, "observed_data")["y"].values
    if y is None or not {"predictive_probs", "predictive_mean"} & set(tree.children):
        return None
    if is_classification(tree):
        probs = dataset(tree, "predictive_probs")["y"].transpose("obs", "klass")
        names = [str(name) for name in listed(tree, "class_names")]
        return _class_part(probs.values, y, names)
    return _number_part(tree, y.reshape(len(y), -1))


def _class_part(probs: Floats, y: NDArray[np.generic], names: Sequence[str]) -> Part:
    """The most probable classes, the true one among them."""
    count = min(MOST_CLASSES, probs.shape[1])

    def draw(axes: Axes, row: int) -> None:
        classes = np.argsort(-probs[row], kind="stable")[:count]
        if y[row] not in classes:
            classes[-1] = y[row]
        for height, c in enumerate(classes.tolist()):
            is_true = c == y[row]
            p = float(probs[row, c])
            label = f"class {c}"
            axes.barh(
                height, p, height=0.8, color=TRUE if is_true else OTHER, label=label
            )
            name = names[c] if names else str(c)
            text = (
                f"{name} (true)  {_percent(p)}" if is_true else f"{name}  {_percent(p)}"
            )
            axes.text(
                0.02,
                height,
                text,
                va="center",
                fontsize=8,
                weight="bold" if is_true else "normal",
            )
        _bare(axes, (0, 1), count)

    return Part("p(y|x)", LINE * count + 0.1, draw)


def _percent(p: float) -> str:
    """A probability that is not quite 0 or 1 is said not to be."""
    if p < 0.005:
        return "<1%"
    return ">99%" if p > 0.995 else f"{p:.0%}"


def _number_part(tree: xr.DataTree, y: Floats) -> Part:
    """Predictive mean and interval of each output, and the true value."""
    mean = dataset(tree, "predictive_mean")["y"].values.reshape(len(y), -1)
    draws = dataset(tree, "posterior_predictive")["y"].transpose("chain", "draw", ...)
    values = draws.values.reshape(-1, *y.shape)
    low, high = np.quantile(values, INTERVAL, axis=0)
    count = min(MOST_OUTPUTS, y.shape[1])
    ends = (float(min(low.min(), y.min())), float(max(high.max(), y.max())))

    def draw(axes: Axes, row: int) -> None:
        at = np.arange(count)
        axes.hlines(
            at, low[row, :count], high[row, :count], color=NOTE, label="interval"
        )
        axes.plot(mean[row, :count], at, "o", color=REFERENCE, ms=5, label="mean")
        axes.plot(y[row, :count], at, "x", color="#D55E00", ms=6, mew=2, label="truth")
        _bare(axes, ends, count)
        axes.set_xticks(ends, [number(end, 1) for end in ends], fontsize=8)

    keys = [
        Line2D([], [], color=REFERENCE, marker="o", linestyle="", label="mean of y"),
        Line2D([], [], color=NOTE, label="90% of draws"),
        Line2D(
            [], [], color="#D55E00", marker="x", mew=2, linestyle="", label="true y"
        ),
    ]
    lines = ["y"] if y.shape[1] == 1 else [f"y[{i}]" for i in range(count)]
    return Part("p(y|x)", LINE * count + 0.35, draw, lines, keys)


def _bare(axes: Axes, ends: tuple[float, float], lines: int) -> None:
    """Lines from the top, without a frame."""
    axes.set(xlim=ends, ylim=(lines - 0.5, -0.5), xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=REFERENCE, length=0)
