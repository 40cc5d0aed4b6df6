"""Does a posterior mean what it says: PITs, reliability, coverage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ..calibration_uniformity import ecdf_band
from ..groups import dataset
from .style import NOTE, REFERENCE, StyledFigure, add_note, new_figure, number, style

if TYPE_CHECKING:
    import xarray as xr

ALPHA = 0.05  # false alarms of all quantities together

_FINE, _BAD, _BAND = "#0072B2", "#D55E00", "#999999"
_COLUMNS = 4
_POINTS = 201  # of a band


def calibration_ecdf(
    tree: xr.DataTree, *, quantities: Sequence[str] | None = None
) -> Any:
    """The ECDF of each quantity's PITs less that of a uniform, through ArviZ.

    All curves of right posteriors together stay inside their grey bands with
    probability at least 95%. A curve that leaves its own is drawn in orange: look near
    0 and 1 too, where bands are narrow. Titles say the p-value, adjusted for the number
    of quantities that were tested.

    Args:
        tree: What `calibration_tree` or `predictive_calibration` gave.
        quantities: Which ones to draw, all by default.

    Returns:
        ArviZ's PlotCollection, on matplotlib.

    Raises:
        ValueError: The tree has no PITs, or lacks a quantity.
    """
    tests = dataset(tree, "uniformity")
    pit = dataset(tree, "calibration")["pit"]
    names = [str(name) for name in pit["quantity"].values]
    shown = names if quantities is None else list(quantities)
    if unknown := sorted(set(shown) - set(names)):
        raise ValueError(f"quantities: got {unknown[0]!r}, expected some of {names}")
    columns = min(_COLUMNS, len(shown))
    with style():
        plots = _arviz_plot(tree, shown, columns)
        points = np.linspace(0, 1, _POINTS)
        prob = 1 - ALPHA / len(names)
        low, high = ecdf_band(pit.sizes["simulation"], points, prob=prob)
        for i, name in enumerate(shown):
            at = {"quantity": name}
            axes = plots.get_target("pit", at)
            line = plots.viz["ecdf_lines"]["pit"].sel(at).item()
            line.set_data(*_sawtooth(pit.sel(at).values))
            axes.fill_between(
                points,
                low - points,
                high - points,
                color=_BAND,
                alpha=0.25,
                linewidth=0,
            )
            _finish(axes, line, name, float(tests["p_adjusted"].sel(at)))
            axes.set_ylabel("ECDF less uniform" if i % columns == 0 else "")
            if lowest := i >= len(shown) - columns:
                axes.tick_params(labelbottom=True)
            axes.set_xlabel("PIT" if lowest else "")
        _headline(plots.viz["figure"].item(), tests["p_adjusted"], len(pit))
    return plots


def reliability(tree: xr.DataTree) -> StyledFigure:
    """Probabilities said against frequencies seen, one panel a site.

    Args:
        tree: With a group `reliability`: of `calibration_tree`, `route_reliability` or,
            for classes, `predictive_calibration`.

    Raises:
        ValueError: The tree has no such group.
    """
    found = dataset(tree, "reliability")
    sites = [str(site) for site in found["site"].values]
    columns = min(_COLUMNS, len(sites))
    rows = -(-len(sites) // columns)
    size = {"width": max(5.2, 3.3 * columns), "height": 0.9 + 4.1 * rows}
    with style():
        figure = new_figure("Reliability: what was said and what was seen", **size)
        grid = figure.subplots(
            2 * rows, columns, squeeze=False, sharex=True, height_ratios=[4, 1] * rows
        )
        above, below = grid[::2].ravel(), grid[1::2].ravel()
        for i, site in enumerate(sites):
            _diagram(above[i], found.sel(site=site), site)
            _how_many(below[i], found.sel(site=site))
            if i % columns == 0:
                above[i].set_ylabel("share that happened")
                below[i].set_ylabel("pairs")
        for axes in (*above[len(sites) :], *below[len(sites) :]):
            axes.remove()
        add_note(
            figure,
            "Bars: 95% intervals (Wilson), orange where they miss the diagonal, as 1 "
            "in 20 would.\nECE: calibration error (95%: right probabilities stay under "
            "it). Excess: log-score\nabove the promised one, in nats "
            "\N{PLUS-MINUS SIGN} standard error; positive: over-confident.",
        )
    return figure


def coverage(tree: xr.DataTree) -> StyledFigure:
    """How often central intervals hold the truth, against what they should hold.

    Args:
        tree: With a group `coverage`, of `predictive_calibration`.

    Raises:
        ValueError: The tree has no such group.
    """
    found = dataset(tree, "coverage")
    names = [str(name) for name in found["quantity"].values]
    levels = found["level"].values
    with style():
        figure = new_figure(
            "Coverage of central predictive intervals",
            width=5.6,
            height=1.4 + max(2.4, 0.22 * len(names) * len(levels)),
        )
        axes = figure.subplots()
        step = 1 / (len(names) + 1)
        for j, level in enumerate(levels):
            axes.plot([level, level], [j - 0.5, j + 0.5], color=REFERENCE, lw=1, ls=":")
            for i, name in enumerate(names):
                at = found.sel(quantity=name).isel(level=j)
                label = f"{name}  " if len(names) > 1 else ""
                _interval(axes, at, j - 0.5 + step * (i + 1), label)
        axes.set_yticks(range(len(levels)), [f"{100 * q:g}%" for q in levels])
        axes.set(xlabel="share of targets inside", ylabel="interval", xlim=(None, 1.08))
        axes.margins(x=0.1)
        add_note(
            figure,
            "Dotted: where it should be. Bars: 95% intervals (Wilson), orange where "
            "they miss it.",
        )
    return figure


def _arviz_plot(tree: xr.DataTree, shown: list[str], columns: int) -> Any:
    """ArviZ's own figure, without what it says beyond the curves.

    Its band (0.8) holds for one quantity at a time and is simulated; its p-values (1.x)
    are not adjusted for the number of quantities. Its curves (0.8 and 1.3) have 200
    points and an axis that ends at the largest PIT, so they get exact data afterwards.
    """
    import arviz_plots

    left_out = ("credible_interval", "p_value_text", "suspicious_points", "remove_axis")
    visuals: Any = dict.fromkeys(left_out, False)
    size = (max(5.0, 3.0 * columns), 0.7 + 2.3 * -(-len(shown) // columns))
    return arviz_plots.plot_ecdf_pit(
        tree,
        group="calibration",
        sample_dims=["simulation"],
        coords={"quantity": shown},
        backend="matplotlib",
        visuals=visuals,
        stats={"ecdf_pit": {"n_simulations": 1}},
        figure_kwargs={"figsize": size, "sharey": True},
    )


def _sawtooth(pit: Any) -> tuple[Any, Any]:
    """The ECDF less the identity, just before and at every jump."""
    u, n = np.sort(pit), len(pit)
    heights = np.stack([np.arange(n), np.arange(1, n + 1)], 1) / n - u[:, None]
    x = np.concatenate([[0.0], np.repeat(u, 2), [1.0]])
    return x, np.concatenate([[0.0], heights.ravel(), [0.0]])


def _finish(axes: Axes, line: Line2D, name: str, p: float) -> None:
    """One quantity's verdict, and limits that show all of curve and band."""
    line.set(color=_BAD if p < ALPHA else _FINE, linewidth=1.4, drawstyle="default")
    for other in set(axes.lines) - {line}:  # ArviZ 1.x has a zero line of its own
        other.remove()
    axes.relim()
    axes.autoscale(axis="y")
    axes.axhline(0, color=REFERENCE, linewidth=0.8, linestyle=":")
    axes.grid(True)
    axes.set_title(f"{name}\np {_p_text(p)}", loc="left")
    axes.set_title("", loc="center")


