"""Estimators' variances at equal evaluations, by the routers' path entropy."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from .style import REFERENCE, StyledFigure, add_note, new_figure, style

if TYPE_CHECKING:
    import pandas as pd

PANELS: Mapping[str, str] = MappingProxyType(
    {
        "relative": "every evaluation counted",
        "relative_gradient": "those with gradient counted",
    }
)
_MARKS = "osD^vP*hXd><"
_DASHES = ("--", "-.", ":")
_LEAST = 1e-6  # smaller ratios are an exact sum's rounding


def entropy_figure(summary: pd.DataFrame) -> StyledFigure:
    """Variance relative to leave-one-out at as many evaluations, on logarithmic axes.

    Solid lines: whole routes sampled. Dashed ones (labels that end in ``*``) sum over
    some choices. Bars: 95% intervals over networks.

    Args:
        summary: What :func:`latentroute.analysis.entropy_league.summarise` gives.

    Raises:
        ValueError: If it has no rows.
    """
    if not len(summary):
        raise ValueError("the table has no methods to draw")
    with style():
        figure = new_figure("Variance by path entropy", width=13, height=6.2)
        panels = figure.subplots(1, len(PANELS), sharey=True, squeeze=False)[0]
        for axes, (name, heading) in zip(panels, PANELS.items(), strict=True):
            _panel(axes, summary, name)
            axes.set(title=f"At equal evaluations, {heading}", xlabel="H(A|X), nats")
        panels[0].set_ylabel("variance / that of leave-one-out")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper")
        add_note(
            figure,
            f"{summary['networks'].max()} networks; geometric means, bars: 95% "
            "intervals. Dashed: sampled only in part. Below 1: better than "
            "leave-one-out.",
        )
    return figure


def _panel(axes: Axes, summary: pd.DataFrame, name: str) -> None:
    axes.axhline(1, color=REFERENCE, linewidth=1, linestyle=":")
    in_part = whole = 0
    for method, group in summary.groupby("method", sort=False):
        middle = group[name].to_numpy(float)
        low, high = (group[f"{name}_{end}"].to_numpy(float) for end in ("low", "high"))
        bars = np.nan_to_num(np.stack([middle - low, high - middle])).clip(0)
        partly = str(method).endswith("*")
        place = in_part if partly else whole
        in_part, whole = in_part + partly, whole + (not partly)
        axes.errorbar(
            group["entropy"].to_numpy(float),
            middle,
            bars,
            color=REFERENCE if partly else f"C{place % 7}",
            linestyle=_DASHES[place % len(_DASHES)] if partly else "-",
            marker=_MARKS[-1 - place % 4] if partly else _MARKS[place % 7],
            linewidth=1.4,
            elinewidth=1,
            markersize=6,
            label=str(method),
        )
    axes.set_yscale("log")
    shown = summary[list(PANELS)].to_numpy(float)
    shown = shown[shown > _LEAST]
    axes.set_ylim(shown.min() / 2, shown.max() * 2)
