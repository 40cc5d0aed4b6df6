"""`evaluate` against brute force where it enumerates, and roughly where it samples."""

import importlib
import itertools
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from latentroute.inference import evaluate
from latentroute.models import GivenRouting, LayeredNetwork
from tests import brute_force as truth
from tests.exact import programs
from tests.exact.programs import BROADCASTING, LOOPING, Draw
from tests.statistics import assert_frequencies, assert_mean

N, M = 4, 3
module = importlib.import_module("latentroute.inference.evaluate")


def make_net(seed=0, **options):
    shape = {"n_layers": 2, "n_modules": M, "hidden_features": 3} | options
    net = LayeredNetwork(2, 3, **shape).double()
    truth.randomise(net, seed)
    x = Draw(seed=1).data(N, 2)
    head = shape.get("head", "categorical")
    y = Draw(seed=2).data(N, 3)
    if head == "categorical":
        y = y.argmax(-1)
    elif head == "bernoulli":
        y = y.gt(0).double()
    sites = truth.network_sites(
        shape["n_layers"],
        shape["n_modules"],
        shape.get("k", 1),
        shape.get("routing", "dynamic"),
    )
    return net, (x, y), sites


NETWORKS = [
    {},
    {"head": "normal", "router_input": "input"},
    {"head": "bernoulli", "k": 2, "n_layers": 1},
    {"n_modules": [2, 1, 4], "n_layers": 3},
    {"routing": "static"},
    {"routing": "static", "head": "normal"},
]
every_network = pytest.mark.parametrize("options", NETWORKS, ids=str)


def check_exact(seen, table):
    """What `evaluate` says without drawing."""
    router, posterior = truth.log_router(table), truth.joint_posterior(table)
    assert seen.exact
    truth.assert_agree(seen.log_marginal, (router + table.likelihood).logsumexp(0))
    truth.assert_agree(seen.route_probs, truth.site_marginals(table, posterior))
    truth.assert_agree(seen.router_probs, truth.site_marginals(table, router.exp()))
    assert seen.n_choices == table.sizes
    for field in seen:
        if isinstance(field, torch.Tensor):
            assert not field.requires_grad and field.device.type == "cpu"


def whole_routes(table, routes):
    """Whole routes (draws, N, L) as their numbers in the table."""
    number = torch.zeros(routes.shape[:-1], dtype=torch.long)
    for i, size in enumerate(table.sizes):
        number = number * size + routes[..., i]
    return number


def mean_by_route(model, args, sites, name="y"):
    """(P, N, D) the mean of y at each route, by conditioning."""
    means = []
    for route in itertools.product(*(range(len(s.support)) for s in sites.values())):
        data = {
            site: choice.support[m]
            if choice.static
            else choice.support[m].expand(N, *choice.support.shape[1:]).clone()
            for (site, choice), m in zip(sites.items(), route, strict=True)
        }
        fn = poutine.trace(pyro.condition(model, data=data)).get_trace(*args)
        means.append(fn.nodes[name]["fn"].mean.reshape(N, -1))
    return torch.stack(means)


@every_network
def test_networks(options):
    net, args, sites = make_net(**options)
    table = truth.tabulate(net, args, sites)
    seen = evaluate(net, *args)
    assert seen.names == tuple(sites)
    check_exact(seen, table)
    # Predictions: routes as the router has them, y unseen.
    router = truth.log_router(table).exp()
    if options.get("head", "categorical") == "categorical":
        classes = []
        for c in range(3):
            given = torch.full((N,), c)
            likelihood = truth.tabulate(net, (args[0], given), sites).likelihood
            classes.append((router * likelihood.exp()).sum(0))
        expected = torch.stack(classes, -1)
        truth.assert_agree(seen.predictive.sum(-1), torch.ones(N).double())
    else:
        expected = torch.einsum("pn,pnd->nd", router, mean_by_route(net, args, sites))
    truth.assert_agree(seen.predictive, expected)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("make", BROADCASTING, ids=lambda make: make.__name__)
