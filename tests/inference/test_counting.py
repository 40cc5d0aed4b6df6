"""What training takes, in counts: exact, so that nothing here depends on the clock."""

from collections import Counter
from math import prod

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from latentroute import analysis
from latentroute.inference import METHODS, build, compare, log_marginal
from latentroute.inference.counting import KernelCount, count_evaluations
from latentroute.models import LayeredNetwork, ModuleBank, route
from latentroute.tasks import from_tensors

B = 6


def make_net(n_layers=3, n_modules=4, **options):
    torch.manual_seed(0)
    return LayeredNetwork(
        5, 3, n_layers=n_layers, n_modules=n_modules, hidden_features=8, **options
    )


def make_data(n=B):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 5, generator=generator)
    return x, torch.randint(3, (n,), generator=generator)


def step_of(method, net, n=B, **options):
    """An objective after its first call, which also reads the program."""
    data = make_data(n)
    objective = build(method, net, n_data=n, seed=0, example=data, **options)
    objective(*data)
    return lambda: objective(*data)


def evaluations(method, net, **options):
    """Module evaluations an example, and calls of banks, of one loss."""
    step = step_of(method, net, **options)
    with count_evaluations() as count:
        step()
    return count.rows / B, count.calls


def every_route(sizes):
    """sum_l prod_{k <= l} M_k."""
    return sum(prod(sizes[: i + 1]) for i in range(len(sizes)))


def beam(n_samples, n_modules, n_layers):
    """Distinct prefixes, at most S: run to each next site, then to the end."""
    paths = [min(n_samples, n_modules**i) for i in range(n_layers + 1)]
    to_each = [(i, paths[i]) for i in range(1, n_layers)]
    runs = [*to_each, (n_layers, paths[-1])]
    return sum(at_routes(n, length, n_modules) for length, n in runs)


# Module evaluations.


@pytest.mark.parametrize("sizes", [[4], [2, 3], [4, 4, 4], [3, 1, 2, 5]])
@pytest.mark.parametrize("router_input", ["activation", "input"])
def test_exact_evaluates_each_prefix_once(sizes, router_input):
    net = make_net(len(sizes), sizes, router_input=router_input)
    assert evaluations("exact", net) == (every_route(sizes), len(sizes))


def at_routes(n_routes, n_layers, n_modules):
    """All routes in one run: at the first layer, no module twice."""
    return min(n_routes, n_modules) + n_routes * (n_layers - 1)


@pytest.mark.parametrize(("n_layers", "n_modules"), [(1, 2), (3, 4), (2, 16)])
@pytest.mark.parametrize(
    ("method", "options", "runs"),
    [
        ("score-function", {"n_samples": 5}, [5]),
        ("importance", {"n_samples": 5}, [5]),
        ("amortised", {"n_samples": 5}, [5]),
        ("hard-em", {"n_samples": 5}, [5 + 1, 1]),
        ("hard-em", {"n_samples": 5, "include_incumbent": False}, [5, 1]),
        ("topk-buffer", {"n_samples": 5, "capacity": 2}, [5 + 2]),
        ("topk-buffer", {"n_samples": 5, "capacity": 2, "interval": 2}, [5 + 2]),
        ("memory-augmented", {"n_samples": 5, "capacity": 2}, [5 + 2]),
        ("wake-sleep", {"n_samples": 5}, [5, 5]),
    ],
)
def test_sampling_evaluates_chosen_modules_alone(
    method, options, runs, n_layers, n_modules
):
    """Whatever M; one call a layer and run."""
    net = make_net(n_layers, n_modules)
    rows = sum(at_routes(n, n_layers, n_modules) for n in runs)
    assert evaluations(method, net, **options) == (rows, len(runs) * n_layers)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"routing": "static"}, 4 + 5 * 2),
        ({"k": 2, "n_modules": 10}, 10 + 2 * 5 * 2),
        ({"k": 2, "n_modules": 11}, 2 * 5 * 3),
    ],
    ids=str,
)
def test_static_routes_and_slots_evaluate_no_module_twice(options, expected):
    net = make_net(**options)
    assert evaluations("score-function", net, n_samples=5)[0] == expected


