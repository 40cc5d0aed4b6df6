"""Guides q(a | x, y): Pyro programs over a model's routing sites."""

from .amortised import AmortisedGuide
from .buffer import BufferGuide, RouteBuffer
from .decision import Decision
from .mean_field import MeanFieldGuide
from .router import RouterGuide
from .weights import LaplacePrior, NormalPrior, Prior, WeightGuide

__all__ = [
    "AmortisedGuide",
    "BufferGuide",
    "Decision",
    "LaplacePrior",
    "MeanFieldGuide",
    "NormalPrior",
    "Prior",
    "RouteBuffer",
    "RouterGuide",
    "WeightGuide",
]
