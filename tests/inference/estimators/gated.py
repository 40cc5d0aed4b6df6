"""A program of two weights, for chains."""

import pyro
import pyro.distributions as dist
import torch


def gated():
    """Two weights: of the router and of the one module that does anything."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 1, generator=generator, dtype=torch.float64)
    y = 1.5 * (x[:, 0] > 0) + 0.6 * torch.randn(16, generator=generator).double()
    w = torch.zeros(2, dtype=torch.float64, requires_grad=True)

    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            logits = torch.cat([0 * x, w[0] * x], -1)
            a = pyro.sample("a", dist.Categorical(logits=logits))
            return pyro.sample("y", dist.Normal(w[1] * a, 0.6), obs=y)

    return model, (x, y), w
