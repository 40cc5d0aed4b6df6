"""What each of two processes does under torchrun, on real digits.

``python -m torch.distributed.run --standalone --nproc-per-node 2 -m
tests.distributed.worker FOLDER`` writes what every check found to ``rank_0.json`` and
``rank_1.json`` there; ``test_two_processes.py`` says what it must be. All checks share
one start.
"""

import itertools
import json
import math
import os
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch import nn

from latentroute import cli, tasks
from latentroute.inference import (
    METHODS,
    DataParallel,
    SingleProcess,
    build,
    data_parallel,
    fit,
)
from latentroute.inference.distributed import ManyProcesses
from latentroute.inference.regularisers import LoadBalancing, MarginalEntropy
from latentroute.inference.schedules import Constant
from latentroute.inference.training_data import Batch, batches
from latentroute.models import LayeredNetwork

RANK = int(os.environ.get("RANK", 0))
N, BATCH = 101, 50  # of an epoch's batches the last has one example: one rank has none
CPU = torch.device("cpu")
CHECKS = {}
REGULARISERS = (MarginalEntropy(Constant(0.5)), LoadBalancing(Constant(0.5)))


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


@check
def exact():
    return both("exact")


@check
def regularised():
    """Of the whole batch: functions of it that are no means over examples."""
    return both("exact", regularisers=REGULARISERS)


@check
def captured():
    options = {"compile": "capture", "data": digits(2 * BATCH), "steps": 4}
    one, two = (trained(each, "exact", **options) for each in (SingleProcess(), None))
    return {"losses": error(losses(two), losses(one))}


@check
def table_of_examples():
    return both("mean-field")


@check
def whole_buffer():
    """All routes buffered: nothing is left to chance."""
    return both("topk-buffer", capacity=9, w_fresh=0.0, w_buffer=1.0)


@check
def broken_split():
    """Negative control: parts count alike, whatever their size."""
    part = ManyProcesses.part
    ManyProcesses.part = lambda self, rows: (part(self, rows)[0], 1.0)
    try:
        return both("mean-field")
    finally:
        ManyProcesses.part = part


@check
def without_the_others():
    """Negative control: regularisers of each part alone."""
    gather = ManyProcesses._gather
    ManyProcesses._gather = lambda self, values: list(values)
    try:
        return both("exact", regularisers=REGULARISERS)
    finally:
        ManyProcesses._gather = gather


def draws_of(method, n_draws, *, rows=None, **options):
    """Projected gradients of a batch, as the processes draw them."""
    net, (x, y) = make_net(n_layers=1, hidden_features=4), digits()
    objective = build(method, net, n_data=N, example=(x[:2], y[:2]), seed=0, **options)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.0)
    generator = torch.Generator().manual_seed(1)
    size = sum(p.numel() for p in net.parameters())
    directions = torch.randn(40, size, generator=generator).double()
    batch = next(batches(N, BATCH, 0, 0))
    found = []
    with DataParallel().processes(CPU) as team:
        team.prepare(objective, optimiser, (x[:2], y[:2]))
        part, share = team.part(batch) if rows is None else (rows(batch), 1.0)
        for _ in range(n_draws):
            optimiser.zero_grad()
            mine = Batch(x[part], y[part], part, share)
            team.backward(team.loss(mine), mine)
            found.append(directions @ flat(p.grad for p in net.parameters()))
    net.zero_grad()
    exact = build("exact", net, n_data=N, target="router-elbo")
    exact(x[batch], y[batch], batch).backward()
    truth = directions @ flat(p.grad for p in net.parameters())
    return {"draws": torch.stack(found).tolist(), "truth": truth.tolist()}


@check
def score_function():
    return draws_of("score-function", 200, n_samples=4)