def test_users_programs(make, n):
    model, args, sites, _ = make(Draw(), n)
    table = truth.tabulate(model, args, sites)
    seen = evaluate(model, *args, draws=3)
    check_exact(seen, table)
    assert seen.routes.shape == (3, n, len(sites))
    if make is programs.by_factor:
        assert seen.predictive is None and seen.y_draws is None
    else:
        assert len(seen.predictive) == n and seen.y_draws.shape[:2] == (3, n)


@pytest.mark.parametrize("make", LOOPING, ids=lambda make: make.__name__)
@pytest.mark.filterwarnings("ignore:the program does not broadcast")
def test_programs_that_do_not_broadcast(make):
    """Predictions are those of every route, not of the first that was run."""
    model, args, sites, _ = make(Draw(), N)
    table = truth.tabulate(model, args, sites)
    seen = evaluate(model, *args, draws=400)
    check_exact(seen, table)
    router = truth.log_router(table).exp()
    means = mean_by_route(model, args, sites)
    expected = torch.einsum("pn,pnd->nd", router, means)
    truth.assert_agree(seen.predictive, expected)
    assert_mean(seen.y_draws, expected.squeeze(-1))


@every_network
def test_draws_of_routes_follow_the_posterior(options):
    net, args, sites = make_net(**options)
    table = truth.tabulate(net, args, sites)
    seen = evaluate(net, *args, draws=3000)
    assert seen.routes.shape == (3000, N, len(sites))
    numbers = whole_routes(table, seen.routes)
    posterior = truth.joint_posterior(table)
    if "routing" in options:
        assert (seen.routes == seen.routes[:, :1]).all(), "one route for all"
        assert_frequencies(numbers[:, 0], posterior[:, 0])
    else:
        assert_frequencies(numbers, posterior.T)


@pytest.mark.parametrize(
    "make",
    [
        programs.static_then_dynamic,
        programs.dynamic_then_static,
        programs.static_around_dynamic,
    ],
    ids=lambda make: make.__name__,
)
def test_draws_of_static_and_dynamic_sites_belong_together(make):
    """Example 1's dynamic choices go with the static ones of the same draw."""
    model, args, sites, _ = make(Draw())
    table = truth.tabulate(model, args, sites)
    seen = evaluate(model, *args, draws=4000)
    for i, static in enumerate(table.static):
        if static:
            assert (seen.routes[..., i] == seen.routes[:, :1, i]).all()
    posterior = truth.joint_posterior(table)
    numbers = whole_routes(table, seen.routes)
    for example in range(3):
        assert_frequencies(numbers[:, example], posterior[:, example])


@pytest.mark.parametrize("options", NETWORKS[:3], ids=str)
def test_draws_of_y_follow_the_prediction(options):
    net, args, _ = make_net(**options)
    seen = evaluate(net, *args, draws=3000)
    if options.get("head", "categorical") == "categorical":
        assert seen.y_draws.shape == (3000, N)
        assert_frequencies(seen.y_draws, seen.predictive)
    else:
        assert seen.y_draws.shape == (3000, N, 3)
        assert_mean(seen.y_draws, seen.predictive)


def test_draws_of_y_have_the_spread_of_all_routes():
    """Two routes far apart: draws lie at both, none between."""

    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=torch.zeros(len(x), 2)))
            return pyro.sample("y", dist.Normal(10.0 * a - 5.0, 0.1), obs=y)

    x = torch.zeros(3, 1)
    drawn = evaluate(model, x, torch.tensor([5.0, -5.0, 5.0]), draws=500).y_draws
    assert ((drawn.abs() - 5).abs() < 1).all()
    for column in drawn.T:
        assert_frequencies((column > 0).long(), torch.tensor([0.5, 0.5]))


def test_a_seed_starts_the_draws():
    net, args, _ = make_net()
    one, same, other = (evaluate(net, *args, seed=s) for s in (3, 3, 4))
    state = torch.get_rng_state()
    evaluate(net, *args)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(one.routes, same.routes)
    assert torch.equal(one.y_draws, same.y_draws)
    assert not torch.equal(one.y_draws, other.y_draws)
    assert torch.equal(one.log_marginal, other.log_marginal)


