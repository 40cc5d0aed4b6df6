"""Table and curves of the toy and the two-layer network, from their measurements."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.intervals import mean_interval, success_rate
from ..analysis.plots import save_figure
from ..analysis.plots.style import (
    MARKERS,
    REFERENCE,
    StyledFigure,
    add_note,
    new_figure,
    style,
)

COLLAPSED = 0.99  # share of examples on one module, in any layer
LABELS = {
    "hard-em-10th": "hard EM, every 10th step",
    "hard-em": "hard EM, every step",
    "score-function": "score function",
    "noisy-top-k": "noisy top-k",
    "exact": "exact",
    "recover": "recover",
}
TITLES = {
    "toy": "Toy: two clusters, one layer, M = 2",
    "digits": "Digits: two layers, M = 10 and 8",
}
NUMBERS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "test accuracy": lambda line: line.get("accuracy"),
    "test log p(y \\| x)": lambda line: line["log_lik"],
    "H_a": lambda line: float(np.mean(line["h_a"])),
    "H_b": lambda line: float(np.mean(line["h_b"])),
    "unused modules": lambda line: sum(line["unused"]),
    "CPU s": lambda line: line["cpu_seconds"],
}
Lines = Sequence[Mapping[str, Any]]


def write_tables(path: Path) -> None:
    """A table (.md) and curves (.png) beside the measurements."""
    texts = path.read_text(encoding="utf-8").splitlines()
    lines = [json.loads(text) for text in texts[1:]]
    parts = ["# The toy and the two-layer network", ""]
    for setting, title in TITLES.items():
        chosen = [line for line in lines if line["case"][0] == setting]
        if chosen:
            parts += [f"## {title}", "", *markdown(chosen), ""]
    path.with_suffix(".md").write_text("\n".join(parts), encoding="utf-8")
    save_figure(figure(lines), path.with_suffix(".png"))


def markdown(lines: Lines) -> list[str]:
    """The rows of a table: means with 95% Student intervals over seeds.

    Collapsed: at least 99% of the test examples have the same likeliest module in some
    layer; its share has a Wilson interval.
    """
    names = [name for name, get in NUMBERS.items() if get(lines[0]) is not None]
    rows = [
        ["method", "collapsed", *names],
        ["---"] * (len(names) + 2),
    ]
    for method, label in LABELS.items():
        own = [line for line in lines if line["case"][1] == method]
        if own:
            numbers = [_cell([NUMBERS[name](line) for line in own]) for name in names]
            rows.append([label, collapsed(own), *numbers])
    return [f"| {' | '.join(row)} |" for row in rows]


def collapsed(lines: Lines) -> str:
    """How many trainings ended with a layer on one module."""
    k = sum(max(line["largest"]) >= COLLAPSED for line in lines)
    rate = success_rate(k, len(lines))
    return f"{k} of {rate.n} ({rate.low:.2f} to {rate.high:.2f})"


def _cell(values: Sequence[float]) -> str:
    mean, low, high, n = mean_interval(values)
    digits = 3 if abs(mean) < 1 else 2
    if n == 1:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {(high - low) / 2:.{digits}f}"


def figure(lines: Lines) -> StyledFigure:
    """H_a and H_b of every setting against the step, means over seeds."""
    settings = [s for s in TITLES if any(line["case"][0] == s for line in lines)]
    with style():
        fig = new_figure(
            "Confidence and use of modules over training",
            width=10,
            height=3 * len(settings),
        )
        panels = fig.subplots(len(settings), 2, squeeze=False)
        for row, setting in zip(panels, settings, strict=True):
            for axes, column, name in zip(row, (1, 2), ("H_a", "H_b"), strict=True):
                for i, method in enumerate(LABELS):
                    curves = [
                        line["curve"]
                        for line in lines
                        if line["case"][:2] == [setting, method]
                    ]
                    if curves:
                        mean = np.mean(curves, axis=0)
                        look = {"marker": MARKERS[i], "color": f"C{i}", "ms": 3}
                        axes.plot(
                            mean[:, 0], mean[:, column], label=LABELS[method], **look
                        )
                axes.set(xlabel="step", ylabel=f"{name}, nats", title=TITLES[setting])
                axes.axhline(0, color=REFERENCE, lw=0.8)
        handles, labels = panels[0][0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside right upper", title="method")
        add_note(
            fig,
            "Means over layers and seeds. "
            "H_a small: a sure router; H_b large: many modules in use.",
        )
    return fig
