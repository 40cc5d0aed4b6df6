"""What the checks of two processes have in common."""

import os
import sys
import time
from pathlib import Path

import torch

from latentroute import tasks
from latentroute.inference import SingleProcess, fit
from latentroute.models import LayeredNetwork

RANK = int(os.environ.get("RANK", 0))
FOLDER = Path(sys.argv[-1])  # the worker's argument
N, BATCH = 101, 50  # of an epoch's batches the last has one example: one rank has none
CPU = torch.device("cpu")
CHECKS = {}


def check(function):
    CHECKS[function.__name__] = function
    return function


def digits(n=N):
    train = tasks.load("digits").train
    return train.x[:n], train.y[:n]


def make_net(seed=0, **options):
    torch.manual_seed(seed)
    shape = {"n_layers": 2, "n_modules": 3, "hidden_features": 6} | options
    return LayeredNetwork(64, 10, **shape)


def flat(tensors):
    return torch.cat([t.detach().flatten().double() for t in tensors])


def gradient(net):
    return flat(p.grad for p in net.parameters() if p.grad is not None)


def error(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def losses(result):
    return torch.tensor([row["loss"] for row in result.history])


def trained(strategy, method, *, data=None, net=None, **options):
    net = make_net(router_input="input") if net is None else net
    settings = {"steps": 7, "batch_size": BATCH, "log_every": 10**6} | options
    data = digits() if data is None else data
    return fit(net, data, method, strategy=strategy, **settings)


def both(method, **options):
    """Errors of two processes' training against one's: first gradient, all after it."""
    first = options | {"steps": 1}
    one = trained(SingleProcess(), method, **first)
    two = trained(None, method, **first)
    found = {"gradient": error(gradient(two.model), gradient(one.model))}
    one = trained(SingleProcess(), method, **options)
    two = trained(None, method, **options)
    found["weights"] = error(flat(two.model.parameters()), flat(one.model.parameters()))
    found["losses"] = error(losses(two), losses(one))
    buffers = [dict(r.objective.named_buffers()) for r in (one, two)]
    found["buffers"] = max(
        [
            (buffers[1][name].double() - value.double()).nan_to_num().abs().max().item()
            for name, value in buffers[0].items()
        ],
        default=0.0,
    )
    return found


def refusal(call):
    """What a call raises: its type and message, and how long it took."""
    begun = time.perf_counter()
    try:
        call()
    except Exception as raised:
        seconds = time.perf_counter() - begun
        return {
            "type": type(raised).__name__,
            "text": str(raised),
            "seconds": seconds,
            "closed": not torch.distributed.is_initialized(),
        }
    return {"type": None}
