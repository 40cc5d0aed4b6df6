"""Nets and programs small enough to know everything about, and gradients of losses."""

import pyro
import pyro.distributions as dist
import torch

from latentroute.models import LayeredNetwork
from tests import brute_force as truth

N, M = 4, 3


def make_net(dtype=torch.float64, **options):
    """A net, its data and its sites."""
    shape = {"n_layers": 2, "n_modules": M, "hidden_features": 2} | options
    net = LayeredNetwork(2, 2, **shape).to(dtype)
    truth.randomise(net, 4, scale=1.2)
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(N, 2, generator=generator, dtype=torch.float64).to(dtype)
    y = torch.randn(N, 2, generator=generator, dtype=torch.float64).to(dtype)
    if shape.get("head", "categorical") == "categorical":
        y = y[:, 0].gt(0).long()
    sites = truth.network_sites(
        shape["n_layers"],
        shape["n_modules"],
        shape.get("k", 1),
        shape.get("routing", "dynamic"),
    )
    return net, (x, y), sites


def one_hot_program(log_likelihood, n_choices=M, dtype=torch.float64, logits=None):
    """One OneHotCategorical site; the likelihood is a function of its value.

    Returns:
        The program, its x (N, 1), and its logits.
    """
    if logits is None:
        logits = torch.linspace(-0.7, 0.9, n_choices, dtype=dtype)
    logits = logits.clone().requires_grad_()

    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            site = dist.OneHotCategorical(logits=logits.expand(len(x), n_choices))
            a = pyro.sample("a", site)
            pyro.factor("y", log_likelihood(a))

    return model, torch.zeros(N, 1, dtype=dtype), logits


def repeated(args, copies):
    """Independent draws side by side."""
    return tuple(arg.repeat(copies, *(1,) * (arg.dim() - 1)) for arg in args)


def draws(objective, args, parameters, n):
    """The loss's gradient, n times."""
    return torch.stack([truth.gradient(objective(*args), parameters) for _ in range(n)])


def shifted(net, constant):
    """The same program with a constant added to each log-likelihood."""

    def model(x, y=None):
        out = net(x, y)
        with pyro.plate("shift", len(x), dim=-1):
            pyro.factor("constant", x.new_full((len(x),), constant))
        return out

    return model
