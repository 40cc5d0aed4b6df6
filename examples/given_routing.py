"""Given routing against learned routing, on data whose true routes are known.

Each target is made by a chain of two hidden functions out of three, which a noisy
context in the input tells. With the true routes of the training data, modules and
routers are trained by plain supervised learning; without them they are found by summing
over routes. The claim: given routes teach the routers the true routes, and the network
predicts without being told them.

    python examples/given_routing.py --steps 600
"""

from __future__ import annotations

import argparse

import torch
from sklearn.metrics import adjusted_rand_score

import latentroute as lr
from latentroute import tasks
from latentroute.inference import default_network, evaluate
from latentroute.models import GivenRouting


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args()
    task = tasks.load("composition")
    train, test = task.train, task.test

    found = {}
    for name in ("given", "learned"):
        torch.manual_seed(0)
        net = default_network(task)
        sites = lr.route_sites(net, train.x, train.y)
        model = GivenRouting(net, train.routes, sites) if name == "given" else net
        lr.fit(model, (train.x, train.y), "exact", steps=options.steps)
        seen = evaluate(net, test.x, test.y)
        rand = [
            adjusted_rand_score(
                test.routes[:, layer], seen.router_probs[:, layer].argmax(-1)
            )
            for layer in range(len(sites))
        ]
        found[name] = seen.log_marginal.mean().item(), rand
        print(
            f"{name:8} log p(y|x) = {found[name][0]:6.3f} nats per test example; the "
            f"router's choice against the true route, adjusted Rand index by layer: "
            f"{', '.join(f'{r:.2f}' for r in rand)}"
        )

    print("With given routes the router finds the true ones on unseen inputs.")
    assert min(found["given"][1]) > 0.9


if __name__ == "__main__":
    main()
