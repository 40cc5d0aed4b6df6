"""Figures of routes, and of methods against each other.

Each takes a DataTree (a comparison, or one run) and returns a matplotlib Figure that
carries its style and that pyplot does not know. ArviZ's own plots take a run's groups
as they are: `arviz_plots.plot_forest(run, group="usage")`, say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from .comparison import comparison
from .entropies import entropies
from .gradient_league import gradient_league
from .learning_curves import learning_curves
from .module_use import module_use
from .posterior_routes import posterior_routes
from .style import StyledFigure, save_figure, style

FIGURES: Mapping[str, Callable[[Any], StyledFigure]] = MappingProxyType(
    {
        "comparison": comparison,
        "learning_curves": learning_curves,
        "entropies": entropies,
        "module_use": module_use,
        "posterior_routes": posterior_routes,
    }
)
"""Every figure of a comparison tree, by name, in the order in which one reads them."""

__all__ = [
    "FIGURES",
    "StyledFigure",
    "comparison",
    "entropies",
    "gradient_league",
    "learning_curves",
    "module_use",
    "posterior_routes",
    "save_figure",
    "style",
]
