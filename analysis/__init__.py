"""From trained models to labelled results, tables and figures.

Plots (matplotlib) and the gradient report (torch, Pyro) are imported when they are
first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .datatree import to_datatree, tree_from_evaluation
from .information import Information, information
from .runs import Run, runs
from .storage import load, save
from .summary import summary, summary_dataset

if TYPE_CHECKING:
    from .gradients import gradient_report

__all__ = [
    "Information",
    "Run",
    "gradient_report",
    "information",
    "load",
    "runs",
    "save",
    "summary",
    "summary_dataset",
    "to_datatree",
    "tree_from_evaluation",
]


def __getattr__(name: str) -> Any:
    if name in ("plots", "report"):
        return import_module(f".{name}", __name__)
    if name == "gradient_report":
        from .gradients import gradient_report

        return gradient_report
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
