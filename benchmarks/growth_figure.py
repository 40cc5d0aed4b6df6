"""Time and memory of a training step on log axes, with what theory says."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from ..analysis.plots.style import (
    MARKERS,
    REFERENCE,
    StyledFigure,
    add_note,
    new_figure,
    style,
)

AXES = {
    "N": "examples N",
    "L": "layers L",
    "M": "modules M",
    "S": "samples S",
    "K": "capacity K",
    "D": "width D",
}
ROWS = (
    ("milliseconds", "multiply_adds", "processor time (ms)"),
    ("megabytes", "values_kept", "peak memory (MB)"),
)


def growth_figure(table: pd.DataFrame) -> StyledFigure:
    """Two rows, time and memory, of a panel an axis.

    Dotted: the arithmetic, through the last point of each line.

    Args:
        table: What :func:`latentroute.benchmarks.growth.measure` gives, as rows.
    """
    methods = list(dict.fromkeys(table["method"]))
    with style():
        figure = new_figure("Growth of a training step", width=15, height=6.4)
        panels = figure.subplots(2, len(AXES), sharey="row", squeeze=False)
        for row, (measured, theory, label) in zip(panels, ROWS, strict=True):
            row[0].set_ylabel(label)
            for axes, (axis, name) in zip(row, AXES.items(), strict=True):
                rows = table[table["axis"] == axis]
                for i, method in enumerate(methods):
                    line = rows[rows["method"] == method].sort_values(axis)
                    _draw(axes, line, (axis, measured, theory), method, i)
                axes.set(xscale="log", yscale="log", xlabel=name)
                ticks = sorted(set(rows[axis]))
                axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
                axes.minorticks_off()
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", title="method")
        add_note(
            figure,
            "Dotted: multiply-adds of the forward passes, and values kept for the "
            "backward pass, through the last point. Solid lines that are flatter on "
            "the left: fixed costs of a step.",
        )
    return figure


def _draw(
    axes: Axes, line: pd.DataFrame, columns: tuple[str, str, str], name: str, i: int
) -> None:
    if not len(line):
        return
    x, y, expected = (line[column].to_numpy(float) for column in columns)
    options: dict[str, Any] = {"marker": MARKERS[i], "color": f"C{i}", "label": name}
    axes.plot(x, expected * y[-1] / expected[-1], ":", color=REFERENCE, linewidth=1)
    axes.plot(x, y, **options)
