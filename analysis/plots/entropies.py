"""How sure the router becomes, and how evenly it uses the modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from ..groups import dataset
from ..information import information
from ..runs import Run, finished
from .curves import Curves, collect, draw, seeds_note
from .shown import probabilities, site_names
from .style import REFERENCE, Look, StyledFigure, add_note, new_figure, style, wrapped

if TYPE_CHECKING:
    import xarray as xr

COLUMNS = 4
MINUS = "\N{MINUS SIGN}"
LOOKS = {
    "h_b": ("H(A)\nhow evenly modules are used", Look("#0072B2", "o", "-")),
    "h_a": ("H(A|X)\nhow unsure the router is", Look("#D55E00", "s", "--")),
}
GAP = (f"H(A) {MINUS} H(A|X)\nplug-in I(A;X), biased low", Look("#009E73", "D", "-."))
BRACKET = "I(A;X) on test examples,\nplug-in to leave-one-out"
BESIDE = 1.04  # the bracket stands this much of training from its start


def entropies(tree: xr.DataTree, *, site: str | None = None) -> StyledFigure:
    """H(A), H(A|X) and their difference over training, one panel a method.

    The ideal is H(A) at log M and H(A|X) near 0: their difference is the plug-in
    estimate of I(A;X), what a route tells about its input, which is biased low. The bar
    at the end is the bracket on the test examples, from plug-in to leave-one-out (mean
    over seeds, the upper end at most log M): on average over data sets it holds the
    true value, one data set's may miss it.

    Args:
        tree: A comparison, or one run, with `training` groups.
        site: One route site; the mean over all of them if None.

    Raises:
        ValueError: No run finished, none kept its history, or there is no such site.
    """
    of = finished(tree)
    first = next(iter(of.values()))[0]
    highest = _log_choices(first, site)
    columns = min(COLUMNS, len(of))
    rows = -(-len(of) // columns)
    where = "mean over layers" if site is None else site
    with style():
        task = tree.attrs.get("task", "one task")
        title = f"Entropy of routing while training: {task}"
        figure = new_figure(
            title, width=3.2 + max(4.4, 2.6 * columns), height=2.0 + 2.6 * rows
        )
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, (method, seeds) in zip(grid.flat, of.items(), strict=False):
            _panel(axes, seeds, site, highest)
            axes.set(title=wrapped(method), ylim=(-0.03 * highest, 1.12 * highest))
        for axes in grid.flat[len(of) :]:
            axes.remove()
        for axes in grid[:, 0]:
            axes.set_ylabel(f"entropy, {where} (nats)")
        shown = list(grid.flat)[: len(of)]
        for axes in shown[-columns:]:  # those with no panel below them
            axes.set_xlabel("step")
            axes.tick_params(labelbottom=True)
        for axes in shown[columns - 1 :: columns]:
            _effective_axis(axes, highest)
        handles, labels = grid[0, 0].get_legend_handles_labels()
        lines = dict(zip(labels[::-1], handles[::-1], strict=True))  # not their bands
        keys = [lines[label] for label in dict.fromkeys(labels)]
        figure.legend(handles=keys, loc="outside right upper", labelspacing=1)
        what = "I(A;X) is what a route tells about its input."
        add_note(figure, f"{seeds_note(of)}\n{what}")
    return figure


def _panel(axes: Axes, seeds: list[Run], site: str | None, highest: float) -> None:
    """One method's curves under the line of an even use, and its bracket."""
    suffix = "" if site is None else "_layers"
    curves = {name: collect(seeds, name + suffix, site=site) for name in LOOKS}
    for name, (label, look) in LOOKS.items():
        draw(axes, curves[name], look, label=label)
    h_b, h_a = curves["h_b"], curves["h_a"]
    label, look = GAP
    draw(axes, Curves(h_b.steps, h_b.values - h_a.values), look, label=label)
    axes.axhline(
        highest,
        color=REFERENCE,
        linewidth=1,
        linestyle=":",
        label=f"log M = {highest:.2f}\nall modules used alike",
    )
    if h_b.steps.size:
        _bracket(axes, seeds, site, highest, BESIDE * float(h_b.steps[-1]))


def _bracket(
    axes: Axes, seeds: list[Run], site: str | None, highest: float, at: float
) -> None:
    """The bracket of I(A;X) on the test examples, mean over seeds."""
    bounds = np.mean([_bounds(run, site) for run in seeds], axis=0)
    lower, upper = np.minimum(bounds, highest)
    axes.errorbar(
        at,
        lower,
        yerr=[[0.0], [upper - lower]],
        fmt="_",
        color=GAP[1].colour,
        capsize=4,
        elinewidth=2.4,
        label=BRACKET,
    )


def _bounds(run: Run, site: str | None) -> tuple[float, float]:
    """Plug-in and leave-one-out I(A;X) of a run: one site's, or the mean over sites."""
    found = information(probabilities(run.tree, "router_probs"))
    here = slice(None) if site is None else site_names(run.tree).index(site)
    lower, upper = found["mi_lower"][here], found["mi_upper"][here]
    return float(np.mean(lower)), float(np.mean(upper))


def _effective_axis(axes: Axes, highest: float) -> None:
    """The same heights as exp(H), on the right: how many modules that amounts to."""
    most = np.exp(highest) + 1e-6
    counts = [m for m in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32) if m <= most]
    if most > 48:
        counts = [2**power for power in range(int(np.log2(most)) + 1)]
    right = axes.twinx()
    right.set_ylim(axes.get_ylim())
    right.set_yticks(np.log(counts), [str(m) for m in counts])
    right.set_ylabel("effective modules, exp(entropy)")
    right.tick_params(axis="y", length=0)
    right.grid(False)
    right.spines[:].set_visible(False)


def _log_choices(run: Run, site: str | None) -> float:
    """Log M of a site, or its mean over sites."""
    choices = dataset(run.tree, "routing")["n_choices"]
    if site is None:
        return float(np.log(choices.values).mean())
    if site not in choices["site"].values:
        raise ValueError(
            f"site: got {site!r}, expected one of {list(choices['site'].values)}"
        )
    return float(np.log(choices.sel(site=site)))
