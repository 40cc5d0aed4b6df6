"""Captured steps: the program's own values, or the program itself and a line of log."""

import shutil

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from latentroute.inference import build
from latentroute.inference import captured as module
from latentroute.inference.baselines import MovingAverage
from latentroute.inference.regularisers import Tempering
from latentroute.inference.schedules import Constant
from latentroute.inference.score_function import ScoreFunction
from latentroute.models import LayeredNetwork

N = 12
COMPILERS = (None, "capture")


def network(**options):
    torch.manual_seed(0)
    sizes = {"n_layers": 2, "n_modules": 3, "hidden_features": 4} | options
    out = 3 if sizes.get("head", "categorical") == "categorical" else 2
    return LayeredNetwork(4, out, **sizes)


def data(head="categorical", n=N):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 4, generator=generator)
    if head == "categorical":
        return x, torch.randint(3, (n,), generator=generator)
    y = torch.randn(n, 2, generator=generator)
    return x, (y > 0).float() if head == "bernoulli" else y


def said(caplog):
    """What our log says; torch's tracer has records of its own."""
    return [r.message for r in caplog.records if r.name.startswith("latentroute")]


def gradients(loss, objective):
    return torch.autograd.grad(loss, list(objective.parameters()))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"head": "normal"},
        {"head": "bernoulli"},
        {"routing": "static"},
        {"k": 2},
        {"router_input": "input", "n_layers": 3},
    ],
    ids=str,
)
def test_a_trusted_graph_gives_the_programs_loss_and_gradient(options):
    net = network(**options)
    x, y = data(options.get("head", "categorical"))
    plain, graph = build("exact", net), build("exact", net, compile="capture")
    for step in range(5):  # two to agree on, then the graph alone
        with torch.no_grad():
            for p in net.parameters():
                p += 0.1 * step
        expected, found = plain(x, y), graph(x, y)
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)
        pairs = zip(gradients(found, graph), gradients(expected, plain), strict=True)
        for f, e in pairs:
            torch.testing.assert_close(f, e, rtol=1e-4, atol=1e-6)
    assert graph._captured.n_captures == 1


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"head": "normal"},
        {"routing": "static"},
        {"k": 2},
        {"n_layers": 3, "n_modules": [3, 40, 2]},
    ],
    ids=str,
)
@pytest.mark.parametrize("few", [2**20, 0], ids=["picked", "sorted"])
def test_a_sampled_graph_draws_what_the_program_draws(
    options, few, monkeypatch, caplog
):
    monkeypatch.setattr("latentroute.models.stack._MOST_PICKED", few)
    net = network(**options)
    x, y = data(options.get("head", "categorical"))
    plain, graph = (
        build("score-function", net, n_samples=5, seed=3, example=(x, y), compile=c)
        for c in COMPILERS
    )
    for _ in range(5):
        expected, found = plain(x, y), graph(x, y)
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)
        pairs = zip(gradients(found, graph), gradients(expected, plain), strict=True)
        for f, e in pairs:
            torch.testing.assert_close(f, e, rtol=1e-4, atol=1e-6)
    assert not said(caplog) and graph._captured.n_captures == 1
    assert torch.equal(plain._stream.state, graph._stream.state)
    monkeypatch.setattr(net, "forward", None)
    assert torch.isfinite(graph(x, y))


class Wasteful(LayeredNetwork):
    """Draws numbers that nothing depends on."""

    wasted = 1

    def forward(self, x, y=None, index=None, n_data=None):
        value = super().forward(x, y, index, n_data=n_data)
        torch.rand(self.wasted)
        return value


@pytest.mark.parametrize("wasted", [1, 2])
def test_a_sampled_graph_leaves_the_stream_where_the_program_does(wasted, caplog):
    net = Wasteful(4, 3, n_layers=2, n_modules=3, hidden_features=4)
    plain, graph = (build("score-function", net, seed=0, compile=c) for c in COMPILERS)
    graph(*data()), plain(*data())
    net.wasted = wasted
    for _ in range(3):
        assert graph(*data()).item() == plain(*data()).item()
    assert torch.equal(plain._stream.state, graph._stream.state)
    refused = ["another number of times" in line for line in said(caplog)]
    assert refused == ([] if wasted == 1 else [True])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compile": "jit"}, "compile must be one of capture, inductor, got 'jit'"),
        ({"baseline": MovingAverage()}, "without memory.*got MovingAverage"),
    ],
    ids=["unknown", "baseline"],
)
def test_what_no_graph_can_have_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build("score-function", network(), **{"compile": "capture", **options})


