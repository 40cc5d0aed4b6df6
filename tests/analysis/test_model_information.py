"""Information of a model over a loader, against sums over all routes by hand."""

import itertools

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from latentroute.analysis import (
    information,
    information_table,
    label_table,
    model_information,
    surprise,
)
from latentroute.analysis.whole_routes import (
    entropies_in_turn,
    marginals,
    route_table,
)
from latentroute.inference import evaluate, log_marginal
from latentroute.models import LayeredNetwork

N, CHOICES = 30, (2, 3)


class Chain(torch.nn.Module):
    """Two decisions, the second's router depends on the first; y has three classes."""

    def __init__(self, seed=0):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.first = torch.randn(2, 2, generator=g, dtype=torch.float64)
        self.second = torch.randn(2, 2, 3, generator=g, dtype=torch.float64) * 2
        self.classes = torch.randn(2, 3, 3, generator=g, dtype=torch.float64) * 2
        self.dropped = torch.nn.Dropout(0.5)

    def forward(self, x, y=None):
        with pyro.plate("data", len(x)):
            x = self.dropped(x)
            a = pyro.sample("a", dist.Categorical(logits=x @ self.first))
            logits = torch.einsum("nf,afm->anm", x, self.second)
            row = torch.arange(len(x))
            b = pyro.sample("b", dist.Categorical(logits=logits[a, row]))
            pyro.sample("y", dist.Categorical(logits=self.classes[a, b]), obs=y)

    def by_hand(self, x, y):
        """(N, 2, 3) p(a, b|x) and p(a, b|x, y)."""
        p_a = torch.softmax(x @ self.first, -1)
        p_b = torch.softmax(torch.einsum("nf,afm->nam", x, self.second), -1)
        prior = p_a[..., None] * p_b
        joint = prior * torch.softmax(self.classes, -1)[..., y].movedim(-1, 0)
        return prior.numpy(), (joint / joint.sum((1, 2), keepdim=True)).numpy()


@pytest.fixture(scope="module")
def world():
    g = torch.Generator().manual_seed(1)
    x = torch.randn(N, 2, generator=g, dtype=torch.float64) * 2
    y = torch.randint(0, 3, (N,), generator=g)
    model = Chain()
    return model, x, y, *model.by_hand(x, y)


@pytest.fixture(scope="module")
def found(world):
    model, x, y, *_ = world
    return model_information(model, DataLoader(TensorDataset(x, y), batch_size=7))


def site_rows(joint):
    """(N, 2, 3) of each site, padded, from (N, 2, 3) of whole routes."""
    first = np.pad(joint.sum(2), ((0, 0), (0, 1)))
    return np.stack([first, joint.sum(1)], 1)


def entropies(p):
    """(N,) of tables (N, ...)."""
    rows = p.reshape(len(p), -1)
    return -(rows * np.log(rows)).sum(-1)


def test_sites_are_those_of_their_marginals(world, found):
    router = site_rows(world[3])
    expected = information(router)
    assert found.names == ("a", "b")
    for name, value in expected.items():
        np.testing.assert_allclose(found.sites[name], value, rtol=1e-9, err_msg=name)
    assert found.sites["use"].n_modules.tolist() == [2, 3]
    np.testing.assert_allclose(found.sites["use"].importance, router.mean(0))


def test_whole_routes_are_one_decision(world, found):
    prior = world[3]
    expected = information(prior.reshape(N, -1))
    for name, value in expected.items():
        np.testing.assert_allclose(found.whole[name], value, rtol=1e-9, err_msg=name)
    assert found.whole["h_a"][0] == pytest.approx(entropies(prior).mean())
    # the joint entropy is below the sum, the joint information above each site's
    assert found.whole["h_b"][0] < found.sites["h_b"].sum()
    assert (found.whole["mi_lower"] > found.sites["mi_lower"]).all()


def test_entropies_in_turn_add_up(world, found):
    prior = world[3]
    first = entropies(prior.sum(2))
    second = (prior.sum(2) * entropies_given(prior)).sum(1)
    np.testing.assert_allclose(found.in_turn, [first.mean(), second.mean()], rtol=1e-9)
    assert found.in_turn.sum() == pytest.approx(found.whole["h_a"][0], rel=1e-9)
    # not h_a: the second decision is surer once the first is known
    assert found.in_turn[1] < found.sites["h_a"][1] - 0.01


def entropies_given(prior):
    """(N, 2) H(B | A = a, x)."""
    rows = prior / prior.sum(2, keepdims=True)
    return -(rows * np.log(rows)).sum(-1)


def test_targets(world, found):
    _, _, y, prior, posterior = world
    router, given_y = site_rows(prior), site_rows(posterior)
    for table, probs in (
        (found.router_labels, router),
        (found.posterior_labels, given_y),
    ):
        expected = label_table(probs, y)
        np.testing.assert_allclose(table.joint, expected.joint, atol=1e-12)
        np.testing.assert_allclose(table.mi, expected.mi, rtol=1e-9)
    np.testing.assert_allclose(
        found.given_x.mi, surprise(given_y, router).mi, rtol=1e-9
    )
    whole = (posterior * np.log(posterior / prior)).sum((1, 2)).mean()
    assert found.whole_given_x.mi[0] == pytest.approx(whole, rel=1e-9)
    assert (found.given_x.mi <= found.whole_given_x.mi).all()


