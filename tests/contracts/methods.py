"""What the contract tests of inference methods share: nets, data, who takes what."""

from typing import NamedTuple

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from latentroute.inference import METHODS, build
from latentroute.models import LayeredNetwork
from tests import brute_force as truth

# What makes a costly method small enough for a test.
SMALL = {"nuts": {"n_chains": 1, "max_tree_depth": 3}}
# A run that is resumed for more steps keeps its own warm-up, unless told.
RESUMED = {
    "nuts": {**SMALL["nuts"], "warmup": 2},
}
TAKE_EVERYTHING = ("exact", "score-function", "hard-em", "topk-buffer")
N, F, CLASSES = 12, 2, 3

every_method = pytest.mark.parametrize("method", list(METHODS))
# Costly ones: static routing under the methods that must take it.
trainings = pytest.mark.parametrize(
    ("method", "routing"),
    [(method, "dynamic") for method in METHODS]
    + [(method, "static") for method in TAKE_EVERYTHING],
)
both_routings = pytest.mark.parametrize("routing", ["dynamic", "static"])


def takes(method, model, parameters=None):
    """Whether a method takes a program; a refusal must be one clear line."""
    x, y = make_data()
    try:
        objective = build(
            method, model, parameters=parameters, n_data=N, example=(x[:3], y[:3])
        )
        objective(x, y)
    except ValueError as refusal:
        assert method not in TAKE_EVERYTHING, refusal
        assert "\n" not in str(refusal) and len(str(refusal)) > 20
        return False
    return True


def make_net(routing="dynamic", seed=0, **options):
    shape = {"n_layers": 2, "n_modules": 3, "hidden_features": 4} | options
    net = LayeredNetwork(F, CLASSES, routing=routing, **shape)
    truth.randomise(net, seed)
    return net


def make_data(n=N, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, F, generator=generator)
    return x, torch.randint(CLASSES, (n,), generator=generator)


class Bare(NamedTuple):
    """A bare Pyro function with two categorical sites, and what it trains."""

    model: object
    parameters: list


def make_bare(*, leaves=nn.Parameter):
    generator = torch.Generator().manual_seed(2)

    def weight(*shape):
        values = torch.randn(shape, generator=generator)
        return leaves(values) if leaves is nn.Parameter else values.requires_grad_()

    first, second, out = weight(F, 3), weight(3, 2), weight(3, 2, CLASSES)

    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=x @ first))
            b = pyro.sample("b", dist.Categorical(logits=second[a]))
            return pyro.sample("y", dist.Categorical(logits=out[a, b]), obs=y)

    return Bare(model, [first, second, out])


def make_learnable(n=96):
    """Two clusters, one rotated and one mirrored: a task for two modules."""
    generator = torch.Generator().manual_seed(3)
    side = torch.arange(n) % 2
    x = torch.randn(n, F, generator=generator) + 3.0 * (2 * side - 1).unsqueeze(-1)
    y = torch.where(side == 0, x[:, 0] > -3, x[:, 1] < 3).long()
    return x, y


def grads(loss, parameters):
    return truth.gradient(loss, list(parameters))