def test_a_guide_of_one_s_own_is_not_captured():
    def guide(x, y):
        return None

    with pytest.raises(ValueError, match="own router as the guide, got function"):
        ScoreFunction(compile="capture")(network(), guide)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of inductor's own imports
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a compiler")
@pytest.mark.parametrize("method", ["exact", "score-function"])
def test_a_compiled_graph_gives_the_programs_loss_and_gradient(
    method, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    net = network(n_layers=1, n_modules=2)
    plain, graph = (build(method, net, seed=0, compile=c) for c in (None, "inductor"))
    for step in range(4):  # two to agree on, then the graph alone
        x, y = data(n=N)
        expected, found = plain(x + step, y), graph(x + step, y)
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)
        pairs = zip(gradients(found, graph), gradients(expected, plain), strict=True)
        for f, e in pairs:
            torch.testing.assert_close(f, e, rtol=1e-4, atol=1e-6)
    told = said(caplog)
    assert not any("captured: the graph" in line for line in told)
    if told:
        pytest.skip(f"inductor does not compile on this machine: {told[0]}")


def test_the_graph_alone_runs_once_it_is_trusted(monkeypatch):
    net = network()
    graph = build("exact", net, compile="capture")
    for _ in range(2):
        graph(*data())
    monkeypatch.setattr(net, "forward", None)
    assert torch.isfinite(graph(*data()))


def test_each_shape_is_captured_once_and_their_number_is_limited(caplog, monkeypatch):
    monkeypatch.setattr(module, "_MOST_GRAPHS", 2)
    graph = build("exact", network(), compile="capture")
    for n in (4, 5, 4, 5):
        graph(*data(n=n))
    assert graph._captured.n_captures == 2
    assert not said(caplog)
    assert torch.isfinite(graph(*data(n=6)))
    (line,) = said(caplog)
    assert "2 shapes of batches were met" in line


class Stateful(nn.Module):
    """A program whose Python state moves on at each call."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.calls = 0

    def forward(self, x, y=None):
        self.calls += 1
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Categorical(logits=self.weight))
            return pyro.sample("y", dist.Normal(a * self.calls, 1.0), obs=y)


class Looking(Stateful):
    """A program whose Python looks at a tensor's value."""

    def forward(self, x, y=None):
        if x.sum() > 0:
            x = x + 1
        return super().forward(x, y)


@pytest.mark.parametrize(
    ("program", "reason"),
    [(Stateful, "the graph gives other values"), (Looking, "DataDependent")],
)
def test_what_cannot_be_captured_runs_as_a_program_and_says_so(program, reason, caplog):
    x = torch.zeros(3)
    graph = build("exact", program(), compile="capture")
    for _ in range(3):
        graph(x, x)
    (line,) = said(caplog)
    assert "runs as a plain program, not captured" in line
    assert reason in line


def test_a_bare_function_is_refused_in_one_line():
    def model(x, y=None):
        return None

    with pytest.raises(
        ValueError, match=r"compile needs a model that is an nn\.Module"
    ):
        build("exact", model, parameters=[torch.zeros(1)], compile="capture")


