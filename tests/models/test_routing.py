"""`route` and `route_sites`: finding decisions in any Pyro program."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from latentroute.inference import log_marginal
from latentroute.models import GivenRouting, LayeredNetwork, route, route_sites
from tests.exact import programs

x, y = torch.zeros(4, 2), torch.zeros(4)


def uniform(m=3, n=4):
    return dist.Categorical(logits=torch.zeros(n, m))


@pytest.mark.parametrize("make", programs.BROADCASTING, ids=lambda m: m.__name__)
def test_the_sites_of_users_programs_in_their_order(make):
    program = make(programs.Draw())
    assert route_sites(program.model, *program.args) == list(program.sites)


def test_a_latent_target_is_no_decision():
    """`net(x)`: y is a latent Categorical; only what `route` marks is found."""
    net = LayeredNetwork(2, 3, n_layers=2, n_modules=2, hidden_features=2)
    assert route_sites(net, x) == ["route_0", "route_1"]
    assert route_sites(net, x, y.long()) == ["route_0", "route_1"]

    def unmarked(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", uniform())
            return pyro.sample("y", dist.Categorical(logits=torch.eye(3)[a]), obs=y)

    assert route_sites(unmarked, x) == []
    assert route_sites(unmarked, x, y.long()) == ["a"]


def test_a_given_decision_is_no_longer_latent():
    def model(x, y=None, a=None):
        with pyro.plate("data", len(x), dim=-1):
            a = route("a", uniform(), obs=a)
            b = route("b", uniform())
            return pyro.sample("y", dist.Normal(1.0 * a + b, 1.0), obs=y)

    assert route_sites(model, x, y) == ["a", "b"]
    assert route_sites(model, x, y, torch.zeros(4).long()) == ["b"]
    given = pyro.condition(model, data={"b": torch.zeros(4).long()})
    assert route_sites(given, x, y) == ["a"]


def test_other_sites_are_left_out():
    def model(x, y=None):
        pyro.deterministic("sum", x.sum())
        with pyro.plate("data", len(x), dim=-1):
            a = route("a", uniform())
            pyro.deterministic("twice", 2 * a)
            pyro.factor("reward", 0.0 * a)
            return pyro.sample("y", dist.Normal(1.0 * a, 1.0), obs=y)

    assert route_sites(model, x, y) == ["a"]


def test_finding_sites_leaves_the_random_state_and_the_store_alone():
    net = LayeredNetwork(2, 3, n_layers=2, n_modules=2, hidden_features=2)
    pyro.clear_param_store()
    state = torch.get_rng_state()
    route_sites(net, x)
    assert torch.equal(state, torch.get_rng_state())
    assert not list(pyro.get_param_store())


def test_a_decision_is_an_ordinary_site_for_pyro():
    def model():
        with pyro.plate("data", 4, dim=-1):
            return route("a", uniform(), plan="enumerate")

    node = poutine.trace(model).get_trace().nodes["a"]
    assert node["infer"]["route"] == {"plan": "enumerate"}
    assert node["infer"]["enumerate"] == "parallel"
    assert node["value"].shape == (4,) and not node["is_observed"]
    sampled = poutine.trace(lambda: route("a", uniform(), plan="sample")).get_trace()
    assert "enumerate" not in sampled.nodes["a"]["infer"]


def test_a_decision_that_is_given():
    value = torch.tensor([0, 2, 1, 1])

    def model():
        with pyro.plate("data", 4, dim=-1):
            return route("a", uniform(), obs=value)

    node = poutine.trace(model).get_trace().nodes["a"]
    assert node["is_observed"] and torch.equal(node["value"], value)


# GivenRouting.


def test_given_routes_are_taken_by_index():
    net = LayeredNetwork(2, 3, n_layers=2, n_modules=3, hidden_features=2)
    routes = torch.tensor([[0, 1], [2, 2], [1, 0], [0, 0]])
    given = GivenRouting(net, routes, ["route_0", "route_1"])
    for index, expected in [
        (None, routes),
        (torch.tensor([3, 1]), routes[[3, 1]]),
    ]:
        trace = poutine.trace(given).get_trace(x[: len(expected)], None, index)
        for i in range(2):
            node = trace.nodes[f"route_{i}"]
            assert node["is_observed"]
            assert torch.equal(node["value"], expected[:, i])


def test_columns_may_come_in_any_order():
    net = LayeredNetwork(2, 3, n_layers=2, n_modules=3, hidden_features=2)
    routes = torch.tensor([[0, 1]])
    given = GivenRouting(net, routes, ["route_1", "route_0"])
    trace = poutine.trace(given).get_trace(x[:1])
    assert trace.nodes["route_1"]["value"].item() == 0
    assert trace.nodes["route_0"]["value"].item() == 1


def test_one_given_route_for_a_static_model():
    net = LayeredNetwork(
        2, 3, n_layers=2, n_modules=3, hidden_features=2, routing="static"
    )
    given = GivenRouting(net, torch.tensor([2, 1]), ["route_0", "route_1"])
    trace = poutine.trace(given).get_trace(x)
    assert trace.nodes["route_0"]["value"].item() == 2
    assert trace.nodes["route_0"]["value"].shape == ()


def test_given_routes_are_saved_with_the_model():
    net = LayeredNetwork(2, 3, n_layers=1, n_modules=3, hidden_features=2)
    given = GivenRouting(net, torch.zeros(4, 1).long(), ["route_0"])
    assert "routes" in given.state_dict()
    assert len(list(given.parameters())) == len(list(net.parameters()))


@pytest.mark.parametrize("wrong", [7, -1, 0.5, float("nan")])
def test_given_routes_are_choices_of_their_site(wrong):
    net = LayeredNetwork(
        2, 1, n_layers=1, n_modules=3, hidden_features=2, head="normal"
    )
    routes = torch.tensor([[0], [1], [wrong], [2]])
    given = GivenRouting(net, routes, ["route_0"])
    message = rf"^site 'route_0' must be given choices 0 \.\. 2, got {wrong}"
    with pytest.raises(ValueError, match=message):
        log_marginal(given, x, y)
    right = GivenRouting(net, torch.ones(4, 1).long(), ["route_0"])
    assert log_marginal(right, x, y).shape == (4,)