def test_without_draws_the_rest_is_the_same():
    net, args, _ = make_net()
    none, some = evaluate(net, *args, draws=0), evaluate(net, *args, draws=3)
    for name in ("log_marginal", "route_probs", "router_probs"):
        assert torch.equal(getattr(none, name), getattr(some, name)), name
    assert none.routes.shape == (0, *some.routes.shape[1:])
    assert none.predictive is None and none.y_draws is None


def test_a_model_in_training_is_left_in_training():
    net, args, _ = make_net()
    for training in (True, False):
        net.train(training)
        evaluate(net, *args)
        assert net.training == net.head.training == training


def test_examples_in_chunks(monkeypatch):
    net, args, _ = make_net()
    whole = evaluate(net, *args, draws=5)
    monkeypatch.setattr(module, "PART_BYTES", 1)
    chunked = evaluate(net, *args, draws=5)
    for field in ("log_marginal", "route_probs", "router_probs", "predictive"):
        truth.assert_agree(getattr(chunked, field), getattr(whole, field))
    assert chunked.routes.shape == whole.routes.shape
    assert chunked.y_draws.shape == whole.y_draws.shape
    static, args, sites = make_net(routing="static")
    seen = evaluate(static, *args)
    check_exact(seen, truth.tabulate(static, args, sites))


@every_network
def test_importance_sampling_roughly_agrees(options, monkeypatch):
    net, args, _ = make_net(**options)
    exact = evaluate(net, *args, draws=50)
    monkeypatch.setattr(module, "enumerates", lambda *args: False)
    seen = evaluate(net, *args, draws=2000)
    assert exact.exact and not seen.exact
    assert (seen.log_marginal - exact.log_marginal).abs().max() < 0.3
    for field in ("route_probs", "router_probs", "predictive"):
        ours, known = getattr(seen, field), getattr(exact, field)
        assert ours.shape == known.shape
        assert (ours - known).abs().max() < 0.15 * known.abs().max(), field
    shares = torch.nn.functional.one_hot(seen.routes, max(seen.n_choices))
    assert (shares.double().mean(0) - seen.route_probs).abs().max() < 0.1


def test_more_routes_than_can_be_listed():
    """2^17 routes over equal modules: all of one likelihood, that of a plain net."""
    modules = []
    for layer in range(17):
        torch.manual_seed(layer)
        first = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Tanh())
        modules.append([first, lambda z, f=first: f(z)])
    net = LayeredNetwork(
        2, 3, n_layers=17, n_modules=2, hidden_features=3, module=modules
    )
    x, y = torch.randn(2, 2), torch.tensor([0, 2])
    z = net.encoder(x)
    for first, _ in modules:
        z = first(z)
    plain = net.head.linear(z).log_softmax(-1)
    seen = evaluate(net, x, y, draws=300)
    assert not seen.exact
    truth.assert_agree(seen.log_marginal, plain[torch.arange(2), y])
    truth.assert_agree(seen.predictive, plain.exp())
    assert seen.routes.shape == (300, 2, 17)
    assert (seen.route_probs.sum(-1) - 1).abs().max() < 1e-5


def test_given_routes_leave_nothing_to_infer():
    net, args, _ = make_net()
    routes = torch.tensor([[0, 1], [2, 2], [1, 0], [0, 0]])
    given = GivenRouting(net, routes, ["route_0", "route_1"])
    seen = evaluate(given, *args, draws=4)
    assert seen.names == () and seen.routes.shape == (4, N, 0)
    assert seen.log_marginal.shape == (N,)
    truth.assert_agree(seen.predictive.sum(-1), torch.ones(N).double())


def test_without_targets_is_refused():
    net, args, _ = make_net()
    with pytest.raises(ValueError, match=r"pass y|give its value"):
        evaluate(net, args[0])


def test_no_warning_for_ordinary_programs():
    net, args, _ = make_net()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(net, *args)
