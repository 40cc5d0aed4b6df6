"""Examples taken some at a time: the same results in less memory, or all at once."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from latentroute.inference import (
    build,
    evaluate,
    log_marginal,
    map_route,
    parts,
    route_posterior,
    sample_routes,
)
from latentroute.inference.counting import count_evaluations
from latentroute.inference.structure import read_structure
from latentroute.models import LayeredNetwork, route
from tests import brute_force as truth
from tests.statistics import assert_frequencies

L, M = 3, 3


def make_net(**options):
    shape = {"n_layers": L, "n_modules": M, "hidden_features": 3} | options
    net = LayeredNetwork(2, 3, **shape).double()
    truth.randomise(net, 4, scale=1.2)
    return net


def make_data(n=7):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (n,), generator=generator)


def two_examples(net, x, y):
    """Bytes that let a run take two examples, and no more."""
    return read_structure(net, x, y).enumeration_bytes(2)


@pytest.fixture
def sizes(monkeypatch):
    """How many examples each run of a head saw, in rows."""
    seen = []
    plain = LayeredNetwork.forward

    def spied(self, x, y=None, index=None, **options):
        seen.append(len(x))
        return plain(self, x, y, index, **options)

    monkeypatch.setattr(LayeredNetwork, "forward", spied)
    return seen


@pytest.mark.parametrize("router_input", ["activation", "input"])
def test_without_gradients_parts_are_small(monkeypatch, sizes, router_input):
    net, (x, y) = make_net(router_input=router_input), make_data()
    table = truth.tabulate(net, (x, y), truth.network_sites(L, M))
    monkeypatch.setattr(parts, "PART_BYTES", two_examples(net, x, y))
    sizes.clear()
    with torch.no_grad():
        posterior = route_posterior(net, x, y)
        assert 2 in sizes and 1 in sizes  # 7 = 2 + 2 + 2 + 1
        marginal = log_marginal(net, x, y)
    truth.assert_agree(posterior.log_probs.exp(), truth.joint_posterior(table).T)
    truth.assert_agree(marginal, truth.log_marginal(table))


def test_with_gradients_parts_come_where_the_whole_does_not_fit(sizes):
    net, (x, y) = make_net(), make_data()
    parameters = list(net.parameters())
    weight = torch.linspace(-1, 2, 7 * M**L, dtype=torch.float64).reshape(7, -1)
    limit = two_examples(net, x, y)
    wholly = route_posterior(net, x, y).log_probs
    sizes.clear()
    by_parts = route_posterior(net, x, y, memory_limit=limit).log_probs
    assert 2 in sizes
    truth.assert_agree(by_parts, wholly)
    truth.assert_agree(
        truth.gradient((weight * by_parts).sum(), parameters),
        truth.gradient((weight * wholly).sum(), parameters),
    )
    truth.assert_agree(
        truth.gradient(build("exact", net, memory_limit=limit)(x, y), parameters),
        truth.gradient(build("exact", net)(x, y), parameters),
    )


def test_best_and_drawn_routes_come_in_parts(monkeypatch):
    net, (x, y) = make_net(), make_data()
    table = truth.tabulate(net, (x, y), truth.network_sites(L, M))
    monkeypatch.setattr(parts, "PART_BYTES", two_examples(net, x, y))
    best = map_route(net, x, y)
    joint = table.likelihood + truth.log_router(table)
    truth.assert_agree(best.log_joint, joint.max(0).values)
    assert torch.equal(best.routes, table.routes[joint.argmax(0)])
    drawn = sample_routes(net, x, y, n=2000)
    assert drawn.routes.shape == (2000, 7, L) and torch.isinf(drawn.ess).all()
    number = (drawn.routes * torch.tensor([9, 3, 1])).sum(-1)
    for i in range(7):
        assert_frequencies(number[:, i], truth.joint_posterior(table)[:, i])


@pytest.mark.parametrize("n", [8, 16, 32])
def test_the_work_is_proportional_to_the_examples(monkeypatch, n):
    """And the largest run is not: what it makes is that of two examples."""
    net, (x, y) = make_net(), make_data(n)
    monkeypatch.setattr(parts, "PART_BYTES", two_examples(net, x, y))
    plain_runs = 6 * n * L  # reads the structure, compares, at most
    a_route = sum(M**layer for layer in range(1, L + 1))
    with torch.no_grad(), count_evaluations() as count:
        route_posterior(net, x, y)
    assert n * a_route <= count.rows <= n * a_route + plain_runs


def rows_elsewhere(net):
    """A program that reads its targets by row number."""
    x, y = make_data()

    def model(inputs, targets=None):
        at = torch.arange(len(inputs))
        return net(inputs, (y + 1)[at] % 3)

    return model, (x, y)


def whole_batch(net):
    """A program that centres its batch."""

    def model(inputs, targets=None):
        return net(inputs - inputs.mean(0), targets)

    return model, make_data()


def own_data(net):
    """A program whose data plate is not of what it is passed."""
    x, y = make_data()
    return (lambda inputs, targets=None: net(x, y)), (x, y)


def static_site(net):
    """One route for all examples."""
    return make_net(routing="static"), make_data()


PROGRAMS = [rows_elsewhere, whole_batch, own_data, static_site]


@pytest.mark.parametrize("make", PROGRAMS, ids=lambda make: make.__name__)
def test_examples_that_cannot_be_told_apart_are_taken_at_once(monkeypatch, make):
    """Right or refused, never cut in silence."""
    model, args = make(make_net())
    with torch.no_grad():
        marginal = log_marginal(model, *args)
        posterior = route_posterior(model, *args).log_probs
        limit = read_structure(model, *args).enumeration_bytes(2)
        monkeypatch.setattr(parts, "PART_BYTES", limit)
        truth.assert_agree(log_marginal(model, *args), marginal)
        truth.assert_agree(route_posterior(model, *args).log_probs, posterior)
        with pytest.raises(ValueError, match="would take about"):
            route_posterior(model, *args, memory_limit=limit)


def test_cut_in_spite_of_that_they_would_be_wrong(monkeypatch):
    """The negative control of the comparison that finds them out."""
    model, args = rows_elsewhere(make_net())
    with torch.no_grad():
        expected = log_marginal(model, *args)
        limit = read_structure(model, *args).enumeration_bytes(2)
        monkeypatch.setattr(parts, "PART_BYTES", limit)
        monkeypatch.setattr(parts, "_alike", lambda *args: True)
        assert not torch.allclose(log_marginal(model, *args), expected)


def test_importance_samples_of_many_examples_come_in_parts(monkeypatch):
    net, (x, y) = make_net(n_layers=12), make_data()
    monkeypatch.setattr(parts, "PART_BYTES", 2**20)
    drawn = sample_routes(net, x, y, n=50)
    assert drawn.routes.shape == (50, 7, 12) and torch.isfinite(drawn.ess).all()


def test_an_outer_plate_and_an_argument_for_all(monkeypatch):
    """Only what has a row an example is cut."""
    bias = torch.tensor([0.3, -0.2], dtype=torch.float64)

    def model(x, y, shift):
        with pyro.plate("data", len(x)):
            a = route("a", dist.Categorical(logits=x))
            pyro.sample("y", dist.Normal(shift[a], 1.0), obs=y)

    x, _ = make_data(9)
    y = x.sum(-1)
    with torch.no_grad():
        expected = route_posterior(model, x, y, bias).log_probs
        limit = read_structure(model, x, y, bias).enumeration_bytes(3)
        monkeypatch.setattr(parts, "PART_BYTES", limit)
        truth.assert_agree(route_posterior(model, x, y, bias).log_probs, expected)


def test_an_evaluation_is_whole_whatever_its_parts():
    net, (x, y) = make_net(), make_data()
    found = evaluate(net, x, y, draws=3)
    truth.assert_agree(found.log_marginal, log_marginal(net, x, y).detach())
