"""What goes wrong with torch's own tools, or in one process alone."""

import math

import pyro
import pyro.distributions as dist
import torch
from torch import nn

from latentroute.inference import SingleProcess, data_parallel
from latentroute.inference.training_data import batches
from tests.distributed.shared import (
    BATCH,
    FOLDER,
    RANK,
    N,
    check,
    digits,
    error,
    flat,
    gradient,
    make_net,
    refusal,
    trained,
)


class Dispatched(nn.Module):
    """A module that acts on large inputs alone, and one that never does."""

    def __init__(self, *, late=False):
        super().__init__()
        torch.manual_seed(0)
        self.router, self.head = nn.Linear(64, 2), nn.Linear(64, 10)
        self.seldom, self.never = nn.Linear(64, 10), nn.Linear(64, 10)
        self.late, self.calls = late, 0

    def forward(self, x, y=None):
        self.calls += torch.is_grad_enabled()
        if self.late and self.calls == 1:
            self.extra = nn.Parameter(torch.zeros(10))
        logits = self.head(x)
        large = x.sum(-1) > LARGE
        if large.any():  # as Python dispatches
            logits = logits + self.seldom(x) * large.unsqueeze(-1)
        if self.late and self.calls:
            logits = logits + self.extra
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=self.router(x)))
            logits = logits * (1.0 + a.unsqueeze(-1))
            return pyro.sample("y", dist.Categorical(logits=logits), obs=y)


x_of_batch = digits()[0][next(batches(N, BATCH, 0, 0))]
# Between the halves' largest values: one process alone has an example for `seldom`.
LARGE = min(half.sum(-1).max().item() for half in x_of_batch.chunk(2))


@check
def unused_parameters():
    large = [bool((half.sum(-1) > LARGE).any()) for half in x_of_batch.chunk(2)]
    found = {"in_parts": large}
    nets = [Dispatched(), Dispatched()]
    trained(SingleProcess(), "exact", net=nets[0], steps=1)
    trained(None, "exact", net=nets[1], steps=1)
    found["seldom"] = error(gradient(nets[1].seldom), gradient(nets[0].seldom))
    found["all"] = error(gradient(nets[1]), gradient(nets[0]))
    found["never"] = all(p.grad is None for p in nets[1].never.parameters())
    nets = [Dispatched(), Dispatched()]
    trained(SingleProcess(), "exact", net=nets[0], steps=9)
    trained(None, "exact", net=nets[1], steps=9)
    weights = [flat(net.parameters()) for net in nets]
    return found | {"weights": error(weights[1], weights[0])}


@check
def plain_ddp():
    """Negative control: DDP as it comes, where a parameter takes no part."""
    wrap = data_parallel._wrap
    data_parallel._wrap = lambda module, optimiser: (
        nn.parallel.DistributedDataParallel(module),
        optimiser,
    )
    nets = [Dispatched(), Dispatched()]
    try:
        trained(SingleProcess(), "exact", net=nets[0], steps=1)
        trained(None, "exact", net=nets[1], steps=1)
    finally:
        data_parallel._wrap = wrap
    return {"error": error(gradient(nets[1].head), gradient(nets[0].head))}


@check
def late_parameters():
    return refusal(lambda: trained(None, "exact", net=Dispatched(late=True)))


@check
def static_site():
    return refusal(lambda: trained(None, "exact", net=make_net(routing="static")))


@check
def sampler():
    return refusal(lambda: trained(None, "nuts"))


@check
def one_process_fails():
    net = make_net()
    if RANK == 1:
        calls = []

        def fail(*args):
            calls.append(1)
            if len(calls) > 9:
                raise KeyError("no such thing")

        net.head.register_forward_pre_hook(fail)
    return refusal(lambda: trained(None, "exact", net=net, steps=50))


class Breaks(nn.Module):
    """Its loss is infinite from the third step on, in process 1."""

    def __init__(self):
        super().__init__()
        self.router, self.calls = nn.Linear(64, 2), 0

    def forward(self, x, y=None):
        self.calls += torch.is_grad_enabled()
        bad = RANK == 1 and torch.is_grad_enabled() and self.calls > 2
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=self.router(x)))
            pyro.factor("reward", a.float() - (math.inf if bad else 0.0))


@check
def infinite_in_one_part():
    """Both stop at once, and the batch kept is that of process 1."""
    folder = FOLDER / "infinite"
    settings = {"net": Breaks(), "checkpoint": folder}
    found = refusal(lambda: trained(None, "exact", steps=50, **settings))
    return found | {"files": sorted(path.name for path in folder.glob("*.pt"))}
