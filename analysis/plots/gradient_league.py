"""How good each method's gradient is, among those of the same objective."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from .style import (
    NOTE,
    REFERENCE,
    StyledFigure,
    add_note,
    new_figure,
    style,
    wrapped,
)

if TYPE_CHECKING:
    import pandas as pd

COLOURS = {"unbiased": "#0072B2", "biased": "#D55E00", "unclear": "#777777"}
LABELS = {
    "unbiased": "no bias found",
    "biased": "biased",
    "unclear": "more draws needed",
}
HEADINGS = {
    "elbo": "router ELBO",
    "elbo, of its guide": "ELBO of its own guide",
    "marginal": "marginal likelihood",
}
PANELS = (
    (
        "bias",
        "Bias",
        "distance of the mean draw from the\nexact gradient, relative to it",
    ),
    ("variance", "Variance", "of one draw, summed over coordinates,\nrelative to |g|²"),
    (
        "relative_cost",
        "Variance x time",
        "relative to plain score function\n(left of the line: better)",
    ),
)
DECADES = 8  # smaller values than this below the largest stand at the edge
LEAST_BIAS = 1e-5


def gradient_league(table: pd.DataFrame, *, router: bool = False) -> StyledFigure:
    """Bias, variance and variance x time of each method, on logarithmic axes.

    Methods stand under the objective that their gradients are measured against, the
    cheapest on top: only those under one heading can be compared. What is zero stands
    at the left edge.

    Args:
        table: What :func:`latentroute.analysis.gradient_report` gives.
        router: The router's parameters alone instead of all.

    Raises:
        ValueError: If the table has no rows.
    """
    if not len(table):
        raise ValueError("the table has no methods to draw")
    prefix = "router_" if router else ""
    rows, labels, headings = _rows(table)
    what = "the router's parameters" if router else "all parameters"
    with style():
        title = f"Gradients of {what} against brute force"
        height = 2.3 + 0.34 * (len(rows) + len(headings))
        figure = new_figure(title, width=13, height=height)
        panels = figure.subplots(1, len(PANELS), sharey=True, squeeze=False)[0]
        for axes, (name, heading, unit) in zip(panels, PANELS, strict=True):
            _panel(axes, table, rows, name, prefix)
            axes.set(title=heading, xlabel=unit)
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="y", visible=False)
        panels[-1].axvline(1, color=REFERENCE, linewidth=1, linestyle=":")
        panels[-1].set_xlim(right=max(2.0, panels[-1].get_xlim()[1]))
        last = max([*rows, *headings])
        panels[0].set_yticks([*rows, *headings], [*labels, *headings.values()])
        _embolden(panels[0], len(rows))
        panels[0].set_ylim(last + 0.7, -0.7)
        seen = [v for v in COLOURS if (table[f"{prefix}verdict"] == v).any()]
        figure.legend(handles=_keys(seen), loc="outside right upper")
        add_note(figure, _note(table))
    return figure


def _rows(table: pd.DataFrame) -> tuple[list[int], list[str], dict[int, str]]:
    """Heights of the methods, their names, and the headings by height."""
    rows, labels, headings, height = [], [], {}, 0
    previous = None
    for method, target in zip(table["method"], table["target"], strict=True):
        if target != previous:
            name = HEADINGS.get(str(target), str(target))
            headings[height] = wrapped(f"objective: {name}", 32)
            height, previous = height + 1, target
        rows.append(height)
        labels.append(wrapped(str(method), 32))
        height += 1
    return rows, labels, headings


def _panel(
    axes: Axes, table: pd.DataFrame, rows: Sequence[int], name: str, prefix: str
) -> None:
    """One quantity of every method."""
    values, errors = _values(table, name, prefix)
    positive = values[np.isfinite(values) & (values > 0)]
    top = positive.max() if positive.size else 1.0
    floor = LEAST_BIAS if name == "bias" else top / 10**DECADES
    least = positive[positive > floor].min() if (positive > floor).any() else top
    edge = least / 10
    verdicts = table[f"{prefix}verdict"]
    for row, value, error, verdict in zip(rows, values, errors, verdicts, strict=True):
        if not np.isfinite(value):
            axes.annotate("no number", (edge, row), va="center", color=NOTE, fontsize=8)
            continue
        colour = COLOURS[verdict]
        if value + error <= floor:
            axes.plot(edge, row, "<", color=colour, markersize=7, clip_on=False)
            axes.annotate(
                "0", (edge, row), (7, 0), textcoords="offset points", va="center"
            )
            continue
        shown = max(value, edge)
        if error:
            axes.plot([shown, value + error], [row, row], color=colour, linewidth=1.6)
        if value > edge:
            axes.plot(value, row, "o", color=colour, markersize=6)
    axes.set_xscale("log")
    axes.set_xlim(edge / 1.5, max(top, float(np.nanmax(values + errors))) * 2)


def _values(
    table: pd.DataFrame, name: str, prefix: str
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """What is drawn, and how far its bar goes to the right."""
    none = np.zeros(len(table))
    if name == "bias":
        value = table[f"{prefix}bias"].to_numpy(float)
        return value, table[f"{prefix}bias_error"].to_numpy(float)
    if name == "variance":
        norm = table[f"{prefix}squared_norm"].to_numpy(float)
        return table[f"{prefix}variance"].to_numpy(float) / norm, none
    return table[f"{prefix}relative_cost"].to_numpy(float), none


def _embolden(axes: Axes, n_rows: int) -> None:
    """Headings in bold."""
    for label in axes.get_yticklabels()[n_rows:]:
        label.set_fontweight("bold")
        label.set_color(REFERENCE)


def _keys(verdicts: Sequence[str]) -> list[Line2D]:
    return [
        Line2D([], [], color=COLOURS[v], marker="o", linewidth=1.6, label=LABELS[v])
        for v in verdicts
    ]


def _note(table: pd.DataFrame) -> str:
    """What was measured."""
    draws = int(table["draws"].max())
    about = f"At most {draws:,} draws a method."
    if "n_routes" in table.attrs:
        about += (
            f" {table.attrs['n_routes']} routes, {table.attrs['n_examples']} examples."
        )
    return f"{about} Bars: one standard error. Compare within one objective only."