def _interval(axes: Axes, at: xr.Dataset, y: float, label: str) -> None:
    """One interval's coverage, and its number."""
    low, seen, high = (float(at[key]) for key in ("low", "seen", "high"))
    colour = _FINE if low <= float(at["level"]) <= high else _BAD
    axes.plot([low, high], [y, y], color=colour)
    axes.plot(seen, y, "o", color=colour, markersize=5)
    axes.annotate(
        f"{label}{100 * seen:.1f}%",
        (high, y),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        fontsize=9,
    )


def _p_text(p: float) -> str:
    return (
        "< 1e\N{MINUS SIGN}9"
        if p < 1e-9
        else f"= {p:.2g}".replace("-", "\N{MINUS SIGN}")
    )


def _headline(figure: Any, p_adjusted: xr.DataArray, n: int) -> None:
    """What the tests say, over all quantities: those not drawn too."""
    failing = int((p_adjusted < ALPHA).sum())
    total = p_adjusted.size
    verdict = "all pass" if not failing else f"{failing} of {total} fail"
    title = f"Calibration, {n} PITs: {verdict}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    figure.set_layout_engine("constrained")


def _diagram(axes: Axes, at: xr.Dataset, site: str) -> None:
    """One site's frequencies with their intervals, on the diagonal if calibrated."""
    axes.plot([0, 1], [0, 1], color=REFERENCE, linewidth=1, linestyle=":")
    said, seen = at["said"].values, at["seen"].values
    error = np.stack([seen - at["low"].values, at["high"].values - seen])
    within = (at["low"].values <= said) & (said <= at["high"].values)
    there = at["pairs"].values > 0
    for colour, rows in ((_FINE, there & within), (_BAD, there & ~within)):
        axes.errorbar(
            said[rows], seen[rows], error[:, rows], fmt="o", ms=4, lw=1.4, color=colour
        )
    axes.set(title=site, xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    ece, limit = float(at["ece"]), float(at["ece_limit"])
    excess, se = float(at["excess"]), float(at["excess_error"])
    axes.text(
        0.03,
        0.97,
        f"ECE {ece:.3f} (95%: {limit:.3f})\n"
        f"excess {number(excess, 3)} \N{PLUS-MINUS SIGN} {se:.3f}",
        transform=axes.transAxes,
        va="top",
        fontsize=9,
        color=_BAD if ece > limit else NOTE,
    )


def _how_many(axes: Axes, at: xr.Dataset) -> None:
    """How many pairs each bin holds."""
    width = float(at["bin"][1] - at["bin"][0])
    axes.bar(at["bin"].values, at["pairs"].values, 0.9 * width, color="#bbbbbb")
    axes.set(xlabel="probability said", yscale="log")
    axes.set_ylim(0.7, None)
    axes.minorticks_off()
