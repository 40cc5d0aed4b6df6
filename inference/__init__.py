"""Inference: from a routed Pyro program to marginals, posteriors and trained models."""

from .compare import compare, default_network
from .em import HardEM, TopKBuffer
from .estimators.amortised import Amortised
from .estimators.gumbel_softmax import GumbelSoftmax
from .estimators.mean_field import MeanField
from .estimators.noisy_top_k import NoisyTopK
from .estimators.reinmax import ReinMax
from .estimators.relax import Relax
from .estimators.soft import Soft
from .estimators.sparsemax import Entmax15, Sparsemax
from .estimators.straight_through import StraightThrough
from .estimators.wake_sleep import WakeSleep
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
    "Amortised",
    "Entmax15",
    "EnumerationPlan",
    "Evaluation",
    "Exact",
    "Fit",
    "GumbelSoftmax",
    "HardEM",
    "MeanField",
    "Method",
    "NoisyTopK",
    "Objective",
    "ReinMax",
    "Relax",
    "RoutePosterior",
    "ScoreFunction",
    "Soft",
    "Sparsemax",
    "StraightThrough",
    "TopKBuffer",
    "WakeSleep",
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