@pytest.mark.parametrize(("n_layers", "n_modules"), [(2, 3), (3, 4), (2, 16)])
def test_unordered_set_evaluates_what_its_beam_meets(n_layers, n_modules):
    found, calls = evaluations("unordered-set", make_net(n_layers, n_modules))
    assert found == beam(8, n_modules, n_layers)
    assert calls == n_layers * (n_layers + 1) // 2


def test_soft_evaluates_every_module_once():
    assert evaluations("soft", make_net(3, 4)) == (12, 3)


def test_chunks_add_up_to_the_same():
    """In parts of examples no row is evaluated twice, but in the backward pass."""
    net = make_net(3, 4)
    whole = step_of("exact", net, 64)
    parts = step_of("exact", net, 64, memory_limit=200_000)
    plain_runs = 2 * 64 * 3  # which compare a part with the whole
    with count_evaluations() as one:
        whole()
    with count_evaluations() as many:
        loss = parts()
    assert many.calls > one.calls and one.rows == 84 * 64
    assert one.rows < many.rows <= one.rows + plain_runs
    with count_evaluations() as again:
        loss.backward()
    assert again.rows == one.rows


def test_modules_of_any_kind_and_plain_functions_count():
    """A program that closes over its bank: nothing to walk through."""
    banks = [
        ModuleBank([nn.Linear(2, 1) for _ in range(3)]),
        ModuleBank([lambda z: z[:, :1], nn.Linear(2, 1), lambda z: -z[:, :1]]),
    ]
    for bank in banks:

        def model(x, y, bank=bank):
            with pyro.plate("data", len(x)):
                a = route("a", dist.Categorical(logits=torch.zeros(3)))
                mean = bank(x, a).squeeze(-1)
                pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

        args = (torch.ones(4, 2), torch.ones(4))
        log_marginal(model, *args)
        with count_evaluations() as count:
            bank(args[0], torch.tensor([0, 0, 2, 2]))
        assert (count.rows, count.calls) == (4, 1)
        with count_evaluations() as count:
            log_marginal(model, *args)
        assert count.rows == 3 * 4 + 3 * 4  # all routes; three plain runs


def test_nothing_is_left_of_the_count():
    net, (x, y) = make_net(), make_data()
    before = [dict(vars(bank._evaluate)) for bank in net.banks]
    with pytest.raises(ZeroDivisionError), count_evaluations() as count:
        net(x, y)
        raise ZeroDivisionError
    assert [dict(vars(bank._evaluate)) for bank in net.banks] == before
    net(x, y)
    assert count.rows == B * 3
    with count_evaluations() as outer:
        net(x, y)
        with count_evaluations() as inner:
            net(x, y)
    assert (outer.rows, inner.rows) == (2 * B * 3, B * 3)


def test_a_loop_over_modules_is_found_out():
    """The negative control: a bank that evaluates all, and picks."""
    net = make_net(2, 4)
    for bank in net.banks:
        evaluate = bank._evaluate

        def dense(z, module, evaluate=evaluate):
            rows = torch.arange(len(z))
            return evaluate.every(z)[module, rows]

        evaluate.chosen = dense
    assert evaluations("score-function", net, n_samples=5)[0] > 5 * 2


# Kernels and allocations.


def kernels(method, n_modules, n=B, *, n_layers=3, **options):
    """Kernels of a step: loss and gradient."""
    step = step_of(method, make_net(n_layers, n_modules), n, **options)
    with KernelCount() as count:
        step().backward()
    return count


