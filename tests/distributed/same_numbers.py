"""What two processes train is what one does: losses, gradients, buffers."""

import torch
from torch import nn

from latentroute.inference import DataParallel, SingleProcess, build
from latentroute.inference.distributed import ManyProcesses
from latentroute.inference.regularisers import LoadBalancing, MarginalEntropy
from latentroute.inference.schedules import Constant
from latentroute.inference.training_data import Batch, batches
from tests.distributed.shared import (
    BATCH,
    CPU,
    FOLDER,
    N,
    both,
    check,
    digits,
    error,
    flat,
    gradient,
    losses,
    make_net,
    trained,
)

REGULARISERS = (MarginalEntropy(Constant(0.5)), LoadBalancing(Constant(0.5)))


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
def mapped_buffer():
    """The same in files, of which each process has its own."""
    options = {"capacity": 9, "w_fresh": 0.0, "w_buffer": 1.0, "path": str(FOLDER)}
    return both("topk-buffer", **options) | {"left": len(list(FOLDER.glob("routes*")))}


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
