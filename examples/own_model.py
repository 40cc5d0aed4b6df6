"""A model of one's own, as a bare Pyro function, under two methods.

y is linear in x0 with one of two slopes, and shifted by one of three amounts; x tells
which. The program samples both decisions by pyro.sample; no class of the library is in
it. The claim: its marginal equals brute force over the six routes, and both trainings
predict better than a normal distribution fitted to y.

    python examples/own_model.py --steps 400
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import latentroute as lr
from latentroute import tasks

SLOPES, SHIFTS = torch.tensor([1.0, -2.0]), torch.tensor([-3.0, 0.0, 3.0])


def data(n: int) -> tasks.Task:
    """The sign of x0 tells the slope, the third that x1 lies in the shift."""
    generator = torch.Generator().manual_seed(0)
    x = 4 * torch.rand(n, 2, generator=generator) - 2
    a = (x[:, 0] < 0).long()
    b = ((x[:, 1] + 2) / (4 / 3)).long().clamp(max=2)
    noise = 0.1 * torch.randn(n, generator=generator)
    y = SLOPES[a] * x[:, 0] + SHIFTS[b] + noise
    return tasks.from_tensors(x, y, routes=torch.stack([a, b], -1), name="two slopes")


def make(task: tasks.Task) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """The program and the tensors that it is trained by."""
    slopes, shifts = torch.randn(2), torch.randn(3)
    router_a, router_b = torch.zeros(2, 2), torch.zeros(2, 3)
    log_scale = torch.zeros(())
    weights = [slopes, shifts, router_a, router_b, log_scale]
    for w in weights:
        w.requires_grad_()

    def model(x: Tensor, y: Tensor | None = None) -> Tensor:
        with pyro.plate("data", len(x)):
            logits = x[:, :1] * router_a[0] + router_a[1]
            a = pyro.sample("a", dist.Categorical(logits=logits))
            logits = x[:, 1:] * router_b[0] + router_b[1]
            b = pyro.sample("b", dist.Categorical(logits=logits))
            mean = slopes[a] * x[:, 0] + shifts[b]
            normal = dist.Normal(mean.unsqueeze(-1), log_scale.exp()).to_event(1)
            return pyro.sample("y", normal, obs=y)

    return model, weights


def brute_force(model: Callable[..., Tensor], x: Tensor, y: Tensor) -> Tensor:
    """log p(y | x) by conditioning the program on each of the six routes."""
    joint = []
    for a, b in itertools.product(range(2), range(3)):
        given = {"a": torch.full((len(x),), a), "b": torch.full((len(x),), b)}
        run = pyro.poutine.trace(pyro.condition(model, data=given)).get_trace(x, y)
        run.compute_log_prob()
        joint.append(sum(run.nodes[site]["log_prob"] for site in ("a", "b", "y")))
    return torch.stack(joint).logsumexp(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    task = data(1000)

    torch.manual_seed(0)
    model, _ = make(task)
    with torch.no_grad():
        ours = lr.log_marginal(model, task.test.x, task.test.y)
        by_hand = brute_force(model, task.test.x, task.test.y)
    difference = (ours - by_hand).abs().max().item()
    print(f"log p(y|x) differs from brute force by at most {difference:.1e} nats")
    assert torch.allclose(ours, by_hand, rtol=1e-5, atol=1e-4)

    tree = lr.compare(
        task,
        ["exact", "score-function"],
        seeds=options.seeds,
        model=make,
        steps=options.steps,
        lr=0.03,
    )
    table = lr.summary(tree)
    print(table[["log_lik", "gain", "rmse"]].round(3))
    print("Both methods predict better than a normal distribution fitted to y.")
    assert (table["gain"] > 0).all()


if __name__ == "__main__":
    main()
