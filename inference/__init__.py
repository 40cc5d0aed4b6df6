"""Inference: from a routed Pyro program to marginals, posteriors and trained models."""

from .backends.processes import Processes
from .backends.ray_cluster import RayCluster
from .backends.serial import Serial
from .collapse import CollapseWarning
from .compare import compare, compare_tasks
from .data_parallel import DataParallel
from .default_network import default_network
from .divergence import Diverged, replay
from .em import HardEM, TopKBuffer
from .estimators.amortised import Amortised
from .estimators.gumbel_softmax import GumbelSoftmax
from .estimators.hybrid import Hybrid
from .estimators.importance import Importance
from .estimators.local_enumeration import LocalEnumeration
from .estimators.mean_field import MeanField
from .estimators.memory_augmented import MemoryAugmented
from .estimators.noisy_top_k import NoisyTopK
from .estimators.nuts import NUTS
from .estimators.reinmax import ReinMax
from .estimators.relax import Relax
from .estimators.soft import Soft
from .estimators.sparsemax import Entmax15, Sparsemax
from .estimators.straight_through import StraightThrough
from .estimators.svi_bayes import SVIBayes
from .estimators.unordered_set import UnorderedSet
from .estimators.wake_sleep import WakeSleep
from .evaluate import Evaluation, evaluate
from .exact import Exact
from .fabric import Fabric
from .fit import Fit, fit
from .map_route import MapRoute, map_route
from .marginal import RoutePosterior, log_marginal, route_posterior
from .methods import METHODS, build, get_method
from .objective import Method, Objective
from .plan import EnumerationPlan, plan_enumeration
from .posterior import (
    ImportancePosterior,
    SampledRoutes,
    importance_posterior,
    sample_routes,
)
from .recover import Recover
from .score_function import ScoreFunction
from .signals import Stopped
from .strategy import SingleProcess, Strategy
from .weight_draws import WeightDraws

__all__ = [
    "METHODS",
    "NUTS",
    "Amortised",
    "CollapseWarning",
    "DataParallel",
    "Diverged",
    "Entmax15",
    "EnumerationPlan",
    "Evaluation",
    "Exact",
    "Fabric",
    "Fit",
    "GumbelSoftmax",
    "HardEM",
    "Hybrid",
    "Importance",
    "ImportancePosterior",
    "LocalEnumeration",
    "MapRoute",
    "MeanField",
    "MemoryAugmented",
    "Method",
    "NoisyTopK",
    "Objective",
    "Processes",
    "RayCluster",
    "Recover",
    "ReinMax",
    "Relax",
    "RoutePosterior",
    "SVIBayes",
    "SampledRoutes",
    "ScoreFunction",
    "Serial",
    "SingleProcess",
    "Soft",
    "Sparsemax",
    "Stopped",
    "StraightThrough",
    "Strategy",
    "TopKBuffer",
    "UnorderedSet",
    "WakeSleep",
    "WeightDraws",
    "build",
    "compare",
    "compare_tasks",
    "default_network",
    "evaluate",
    "fit",
    "get_method",
    "importance_posterior",
    "log_marginal",
    "map_route",
    "plan_enumeration",
    "replay",
    "route_posterior",
    "sample_routes",
]