@check
def score_function_on_the_same_rows():
    """Negative control: both processes take the first half."""
    return draws_of("score-function", 200, n_samples=4, rows=lambda b: b[: BATCH // 2])


@check
def hard_em():
    """Buffers split by example, against both processes' work done here in turn."""
    (x, y), n_steps, lr = digits(), 6, 0.1
    rows = batches(N, BATCH, 0, 0)
    nets = [make_net() for _ in range(2)]  # what each process has
    example = (x[:2], y[:2])
    objectives = [
        build("hard-em", net, n_data=N, example=example, seed=3) for net in nets
    ]
    state = objectives[1].get_extra_state()
    # The second stream as the library starts it: from a number of the first.
    generator = torch.Generator()
    generator.set_state(state["stream"])
    seed = int(torch.randint(2**62, (2,), generator=generator)[1])
    stream = torch.Generator().manual_seed(seed).get_state()
    objectives[1].set_extra_state({**state, "stream": stream})
    for batch in (next(rows) for _ in range(n_steps)):
        total = torch.zeros(1)
        for rank, (net, objective) in enumerate(zip(nets, objectives, strict=True)):
            net.zero_grad()
            mine = batch[batch % 2 == rank]
            if len(mine):
                objective(x[mine], y[mine], mine).backward()
                total = total + gradient(net) * (len(mine) / len(batch))
            else:  # as the library: another's example, counted zero
                objective(x[batch[:1]], y[batch[:1]], batch[:1])
        for net in nets:
            nn.utils.vector_to_parameters(
                flat(net.parameters()).sub(lr * total).float(), net.parameters()
            )
    kept = objectives[0].guide.buffer.routes.clone()
    kept[1::2] = objectives[1].guide.buffer.routes[1::2]

    net = make_net()
    objective = build("hard-em", net, n_data=N, example=example, seed=3)
    optimiser = torch.optim.SGD(net.parameters(), lr=lr)
    rows = batches(N, BATCH, 0, 0)
    with DataParallel().processes(CPU) as team:
        optimiser = team.prepare(objective, optimiser, example)
        for batch in (next(rows) for _ in range(n_steps)):
            part, share = team.part(batch)
            mine = Batch(x[part], y[part], part, share)
            optimiser.zero_grad()
            team.backward(team.loss(mine), mine)
            optimiser.step()
        before = objective.guide.buffer.routes.clone()
        team.collect()
    after = objective.guide.buffer.routes
    return {
        "gradient": error(gradient(net), total),
        "weights": error(flat(net.parameters()), flat(nets[0].parameters())),
        "routes_differ": int((after != kept).sum()),
        "routes_differed_before": int((before != kept).sum()),
        "routes": after.flatten().tolist(),
    }


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


@check
def folder_of_its_own():
    """A checkpoint that one process alone sees."""
    folder = FOLDER / f"own_{RANK}"
    if RANK == 0:
        trained(SingleProcess(), "exact", steps=3, checkpoint=folder)
    return refusal(lambda: trained(None, "exact", checkpoint=folder, resume=True))


@check
def resumed():
    """Stopped and gone on with, bit for bit, random streams and all."""
    settings = {"n_samples": 4, "log_every": 1}
    whole = trained(None, "score-function", steps=12, **settings)
    folder = FOLDER / "resumed"
    trained(None, "score-function", steps=5, checkpoint=folder, **settings)
    settings |= {"resume": True, "checkpoint": folder}
    other = make_net(seed=9, router_input="input")
    again = trained(None, "score-function", net=other, steps=12, **settings)
    rows = (folder / "metrics.jsonl").read_text().splitlines()
    streams = torch.load(folder / "checkpoint.pt", weights_only=True)["processes"]
    return {
        "same": torch.equal(
            flat(again.model.parameters()), flat(whole.model.parameters())
        ),
        "losses": losses(again).tolist() == losses(whole).tolist(),
        "steps": [json.loads(row)["step"] for row in rows],
        "streams": len({tuple(s["random stream"].tolist()) for s in streams}),
        "files": sorted(p.name for p in folder.iterdir()),
    }


@check
def another_number_of_processes():
    """A checkpoint of one process gone on from by two, and theirs by one."""
    settings = {"checkpoint": FOLDER / "number"}
    if RANK == 0:
        trained(SingleProcess(), "exact", steps=3, **settings)
    trained(None, "exact", steps=1)  # they wait for each other
    settings["resume"] = True
    whole = trained(SingleProcess(), "exact", steps=9)
    two = trained(None, "exact", **settings)
    found = {"two_after_one": error(losses(two), losses(whole)[: len(two.history)])}
    if RANK == 0:
        one = trained(SingleProcess(), "exact", steps=9, **settings)
        found["one_after_two"] = error(losses(one), losses(whole))
    return found


@check
def stopped_by_sigterm():
    """It reaches process 1 alone; both save and leave after the same step."""
    net, calls = make_net(), []

    def terminate(*args):
        calls.append(1)
        if RANK == 1 and len(calls) == 9:
            os.kill(os.getpid(), signal.SIGTERM)

    net.head.register_forward_pre_hook(terminate)
    folder = FOLDER / "sigterm"
    try:
        trained(
            None,
            "exact",
            net=net,
            steps=10**6,
            checkpoint=folder,
            on_sigterm="save",
        )
    except SystemExit as stopped:
        return {"code": stopped.code, "message": stopped.message}
    return {}


@check
def every_method():
    """Weights are the same in both processes, or the method is refused in one line."""
    found = {}
    for name in METHODS:
        torch.manual_seed(RANK)  # another start in each: that of process 0 counts
        net = LayeredNetwork(64, 10, n_layers=2, n_modules=3, hidden_features=4)
        try:
            result = trained(None, name, net=net, steps=2, data=digits(21))
        except ValueError as refused:
            found[name] = str(refused)
            continue
        shared = list(result.objective.parameters())
        for part in result.objective.modules():
            shared += [getattr(part, row) for row in getattr(part, "row_buffers", ())]
        found[name] = flat(shared).nan_to_num().tolist()
    return found


@check
def command_line():
    """One call in each process: ``latentroute train``, and a command of one process."""
    out = FOLDER / "train"
    words = ["train", "--task", "digits", "--steps", "4", "--out", str(out)]
    code = cli.main([*words, "--draws", "4", "--network.hidden_features", "8"])
    refused = cli.main(["compare", "--task", "digits"])
    return {"code": code, "refused": refused, "closed": _closed()}


def _closed():
    return not torch.distributed.is_initialized()


@check
def fabric():
    """Last: its group stays open to the end."""
    try:
        import lightning_fabric
    except ImportError:
        return {"missing": True}
    from latentroute.inference import Fabric

    def launched(strategy):
        made = lightning_fabric.Fabric(
            accelerator="cpu", devices=2, num_nodes=1, strategy=strategy
        )
        made.launch()
        return Fabric(made)

    right = launched("ddp_find_unused_parameters_true")
    one = trained(SingleProcess(), "mean-field")
    two = trained(right, "mean-field")
    return {
        "weights": error(flat(two.model.parameters()), flat(one.model.parameters())),
        "losses": error(losses(two), losses(one)),
        "refusal": refusal(lambda: trained(launched("ddp"), "exact")),
    }


def main():
    found = {}
    for i, (name, function) in enumerate(CHECKS.items()):
        # Should a check fail in one process alone, the next ones meet all the same.
        data_parallel._OPENED = itertools.count(1000 * i)
        begun = time.perf_counter()
        try:
            found[name] = function()
        except Exception:
            found[name] = {"traceback": traceback.format_exc()}
        found[name]["took"] = time.perf_counter() - begun
    (FOLDER / f"rank_{RANK}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    FOLDER = Path(sys.argv[1])
    warnings.simplefilter("error")
    main()
