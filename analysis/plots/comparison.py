"""How well each method predicts unseen examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from ..runs import Run, by_method, is_classification
from ..summary import mean_and_error, pointwise_log_lik
from .style import (
    NOTE,
    REFERENCE,
    Look,
    StyledFigure,
    add_note,
    method_looks,
    new_figure,
    number,
    style,
    wrapped,
)

if TYPE_CHECKING:
    import xarray as xr

Seeds = dict[str, NDArray[np.float64]]

FAR = 3.0  # the prior is far off at this many times the span of all methods
BELOW = 0.24  # dots stand this much of a row below the mean, which would hide them


def comparison(tree: xr.DataTree) -> StyledFigure:
    """Test log-likelihood per method: each seed a dot, their mean and its error.

    The class prior (for numbers: a fit to y alone) is a line: what one gets without
    looking at x. Where it is so far off that the methods fall together, a second panel
    shows them alone. Methods are sorted, the best on top; one that failed keeps its
    row.

    Args:
        tree: A comparison, or one run.

    Raises:
        ValueError: No run finished.
    """
    of = by_method(tree)
    seeds = {method: _log_liks(found) for method, found in of.items()}
    order = sorted(seeds, key=lambda m: mean_and_error(seeds[m])[0], reverse=True)
    order.sort(key=lambda m: not seeds[m].size)  # a NaN mean compares with nothing
    prior = float(tree.attrs.get("prior_log_lik", np.nan))
    far = _is_far(prior, seeds)
    looks = method_looks(list(seeds))
    with style():
        title = f"Test log-likelihood per method: {tree.attrs.get('task', 'one task')}"
        size = {"width": 11.5 if far else 7.5, "height": 1.8 + 0.52 * len(seeds)}
        figure = new_figure(title, **size)
        panels = figure.subplots(1, 1 + far, sharey=True, squeeze=False)[0]
        for axes in panels:
            for row, method in enumerate(order):
                _row(axes, row, seeds[method], looks[method], method)
            axes.set_xlabel("log p(y|x) per test example (nats), higher is better")
            axes.tick_params(axis="y", length=0)
        name = _prior_name(of)
        if not np.isnan(prior):
            _prior_line(panels[0], prior, f"{name} {number(prior, 2)}")
        if far:
            panels[0].set_title(f"against the {name}")
            panels[1].set_title("the methods alone")
        panels[0].set_yticks(range(len(order)), [_name(m, of[m]) for m in order])
        panels[0].set_ylim(len(order) - 0.4, -0.6)
        _values(panels[-1], [seeds[method] for method in order])
        add_note(figure, _note(of))
    return figure


def _log_liks(found: list[Run]) -> NDArray[np.float64]:
    """(n_seeds,) mean log p(y|x) of the runs that finished."""
    return np.array(
        [pointwise_log_lik(run.tree).mean() for run in found if not run.error]
    )


def _is_far(prior: float, seeds: Seeds) -> bool:
    """Whether the prior's line would squeeze the methods into a corner."""
    values = np.concatenate(list(seeds.values()))
    return len(values) > 1 and bool(values.min() - prior > FAR * np.ptp(values))


def _row(
    axes: Axes, row: int, values: NDArray[np.float64], look: Look, method: str
) -> None:
    """One method's dots below their mean and bar."""
    mean, error = mean_and_error(values)
    if len(values) > 1:
        axes.scatter(
            values,
            np.full(len(values), row + BELOW),
            s=26,
            color=look.colour,
            alpha=0.65,
            linewidths=0,
            label=method,
        )
    axes.errorbar(
        mean,
        row,
        xerr=None if np.isnan(error) else error,
        fmt="D",
        color=REFERENCE,
        markerfacecolor=look.colour,
        markersize=7,
        elinewidth=1.6,
        capsize=4,
        label=method,
    )


def _prior_line(axes: Axes, prior: float, text: str) -> None:
    axes.axvline(prior, color=REFERENCE, linewidth=1.2, linestyle="--", label=text)
    axes.annotate(
        text,
        (prior, 1),
        xycoords=("data", "axes fraction"),
        xytext=(5, -3),
        textcoords="offset points",
        va="top",
        fontsize=9,
        color=NOTE,
    )


def _prior_name(of: dict[str, list[Run]]) -> str:
    """What predicts y without x."""
    run = next(run for found in of.values() for run in found if not run.error)
    return "class prior" if is_classification(run.tree) else "prior of y"


def _values(axes: Axes, rows: list[NDArray[np.float64]]) -> None:
    """Mean and error as numbers, right of the last panel."""
    for row, values in enumerate(rows):
        mean, error = mean_and_error(values)
        if np.isnan(mean):
            continue
        axes.annotate(
            number(mean, 3) + ("" if np.isnan(error) else f" ± {error:.3f}"),
            (1.02, row),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=9.5,
            annotation_clip=False,
        )


def _name(method: str, found: list[Run]) -> str:
    """The method's name, with what failed of it."""
    failed = sum(bool(run.error) for run in found)
    name = wrapped(method, 32)
    return f"{name}\n({failed} of {len(found)} seeds failed)" if failed else name


def _note(of: dict[str, list[Run]]) -> str:
    """What diamond, bar and dot stand for, and when the numbers are no exact ones."""
    note = "Diamond: mean over seeds, bar: ± 1 standard error. Dot: one seed."
    if all(len(found) == 1 for found in of.values()):
        note = "One seed per method: no error bar."
    alive = [run for found in of.values() for run in found if not run.error]
    if not all(run.tree.attrs.get("exact", 1) for run in alive):
        note += "\nRoutes summed out by importance sampling, not exactly: biased low."
    return note
