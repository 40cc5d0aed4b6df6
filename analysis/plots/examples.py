"""The examples whose routes are least and most certain, shown as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from numpy.typing import NDArray

from ..arrays import entropy
from ..groups import dataset
from ..runs import is_classification
from .example_parts import Part, input_part, prediction_part, route_part
from .shown import best_run, probabilities, run_name
from .style import StyledFigure, add_note, new_figure, style

if TYPE_CHECKING:
    import xarray as xr

Floats = NDArray[np.float64]
By = Literal["route", "prediction"]

MEANING = {
    "route": "H: entropy of the posterior over modules, mean over layers, in nats.",
    "prediction": "H: entropy of the predicted class, in nats.",
}


def examples(tree: xr.DataTree, *, n: int = 6, by: By = "route") -> StyledFigure:
    """Test examples themselves, the least and the most certain, with their routes.

    Below each example (a picture where x is one, else its values by name) stand a bar
    a layer, filled by the posterior p(a_l|x,y), and the prediction with the truth.
    Certainty is the entropy of the posterior over modules, mean over layers, in nats.
    Of a comparison, the run with the highest test log-likelihood is shown.

    Args:
        tree: One run, or a comparison.
        n: Examples of each kind.
        by: "prediction" ranks by the entropy of the predicted class instead.

    Raises:
        ValueError: No run finished, `n` is below 1, `by` is neither, or the targets are
            no classes and `by` is "prediction".
    """
    run = best_run(tree)
    uncertain = uncertainty(run.tree, by)
    least, most = extremes(uncertain, n)
    parts = [input_part(run.tree, np.concatenate([least, most])), route_part(run.tree)]
    prediction = prediction_part(run.tree)
    if prediction is not None:
        parts.append(prediction)
    what = "routes" if by == "route" else "predictions"
    task = tree.attrs.get("task", "one task")
    title = f"Least and most certain {what}: {task}, {run_name(run)}"
    inches = sum(part.height + 0.12 for part in parts) + 0.75
    with style():
        width = max(7.5, 2.8 + 1.5 * len(least))
        figure = new_figure(title, width=width, height=0.8 + 2 * inches)
        halves = figure.subfigures(2, 1)
        titles = ("least certain", "most certain")
        for half, rows, name in zip(halves, (least, most), titles, strict=True):
            _half(half, parts, rows, uncertain[rows])
            half.suptitle(name, x=0.01, ha="left", fontsize=11)
        keys = [key for part in parts for key in part.keys]
        figure.legend(handles=keys, loc="outside right upper")
        add_note(figure, "\n".join([MEANING[by], *(p.note for p in parts if p.note)]))
    return figure


def uncertainty(tree: xr.DataTree, by: By) -> Floats:
    """(N,) entropy of each example's posterior routes or predicted class, in nats.

    Raises:
        ValueError: `by` is neither, or there are no class probabilities.
    """
    if by == "route":
        return np.asarray(entropy(probabilities(tree, "route_probs")).mean(-1))
    if by != "prediction":
        raise ValueError(f"by: got {by!r}, expected 'route' or 'prediction'")
    if not is_classification(tree):
        raise ValueError("by: got 'prediction', expected 'route': y is no class")
    probs = dataset(tree, "predictive_probs")["y"].transpose("obs", "klass")
    return np.asarray(entropy(probs.values.astype(np.float64)))


def extremes(uncertain: Floats, n: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The n least certain examples, the least first, and the n most certain.

    No example is among both: of few examples each half gets half.

    Raises:
        ValueError: n is below 1, or there is but one example.
    """
    if n < 1:
        raise ValueError(f"n: got {n}, expected at least 1")
    if len(uncertain) < 2:
        raise ValueError(f"tree: got {len(uncertain)} examples, expected at least 2")
    n = min(n, len(uncertain) // 2)
    order = np.argsort(-uncertain, kind="stable")
    return order[:n], order[::-1][:n]


def _half(
    half: SubFigure, parts: Sequence[Part], rows: NDArray[np.intp], uncertain: Floats
) -> None:
    """Examples side by side, their parts below each other."""
    heights = [part.height for part in parts]
    grid = half.subplots(
        len(parts), len(rows), squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for column, row, h in zip(grid.T, rows, uncertain, strict=True):
        for axes, part in zip(column, parts, strict=True):
            part.draw(axes, int(row))
        value = f"= {h:.2f}" if h >= 0.005 else "< 0.01"
        column[0].set_title(f"H {value}", fontsize=9, weight="normal")
    for axes, part in zip(grid[:, 0], parts, strict=True):
        _name_lines(axes, part)


def _name_lines(axes: Axes, part: Part) -> None:
    """What the lines of a row of panels are, left of its first panel."""
    if part.lines:
        axes.set_yticks(range(len(part.lines)), part.lines, fontsize=8)
    if part.name:
        axes.set_ylabel(part.name, fontsize=9)