@pytest.mark.parametrize(
    "method", ["exact", "score-function", "hard-em", "topk-buffer"]
)
def test_no_kernel_is_launched_a_module_or_example(method):
    """M and B change sizes alone; NumPy's products are off while torch counts."""
    # One module more, and a choice where there was none, are of one kind: from 4 on.
    # Another are many rows, which are sorted, and another choices that stand last in
    # memory, from 16 on.
    for few, many, n, more in (4, 7, 6, 24), (4, 7, 600, 900), (16, 64, 200, 400):
        sizes = ((few, n), (many, n), (few, more))
        counts = {kernels(method, m, n, n_layers=2).kernels for m, n in sizes}
        assert len(counts) == 1, sizes


def test_a_list_of_modules_is_looped_over():
    """The negative control: of another kind, modules are called one by one."""
    counts = []
    for m in (4, 16):
        modules = [[lambda z: z.sin() for _ in range(m)] for _ in range(2)]
        step = step_of("exact", make_net(2, m, module=modules))
        with KernelCount() as count:
            step().backward()
        counts.append(count.kernels)
    assert counts[1] > counts[0] + 12


@pytest.mark.parametrize("n_layers", [1, 2, 3, 5])
def test_kernels_of_an_exact_step_are_bounded(n_layers):
    """A loss and its gradient: forty or fewer a layer, as many again for the ends."""
    count = kernels("exact", 2, n_layers=n_layers)
    assert count.kernels <= 40 * (n_layers + 1)


def test_allocations_of_an_exact_step_are_bounded():
    """A layer's values, their gradients and little else, at the last layer's rows."""
    n, n_layers, m, width = 64, 3, 4, 8
    count = kernels("exact", m, n, n_layers=n_layers)
    last = 4 * n * m**n_layers * width  # bytes of the last layer's activations
    assert count.allocated <= 12 * last


def test_kernels_are_those_of_the_profiler():
    """Another count of the same work: the operations that torch's profiler saw."""
    step = step_of("exact", make_net(2, 3))
    names = ["aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::tanh_"]
    names += ["aten::_log_softmax", "aten::gather"]
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        step().backward()
    seen = {event.key: event.count for event in profiled.key_averages()}

    found = Counter()

    class Named(KernelCount):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            found[f"aten::{func.overloadpacket.__name__}"] += 1
            return super().__torch_dispatch__(func, types, args, kwargs)

    with Named():
        step().backward()
    for name in names:
        assert found[name] == seen.get(name, 0), name
    assert found["aten::tanh_"] == 2


def test_views_and_work_in_place_allocate_nothing():
    z = torch.ones(10, 4)
    with KernelCount() as count:
        z.view(4, 10).transpose(0, 1)[1:]
    assert (count.kernels, count.allocated) == (0, 0)
    with KernelCount() as count:
        z.add_(1.0)
    assert (count.kernels, count.allocated) == (1, 0)
    with KernelCount() as count:
        z + 1.0
    assert (count.kernels, count.allocated) == (1, 160)


# The comparison says what each method took.


def test_a_comparison_says_how_many_evaluations_a_step_takes():
    x, y = make_data(40)
    methods = {
        "exact": METHODS["exact"],
        "em": METHODS["hard-em"],
        "rarely": type(METHODS["hard-em"])(n_samples=5, interval=4),
        "nuts": METHODS["nuts"],
    }
    options = {"n_layers": 2, "n_modules": 3, "hidden_features": 3}
    tree = compare(
        from_tensors(x, y), methods, 1, network=options, steps=8, draws=2, batch_size=8
    )
    table = analysis.summary(tree)
    assert table["evaluations"]["exact"] == 3 + 9
    assert table["evaluations"]["em"] == at_routes(10, 2, 3) + at_routes(1, 2, 3)
    assert table["evaluations"]["rarely"] == 2 + at_routes(6, 2, 3) / 4
    assert table["evaluations"].isna()["nuts"]  # its steps take more or less
    assert tree["exact/seed_0"].attrs["evaluations"] == 12
