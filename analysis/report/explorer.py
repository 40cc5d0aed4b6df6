"""The data behind the page's explorer of examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..groups import dataset
from ..plots.shown import n_choices
from ..plots.style import module_colours, readable_on
from ..runs import Run, runs
from .shown_inputs import Rows, shown_inputs
from .shown_run import MOST_ROUTES, shown_run

if TYPE_CHECKING:
    import xarray as xr

MOST_EXAMPLES: Final = 400
FEWEST_EXAMPLES: Final = 20
MOST_NUMBERS: Final = 400_000  # of all runs together: about 1.5 MB of text


def explorer_data(
    tree: xr.DataTree, *, most: int = MOST_EXAMPLES
) -> dict[str, Any] | None:
    """What the explorer shows, as JSON knows it.

    The same examples under every run, evenly spaced over the test set: at most `most`
    a run, and fewer where many runs or wide ones would make the page large.

    Args:
        tree: A comparison, or one run.
        most: Examples a run.

    Returns:
        - `examples`: sets of examples as :func:`shown_inputs` says; runs on the same
          data share one;
        - `runs`: those that finished as :func:`shown_run` says, each with `set`, the
          number of its examples;
        - `colours`: of the modules, each with a colour for text on it.

        None where no run finished.

    Raises:
        ValueError: The tree is neither a comparison nor a run, or `most` is below 1.
    """
    if most < 1:
        raise ValueError(f"most: got {most}, expected at least 1")
    alive = [run for run in runs(tree) if not run.error]
    if not alive:
        return None
    count = min(most, _affordable(alive))
    sets: list[dict[str, Any]] = []
    shown: list[dict[str, Any]] = []
    for run in alive:
        rows = spaced(dataset(run.tree, "routing").sizes["obs"], count)
        examples = shown_inputs(run.tree, rows)
        if examples not in sets:
            sets.append(examples)
        shown.append(shown_run(run, rows) | {"set": sets.index(examples)})
    widest = max(max(run["choices"]) for run in shown)
    colours = [[colour, readable_on(colour)] for colour in module_colours(widest)]
    return {"examples": sets, "runs": shown, "colours": colours}


def spaced(n: int, count: int) -> Rows:
    """At most `count` of n rows, evenly spaced, the first and the last among them."""
    rows: Rows = np.unique(np.linspace(0, n - 1, min(n, count)).round().astype(np.intp))
    return rows


def _affordable(alive: Sequence[Run]) -> int:
    """How many examples a run make a page that opens at once."""
    numbers = 0
    for run in alive:
        counts = n_choices(run.tree)
        numbers += 2 * sum(counts) + MOST_ROUTES * (1 + len(counts)) + 4
        for group, width in (("predictive_probs", 1), ("predictive_mean", 4)):
            if group in run.tree.children:
                y = dataset(run.tree, group)["y"]
                numbers += width * int(y.size // y.sizes["obs"])
    return max(FEWEST_EXAMPLES, MOST_NUMBERS // numbers)