def test_information_on_targets_bounds_what_routing_gains(world, found):
    """log p(y|x) + KL(p(a|x,y) || p(a|x)) = E_{p(a|x,y)} log p(y|x,a)."""
    model, x, y, _, posterior = world
    model.eval()
    log_y = torch.log_softmax(model.classes, -1)[..., y].movedim(-1, 0).numpy()
    mean = (posterior * log_y).sum((1, 2)).mean()
    with torch.no_grad():
        evidence = float(log_marginal(model, x, y).mean())
    model.train()
    assert found.whole_given_x.mi[0] == pytest.approx(mean - evidence, rel=1e-9)


def test_dropout_is_off_meanwhile_and_on_again(world):
    model, x, y, *_ = world
    model.train()
    again = model_information(model, [(x, y)])
    assert model.training
    np.testing.assert_allclose(
        again.sites["h_a"], information(site_rows(world[3]))["h_a"], rtol=1e-9
    )


def test_table(found):
    table = information_table(found)
    assert table.index.tolist() == ["a", "b", "sum", "whole route"]
    assert (table["n"] == N).all()
    assert table.loc["sum", "h_a"] == pytest.approx(table["h_a"].iloc[:2].sum())
    assert table.loc["sum", "in_turn"] == pytest.approx(table.loc["whole route", "h_a"])
    assert np.isnan(table.loc["sum", "mi_lower"])
    order = ["mi_low", "mi_lower", "mi_upper", "mi_high"]
    values = table.loc[["a", "b", "whole route"], order].to_numpy()
    assert (np.diff(values, axis=1) >= 0).all()
    np.testing.assert_allclose(table["mi_y"][:2], found.posterior_labels.mi)
    stream = information_table(found.sites, names=["a", "b"])
    assert stream.loc["b", "h_b_high"] == table.loc["b", "h_b_high"]
    assert stream.index.tolist() == ["a", "b", "sum"]


def test_slots_and_activations_of_a_layered_network():
    """K = 2 slots at each of 2 layers are 4 sites; evaluate() is another route."""
    torch.manual_seed(0)
    net = LayeredNetwork(3, 2, n_layers=2, n_modules=3, hidden_features=4, k=2)
    x, y = torch.randn(20, 3), torch.randint(0, 2, (20,))
    found = model_information(net, [(x[:12], y[:12]), (x[12:], y[12:])])
    assert found.names == ("route_0_0", "route_0_1", "route_1_0", "route_1_1")
    expected = information(evaluate(net, x, y, draws=1).router_probs)
    np.testing.assert_allclose(found.sites["h_a"], expected["h_a"], rtol=1e-5)
    np.testing.assert_allclose(found.sites["mi_upper"], expected["mi_upper"], atol=1e-6)


def test_numeric_targets_have_no_label_table():
    torch.manual_seed(0)
    net = LayeredNetwork(
        2, 1, n_layers=1, n_modules=2, hidden_features=3, head="normal"
    )
    found = model_information(net, [(torch.randn(9, 2), torch.randn(9, 1))])
    assert found.router_labels is None and found.posterior_labels is None
    assert found.given_x.mi.shape == (1,)
    assert "mi_y" not in information_table(found)


def test_a_program_without_targets():
    def program(x, y=None):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Categorical(logits=x))
            pyro.factor("y", a * 0.5)

    x = torch.randn(8, 3, dtype=torch.float64)
    found = model_information(program, [x[:5], (x[5:],)])
    expected = information(torch.softmax(x, -1))
    np.testing.assert_allclose(found.sites["mi_upper"][0], expected["mi_upper"])
    assert found.given_x is None and found.router_labels is None
    assert "mi_y_given_x" not in information_table(found)


def test_refusals(world):
    model, x, y, *_ = world

    def static(x, y=None):
        a = pyro.sample("a", dist.Categorical(torch.ones(2) / 2))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(a.double(), 1.0), obs=y)

    with pytest.raises(ValueError, match="got static sites among"):
        model_information(static, [(x, x[:, 0])])
    with pytest.raises(ValueError, match="got none, expected at least one example"):
        model_information(model, [])
    with pytest.raises(ValueError, match="expected what can be read twice"):
        model_information(model, iter([(x, y)]))


def test_too_many_routes_are_refused():
    net = LayeredNetwork(2, 2, n_layers=9, n_modules=4, hidden_features=2)
    data = [(torch.randn(3, 2), torch.zeros(3, dtype=torch.long))]
    with pytest.raises(ValueError, match=r"got 262144 routes of 3 examples, too many"):
        model_information(net, data)


def test_route_table_marginals_and_turns_of_three_sites():
    rng = np.random.default_rng(0)
    choices = (2, 3, 2)
    routes = np.array(list(itertools.product(*map(range, choices))))
    joint = rng.dirichlet(np.ones(12), 5)
    cube = joint.reshape(5, *choices)
    sites = marginals(routes, joint, choices)
    np.testing.assert_allclose(sites[:, 1], cube.sum((1, 3)))
    np.testing.assert_allclose(sites[:, 2, :2], cube.sum((1, 2)))
    turns = entropies_in_turn(routes, joint, choices)
    np.testing.assert_allclose(turns[:, 0], entropies(cube.sum((2, 3))))
    np.testing.assert_allclose(turns.sum(1), entropies(joint))
    shuffled = rng.permutation(12)
    np.testing.assert_allclose(
        entropies_in_turn(routes[shuffled], joint[:, shuffled], choices), turns
    )


def test_route_table_is_that_of_the_definitions(world):
    model, x, y, prior, posterior = world
    model.eval()
    table = route_table(model, x, y)
    model.train()
    assert (table.n_choices, table.names) == (CHOICES, ("a", "b"))
    a, b = table.routes.T
    np.testing.assert_allclose(table.router, prior[:, a, b], rtol=1e-9)
    np.testing.assert_allclose(table.posterior, posterior[:, a, b], rtol=1e-9)