class Moded(nn.Module):
    """A program that is another one in evaluation."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.3, -0.2]))

    def forward(self, x, y=None):
        x = x if self.training else 3 * x
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Categorical(logits=self.weight))
            return pyro.sample("y", dist.Normal(a * x, 1.0), obs=y)


def trusted(net, *args):
    graph = build("exact", net, compile="capture")
    for _ in range(2):
        graph(*args)
    return graph


@pytest.mark.parametrize("training", [True, False])
def test_train_and_eval_make_a_graph_each(training):
    x = torch.linspace(-1, 1, 5)
    net = Moded().train(training)
    graph = trusted(net, x, x)
    before = graph(x, x).item()
    net.train(not training)
    expected = build("exact", net)(x, x).item()
    assert abs(expected - before) > 0.1  # they differ, or nothing is tested
    for _ in range(3):
        assert graph(x, x).item() == pytest.approx(expected, rel=1e-6)
    assert graph._captured.n_captures == 2


@pytest.mark.parametrize("narrow", [False, True])
def test_a_graph_is_of_the_precision_that_it_was_captured_in(narrow):
    plain, graph = (build("exact", network(), compile=c) for c in (None, "capture"))
    for now in (narrow, narrow, narrow, not narrow):
        with torch.autocast("cpu", torch.bfloat16, enabled=now):
            expected, found = plain(*data()), graph(*data())
        assert found.item() == pytest.approx(expected.item(), rel=1e-6)
        found.backward()
    assert not graph._captured._refused


def test_a_parameter_that_is_replaced_counts():
    x = torch.linspace(-1, 1, 5)
    net = Moded()
    graph = trusted(net, x, x)
    net.weight = nn.Parameter(torch.tensor([-4.0, 4.0]))
    loss = graph(x, x)
    torch.testing.assert_close(loss, build("exact", net)(x, x))
    (found,) = torch.autograd.grad(loss, [net.weight])
    assert found.abs().max() > 0


def test_a_second_derivative_is_refused_and_not_zero():
    net = network()
    graph = trusted(net, *data())
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(graph(*data()), list(net.parameters()), create_graph=True)


@pytest.mark.parametrize("method", ["exact", "score-function"])
def test_an_argument_that_requires_a_gradient_gets_it(method):
    net, (x, y) = network(), data()
    encoder = nn.Linear(4, 4)
    plain, graph = (build(method, net, seed=0, compile=c) for c in COMPILERS)
    for _ in range(4):
        found, expected = (
            torch.autograd.grad(objective(encoder(x), y), encoder.weight)[0]
            for objective in (graph, plain)
        )
        assert expected.abs().max() > 0
        torch.testing.assert_close(found, expected)
        graph(x, y), plain(x, y)  # a step of constants between, which is captured
    assert graph._captured.n_captures == 1


def test_a_tempered_step_is_not_the_captured_one():
    net = network()
    halved = Tempering(Constant(0.5))
    plain, graph = (build("score-function", net, seed=0, compile=c) for c in COMPILERS)
    for step in range(6):
        for objective in (plain, graph):
            objective.regularise([halved] if step == 4 else [])
        assert graph(*data()).item() == pytest.approx(plain(*data()).item(), rel=1e-6)


def test_inputs_may_be_nested():
    class Listed(Moded):
        def forward(self, x, y=None):
            return super().forward(x[0], y)

    x = torch.linspace(-1, 1, 1)
    net = Listed()
    graph = trusted(net, [x], x)
    torch.testing.assert_close(graph([x], x), build("exact", net)([x], x))
    assert graph._captured.n_captures == 1


def test_a_graph_is_trusted_on_two_batches_and_not_on_one(caplog):
    class Later(Stateful):
        """Moves on after a plain call and the capture."""

        def forward(self, x, y=None):
            self.calls += 1
            with pyro.plate("data", len(x)):
                a = pyro.sample("a", dist.Categorical(logits=self.weight))
                loc = a * (2.0 if self.calls > self.last else 1.0)
                return pyro.sample("y", dist.Normal(loc, 1.0), obs=y)

    x, net = torch.zeros(3), Later()
    net.last = torch.inf
    graph = build("exact", net, compile="capture")
    graph(x, x)
    net.last = 0
    expected = build("exact", net)(x, x).item()
    for _ in range(2):
        assert graph(x, x).item() == pytest.approx(expected, rel=1e-6)
    (line,) = said(caplog)
    assert "the graph gives other values" in line


def test_the_gradient_of_a_multiple_is_that_multiple():
    net = network()
    graph, plain = trusted(net, *data()), build("exact", net)
    found = gradients(-3.0 * graph(*data()), graph)
    expected = gradients(-3.0 * plain(*data()), plain)
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-4, atol=1e-6)
