"""From trained models to labelled results, tables and figures.

Plots (matplotlib) and the gradient report (torch, Pyro) are imported when they are
first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .chains import join_chains, match_chains, match_draws
from .datatree import to_datatree, tree_from_evaluation
from .diagnostics import diagnose
from .information import (
    Information,
    StreamedInformation,
    information,
    stream_information,
)
from .information_table import information_table
from .intervals import Interval, Rate, mean_interval, success_rate, truth_table
from .labels import LabelTable, Surprise, label_table, surprise
from .model_comparison import compare_elpd
from .model_information import ModelInformation, model_information
from .paths import decode_paths, encode_paths, paths, top_paths
from .route_summary import route_summary
from .runs import Run, runs
from .specialisation import Specialisation, specialisation
from .storage import load, save
from .summary import summary, summary_dataset
from .truth import Recovery, Truth, recovered, truth
from .usage import Usage, usage

if TYPE_CHECKING:
    from .calibration import Calibration, route_calibration
    from .calibration_groups import (
        calibration_tree,
        predictive_calibration,
        route_reliability,
    )
    from .calibration_posteriors import GuidePosterior
    from .calibration_reliability import coverage, proper_scores, reliability
    from .calibration_uniformity import uniformity
    from .calibration_weights import weight_calibration
    from .gradients import gradient_report
    from .programs import from_pyro

__all__ = [
    "Calibration",
    "GuidePosterior",
    "Information",
    "Interval",
    "LabelTable",
    "ModelInformation",
    "Rate",
    "Recovery",
    "Run",
    "Specialisation",
    "StreamedInformation",
    "Surprise",
    "Truth",
    "Usage",
    "calibration_tree",
    "compare_elpd",
    "coverage",
    "decode_paths",
    "diagnose",
    "encode_paths",
    "from_pyro",
    "gradient_report",
    "information",
    "information_table",
    "join_chains",
    "label_table",
    "load",
    "match_chains",
    "match_draws",
    "mean_interval",
    "model_information",
    "paths",
    "predictive_calibration",
    "proper_scores",
    "recovered",
    "reliability",
    "route_calibration",
    "route_reliability",
    "route_summary",
    "runs",
    "save",
    "specialisation",
    "stream_information",
    "success_rate",
    "summary",
    "summary_dataset",
    "surprise",
    "to_datatree",
    "top_paths",
    "tree_from_evaluation",
    "truth",
    "truth_table",
    "uniformity",
    "usage",
    "weight_calibration",
]

_CALIBRATION = {
    "Calibration": "calibration",
    "GuidePosterior": "calibration_posteriors",
    "calibration_tree": "calibration_groups",
    "coverage": "calibration_reliability",
    "predictive_calibration": "calibration_groups",
    "proper_scores": "calibration_reliability",
    "reliability": "calibration_reliability",
    "route_calibration": "calibration",
    "route_reliability": "calibration_groups",
    "uniformity": "calibration_uniformity",
    "weight_calibration": "calibration_weights",
}


def __getattr__(name: str) -> Any:
    if name in _CALIBRATION:
        return getattr(import_module(f".{_CALIBRATION[name]}", __name__), name)
    if name in ("plots", "report"):
        return import_module(f".{name}", __name__)
    if name == "gradient_report":
        from .gradients import gradient_report

        return gradient_report
    if name == "from_pyro":
        from .programs import from_pyro

        return from_pyro
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
