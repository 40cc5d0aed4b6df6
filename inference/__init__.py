"""Inference: from a routed Pyro program to marginals, posteriors and trained models."""

from .compare import compare, default_network
from .em import HardEM, TopKBuffer
from .evaluate import Evaluation, evaluate
from .exact import Exact
from .fit import Fit, fit
from .marginal import RoutePosterior, log_marginal, route_posterior
from .methods import METHODS, build, get_method
from .objective import Method, Objective
from .plan import EnumerationPlan, plan_enumeration
from .score_function import ScoreFunction

__all__ = [
    "METHODS",
    "EnumerationPlan",
    "Evaluation",
    "Exact",
    "Fit",
    "HardEM",
    "Method",
    "Objective",
    "RoutePosterior",
    "ScoreFunction",
    "TopKBuffer",
    "build",
    "compare",
    "default_network",
    "evaluate",
    "fit",
    "get_method",
    "log_marginal",
    "plan_enumeration",
    "route_posterior",
]
