"""Static routing: one route for all inputs, found by its exact posterior.

The routing sites stand outside the data plate: every example goes through the same two
of 3 x 3 fixed functions, and which two is what is learned. Nothing else has parameters
but the router. The claim: the posterior over the nine routes, the examples' likelihoods
multiplied, is brute force's, and training the router on it finds the route that made
the data.

    python examples/static_routing.py --steps 200
"""

from __future__ import annotations

import argparse
import itertools

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import latentroute as lr
from latentroute.models import StaticRouter

FIRST = [torch.sin, torch.abs, torch.square]
SECOND = [lambda z: z, torch.neg, torch.exp]
NAMES = [["sin", "abs", "square"], ["z", "-z", "exp"]]
NOISE = 2.0


class TwoSteps(nn.Module):
    """y = g(f(x)) + noise, with one f and one g for all examples."""

    def __init__(self) -> None:
        super().__init__()
        self.routers = nn.ModuleList([StaticRouter(3), StaticRouter(3)])
        self.banks = nn.ModuleList([lr.ModuleBank(FIRST), lr.ModuleBank(SECOND)])

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        routes = [
            lr.route(f"route_{layer}", router())
            for layer, router in enumerate(self.routers)
        ]
        with pyro.plate("data", len(x)):
            z = x
            for bank, a in zip(self.banks, routes, strict=True):
                z = bank(z, a)
            return pyro.sample("y", dist.Normal(z, NOISE).to_event(1), obs=y)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--examples", type=int, default=30)
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    x = 4 * torch.rand(options.examples, 1, generator=generator) - 2
    mean = -torch.sin(x)  # route (0, 1)
    y = mean + NOISE * torch.randn(x.shape, generator=generator)

    net = TwoSteps()
    posterior = lr.route_posterior(net, x, y)  # one row: the examples are coupled
    by_hand = torch.stack(
        [
            dist.Normal(g(f(x)), NOISE).log_prob(y).sum()
            for f, g in itertools.product(FIRST, SECOND)
        ]
    ).log_softmax(0)
    for route, log_p in zip(posterior.routes, posterior.log_probs[0], strict=True):
        f, g = (names[a] for names, a in zip(NAMES, route.tolist(), strict=True))
        print(f"first {f:7} then {g:4} p(a | all data) = {log_p.exp():.4f}")
    assert torch.allclose(posterior.log_probs[0], by_hand, atol=1e-4)

    lr.fit(net, (x, y), "exact", steps=options.steps, batch_size=len(x), lr=0.1)
    probs = [router().probs.detach() for router in net.routers]
    print("router after training:", [[round(p, 3) for p in q.tolist()] for q in probs])
    found = tuple(int(q.argmax()) for q in probs)
    print(f"The posterior is brute force's, and the route found is {found}.")
    assert found == (0, 1)


if __name__ == "__main__":
    main()
