"""Models p(y, a | x): Pyro programs with routing sites, and the parts they are of."""

from .banks import ModuleBank
from .gru import ModularGRU, ModularGRUCell
from .heads import HEADS, BernoulliHead, CategoricalHead, NormalHead
from .layered import LayeredNetwork, affine_tanh
from .routers import GivenRouting, LinearRouter, MLPRouter, StaticRouter
from .routing import route, route_sites
from .sparse import SparseRouting

__all__ = [
    "HEADS",
    "BernoulliHead",
    "CategoricalHead",
    "GivenRouting",
    "LayeredNetwork",
    "LinearRouter",
    "MLPRouter",
    "ModularGRU",
    "ModularGRUCell",
    "ModuleBank",
    "NormalHead",
    "SparseRouting",
    "StaticRouter",
    "affine_tanh",
    "route",
    "route_sites",
]
