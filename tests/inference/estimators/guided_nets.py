"""A small network with data, and every way to draw S routes, for the guided methods."""

import itertools

import pyro
import torch

from latentroute.models import LayeredNetwork
from tests import brute_force as truth

N, M = 3, 3


def make_net(n=N, dtype=torch.float64, **options):
    """A network of 9 routes, its data, and its sites for brute force."""
    shape = {"n_layers": 2, "n_modules": M, "hidden_features": 2} | options
    net = LayeredNetwork(2, 2, **shape).to(dtype)
    truth.randomise(net, 4, scale=1.2)
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(n, 2, generator=generator, dtype=torch.float64).to(dtype)
    y = torch.randint(2, (n,), generator=generator)
    sites = truth.network_sites(
        shape["n_layers"], M, routing=shape.get("routing", "dynamic")
    )
    return net, (x, y), sites


def made_guide(objective, args, seed=7):
    """The objective's own guide, at random weights: it starts uniform."""
    objective.prepare(*args)
    truth.randomise(objective.guide, seed)
    return objective.guide


def route_sets(table, n_samples):
    """(sets, S) rows of the table: every way to draw S routes in order."""
    rows = range(len(table.routes))
    return torch.tensor(list(itertools.product(rows, repeat=n_samples)))


def shifted(net, constant):
    """The same model with a constant added to each log-likelihood."""

    def model(x, y=None):
        out = net(x, y)
        with pyro.plate("shift", len(x), dim=-1):
            pyro.factor("constant", x.new_full((len(x),), constant))
        return out

    return model


def make_extreme(likelihood=-1e6, logit=1e4):
    """A float32 program with routers that are sure and a far-off likelihood."""
    logits = torch.tensor([[logit, -logit, 0.0]] * 2, requires_grad=True)
    level = torch.tensor([likelihood, likelihood - 3.0, likelihood], requires_grad=True)

    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", pyro.distributions.Categorical(logits=logits[0]))
            b = pyro.sample("b", pyro.distributions.Categorical(logits=logits[1]))
            pyro.factor("level", level[a] + level[b] + 0 * x[:, 0])

    return model, (torch.zeros(4, 2),), [logits, level]
