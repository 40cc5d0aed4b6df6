"""Figures of routes, and of methods against each other.

Each takes a DataTree (a comparison, or one run) and returns a matplotlib Figure that
carries its style and that pyplot does not know. ArviZ's own plots take a run's groups
as they are: `arviz_plots.plot_forest(run, group="usage")`, say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..runs import runs
from .calibration import calibration_ecdf, coverage, reliability
from .comparison import comparison
from .confusion import confusion
from .entropies import entropies
from .examples import examples
from .flows import flows
from .gradient_league import gradient_league
from .learning_curves import learning_curves
from .module_use import module_use
from .posterior_routes import posterior_routes
from .router_and_posterior import router_and_posterior
from .shown import true_routes
from .style import StyledFigure, save_figure, style

if TYPE_CHECKING:
    import xarray as xr

FIGURES: Mapping[str, Callable[[Any], StyledFigure]] = MappingProxyType(
    {
        "comparison": comparison,
        "learning_curves": learning_curves,
        "entropies": entropies,
        "module_use": module_use,
        "posterior_routes": posterior_routes,
        "flows": flows,
        "router_and_posterior": router_and_posterior,
        "examples": examples,
        "confusion": confusion,
    }
)
"""Every figure of a comparison tree, by name, in the order in which one reads them."""


def suited(tree: xr.DataTree) -> dict[str, Callable[[Any], StyledFigure]]:
    """The `FIGURES` that a tree has something to show in.

    That is all of them but `confusion` where the true routes are not known.

    Args:
        tree: A comparison, or one run.

    Raises:
        ValueError: The tree is neither.
    """
    known = any(
        true_routes(run.tree) is not None for run in runs(tree) if not run.error
    )
    return {name: f for name, f in FIGURES.items() if known or name != "confusion"}


__all__ = [
    "FIGURES",
    "StyledFigure",
    "calibration_ecdf",
    "comparison",
    "confusion",
    "coverage",
    "entropies",
    "examples",
    "flows",
    "gradient_league",
    "learning_curves",
    "module_use",
    "posterior_routes",
    "reliability",
    "router_and_posterior",
    "save_figure",
    "style",
    "suited",
]
