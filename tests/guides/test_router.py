"""The router as the guide, under our objectives and Pyro's."""

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO

from latentroute.guides import RouterGuide
from latentroute.inference import ScoreFunction, build
from latentroute.models import LayeredNetwork
from tests import brute_force as truth
from tests.exact import programs
from tests.statistics import assert_unbiased

N, M = 4, 3


def make_net(routing="dynamic", **options):
    net = LayeredNetwork(
        2, 3, n_layers=2, n_modules=M, hidden_features=3, routing=routing, **options
    ).double()
    truth.randomise(net, 0)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N, 2, generator=generator, dtype=torch.float64)
    return net, x, torch.randint(3, (N,), generator=generator)


@pytest.mark.parametrize("make", programs.BROADCASTING, ids=lambda m: m.__name__)
def test_it_samples_the_routing_sites_and_nothing_else(make):
    program = make(programs.Draw())
    guide = RouterGuide(program.model)
    trace = poutine.trace(guide).get_trace(*program.args)
    sampled = [
        name
        for name, node in trace.nodes.items()
        if node["type"] == "sample" and type(node["fn"]).__name__ != "_Subsample"
    ]
    assert sampled == list(program.sites)


# Sites made by `route` ask Pyro for enumeration, and Trace_ELBO says that it cannot.
samples_all_the_same = pytest.mark.filterwarnings(
    "ignore:(.|\n)*Found sample sites configured for enumeration"
)


@samples_all_the_same
@pytest.mark.parametrize("routing", ["dynamic", "static"])
def test_it_runs_under_pyros_trace_elbo(routing):
    net, x, y = make_net(routing)
    pyro.clear_param_store()
    elbo = Trace_ELBO(max_plate_nesting=1)(net, RouterGuide(net))
    loss = elbo(x, y)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None for p in net.parameters())


@samples_all_the_same
def test_pyros_trace_elbo_with_it_estimates_the_router_elbo():
    net, x, y = make_net()
    parameters = list(net.parameters())
    table = truth.tabulate(net, (x, y), truth.network_sites(2, M))
    expected = truth.gradient(-truth.router_elbo(table), parameters)
    elbo = Trace_ELBO(num_particles=32, vectorize_particles=True, max_plate_nesting=1)

    def draw(seed):
        rows, copies = [], 8
        batch = x.repeat(copies, 1), y.repeat(copies)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for _ in range(250):
                loss = elbo.differentiable_loss(net, RouterGuide(net), *batch)
                rows.append(truth.gradient(loss / len(batch[0]), parameters))
        return torch.stack(rows)

    assert_unbiased(draw, expected)


def test_an_enumerated_router_guide_is_the_exact_router_elbo_in_pyro_too():
    net, x, y = make_net()
    parameters = list(net.parameters())
    table = truth.tabulate(net, (x, y), truth.network_sites(2, M))
    expected = -truth.router_elbo(table)
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    loss = elbo.differentiable_loss(net, RouterGuide(net), x, y) / N
    truth.assert_agree(loss, expected)
    truth.assert_agree(
        truth.gradient(loss, parameters), truth.gradient(expected, parameters)
    )
    ours = build("exact", net, target="router-elbo")(x, y)
    truth.assert_agree(ours, expected)


class Counting:
    """Counts the runs of a network, and the calls of its parts."""

    def __init__(self, net):
        self.runs, self.heads, self.encoders = 0, 0, 0
        net.register_forward_pre_hook(lambda *args: self.add("runs"))
        net.head.register_forward_pre_hook(lambda *args: self.add("heads"))
        net.encoder.register_forward_pre_hook(lambda *args: self.add("encoders"))

    def add(self, what):
        setattr(self, what, getattr(self, what) + 1)

    def during(self, function):
        before = (self.runs, self.heads, self.encoders)
        function()
        after = (self.runs, self.heads, self.encoders)
        return tuple(b - a for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("routing", ["dynamic", "static"])
@pytest.mark.parametrize("guide", [None, "router"])
def test_the_network_runs_once_a_loss(guide, routing):
    net, x, y = make_net(routing)
    counting = Counting(net)
    objective = ScoreFunction()(net, RouterGuide(net) if guide else None, seed=0)
    objective(x, y)  # the first also reads and checks the program
    assert counting.during(lambda: objective(x, y)) == (1, 1, 1)
    assert counting.during(lambda: objective(x[:2], y[:2])) == (1, 1, 1)


@pytest.mark.parametrize("routing", ["dynamic", "static"])
def test_exact_runs_the_network_once_a_loss(routing):
    net, x, y = make_net(routing)
    counting = Counting(net)
    objective = build("exact", net)
    objective(x, y)
    assert counting.during(lambda: objective(x, y)) == (1, 1, 1)


def test_the_guide_of_another_network_runs_both_once():
    net, x, y = make_net()
    other = make_net()[0]
    counting, others = Counting(net), Counting(other)
    objective = ScoreFunction()(net, RouterGuide(other), seed=0)
    objective(x, y)
    assert counting.during(lambda: objective(x, y)) == (1, 1, 1)
    assert others.during(lambda: objective(x, y))[0] == 1
