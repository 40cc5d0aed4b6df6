"""From trained models to labelled results, tables and figures.

`latentroute.analysis.plots` (matplotlib) is imported when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .datatree import to_datatree, tree_from_evaluation
from .gradients import gradient_report
from .information import Information, information
from .runs import Run, runs
from .storage import load, save
from .summary import summary, summary_dataset

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
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
