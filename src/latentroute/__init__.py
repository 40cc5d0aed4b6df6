"""Modular networks whose routing is a discrete latent variable of a Pyro program.

The names a user types most are here; everything else is in the subpackages ``models``,
``guides``, ``inference``, ``analysis`` and ``tasks``. All are imported on first use, so
that ``import latentroute`` costs nothing: torch, Pyro and ArviZ take seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import analysis, guides, inference, models, tasks
    from .analysis import information, summary, to_datatree
    from .guides import BufferGuide, RouteBuffer, RouterGuide
    from .inference import (
        METHODS,
        build,
        log_marginal,
        plan_enumeration,
        route_posterior,
    )
    from .inference.compare import compare
    from .inference.fit import fit
    from .models import LayeredNetwork, ModuleBank, route, route_sites

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "BufferGuide",
    "LayeredNetwork",
    "ModuleBank",
    "RouteBuffer",
    "RouterGuide",
    "__version__",
    "analysis",
    "build",
    "compare",
    "fit",
    "guides",
    "inference",
    "information",
    "log_marginal",
    "models",
    "plan_enumeration",
    "route",
    "route_posterior",
    "route_sites",
    "summary",
    "tasks",
    "to_datatree",
]

_NAMES = {
    "analysis": ("information", "summary", "to_datatree"),
    "guides": ("BufferGuide", "RouteBuffer", "RouterGuide"),
    "inference": (
        "METHODS",
        "build",
        "compare",
        "fit",
        "log_marginal",
        "plan_enumeration",
        "route_posterior",
    ),
    "models": ("LayeredNetwork", "ModuleBank", "route", "route_sites"),
    "tasks": (),
}
_HOME = {name: package for package, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name in _NAMES:
        return import_module(f".{name}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
