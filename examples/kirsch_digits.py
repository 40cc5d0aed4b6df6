"""The network of Kirsch et al. 2018 on real digits: hard EM against the exact marginal.

Two modular layers of 10 and 8 modules, one chosen in each. Kirsch et al. train by hard
EM, with an E-step at every tenth step. With 80 routes the marginal can be summed, too.
The claim: both beat the class prior by more than a nat, and the stored route of hard EM
is worth no more than the marginal that it is one term of.

    python examples/kirsch_digits.py --steps 400

Kirsch, Kunze and Barber 2018, Modular Networks, arXiv:1811.05249. Their network has no
encoder and takes 28x28 images.
"""

from __future__ import annotations

import argparse

import torch

import latentroute as lr
from latentroute import tasks
from latentroute.analysis.plots import posterior_routes, save_figure
from latentroute.inference import Exact, HardEM, default_network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--figure", help="write the posterior over routes to this file")
    options = parser.parse_args()
    task = tasks.load("digits")
    methods = {"hard EM, every 10th step": HardEM(interval=10), "exact": Exact()}

    tree = lr.compare(
        task,
        methods,
        seeds=options.seeds,
        model=lambda task: default_network(task, n_modules=[10, 8]),
        steps=options.steps,
    )
    table = lr.summary(tree)
    columns = ["log_lik", "log_lik_se", "gain", "accuracy", "h_a", "h_b", "dead"]
    print(table[columns].round(3).T)
    if options.figure:
        print("wrote", save_figure(posterior_routes(tree), options.figure))

    torch.manual_seed(0)
    net = default_network(task, n_modules=[10, 8])
    result = lr.fit(net, task, methods["hard EM, every 10th step"], steps=options.steps)
    with torch.no_grad():
        marginal = lr.log_marginal(net, task.train.x, task.train.y)
        posterior = lr.route_posterior(net, task.train.x, task.train.y)
    routes = result.objective.guide.buffer.routes[:, 0].long()
    place = routes[:, 0] * 8 + routes[:, 1]  # the last site's choice changes fastest
    stored = posterior.log_probs.gather(1, place.unsqueeze(1)).squeeze(1)
    print(f"training digits: log p(y|x) = {marginal.mean():.3f} nats")
    print(f"  and of the stored routes alone: {(marginal + stored).mean():.3f} nats")
    print(f"  which have posterior probability {stored.exp().mean():.2f} on average")

    print("Both methods beat the class prior; a stored route is one term of the sum.")
    assert (table["gain"] > 1).all()
    assert (stored <= 1e-6).all()


if __name__ == "__main__":
    main()
