"""clusters, composition and rules do what their equations say."""

import math

import pytest
import torch

from latentroute.tasks import Clusters, Composition, Rules, load


def test_clusters_rotate_and_scale():
    spec = Clusters(angle=90.0, scale=2.0)
    x = torch.tensor([[1.0, 0.0], [1.0, 3.0]])
    mean = spec.true_mean(x, torch.tensor([[0], [1]]))
    torch.testing.assert_close(mean, torch.tensor([[0.0, 1.0], [2.0, 6.0]]))


def test_clusters_lie_where_they_should():
    train = load("clusters", n_train=4000, separation=3.0, spread=0.5).train
    for route, centre in ((0, -1.5), (1, 1.5)):
        x = train.x[train.routes[:, 0] == route]
        torch.testing.assert_close(
            x.mean(0), torch.tensor([centre, 0.0]), atol=0.05, rtol=0
        )
        torch.testing.assert_close(x.std(0), torch.full((2,), 0.5), atol=0.05, rtol=0)


def test_noise_is_what_was_asked_for():
    for name in ("clusters", "composition"):
        task = load(name, noise=0.3, n_train=3000)
        error = task.train.y - task.true_mean(task.train.x, task.train.routes)
        assert math.isclose(error.std(), 0.3, abs_tol=0.015)


def test_composition_maps_are_orthogonal_and_differ():
    maps = Composition(n_modules=4, features=6).maps()
    eye = torch.eye(6, dtype=torch.float64).expand(4, 6, 6)
    torch.testing.assert_close(maps @ maps.mT, eye)
    assert torch.cdist(maps.flatten(1), maps.flatten(1)).fill_diagonal_(9).min() > 1


def test_composition_by_hand():
    """The chain written out for one example, with a matrix product."""
    spec = Composition(n_layers=3, n_modules=2, features=5, noise=0.0)
    x, y, routes = spec.load().test
    z = x[0, :5].double()
    for layer in range(3):
        z = torch.tanh(1.5 * spec.maps()[routes[0, layer]] @ z)
    torch.testing.assert_close(y[0], z.float())


def test_composition_context_columns_tell_the_routes():
    spec = Composition(context_noise=0.0)
    split = spec.load().train
    for layer in range(spec.n_layers):
        context = split.x[:, spec.context_columns(layer)]
        assert torch.equal(context.argmax(1), split.routes[:, layer])
        assert set(context.unique().tolist()) == {0.0, 1.0}


def test_composition_context_noise_hides_some_routes():
    spec = Composition(n_modules=2, context_noise=0.5, n_train=5000)
    split = spec.load().train
    told = split.x[:, spec.context_columns(0)].argmax(1) == split.routes[:, 0]
    # two one-hot codes are sqrt(2) apart: an error rate of Phi(-sqrt(2) / 2 / 0.5)
    assert math.isclose(1 - told.float().mean(), 0.0786, abs_tol=0.015)


def test_composition_context_of_no_such_decision():
    with pytest.raises(
        ValueError, match=r"layer must be a whole number in 0\.\.1; got 2"
    ):
        Composition().context_columns(2)


@pytest.mark.parametrize("name", ["clusters", "composition", "rules"])
def test_more_training_data_changes_nothing_else(name):
    small, large = load(name, n_train=50), load(name, n_train=100)
    assert torch.equal(small.test.x, large.test.x)
    assert torch.equal(small.test.y, large.test.y)


@pytest.mark.parametrize("n_rules", [2, 32])
def test_rules_by_hand(n_rules):
    spec = Rules(n_rules=n_rules)
    alpha, beta = spec.coefficients().float().unbind(1)
    for x, y, routes in spec.load().splits.values():
        rule = routes[:, 0]
        expected = alpha[rule] * x[:, 0] + beta[rule] * x[:, 1]
        torch.testing.assert_close(y[:, 0], expected)
        assert torch.equal(x[:, 2:].argmax(1), rule)
        assert torch.equal(x[:, 2:].sum(1), torch.ones(len(x)))


def test_rules_classification_is_the_sign():
    regression, classes = (
        load("rules", kind=kind) for kind in ("regression", "classification")
    )
    assert classes.head == "bernoulli"
    assert torch.equal(regression.train.x, classes.train.x)
    assert torch.equal((regression.train.y > 0).float(), classes.train.y)


def test_rules_out_of_distribution_is_twice_as_wide():
    task = load("rules", n_test=5000)
    for split, width in ((task.test, 1.0), (task.extra["ood"], 2.0)):
        spread = split.x[:, :2].std(0)
        torch.testing.assert_close(
            spread, torch.full((2,), width), atol=0.08 * width, rtol=0
        )


@pytest.mark.parametrize("n_rules", [1, 33, 4.0])
def test_rules_out_of_range(n_rules):
    with pytest.raises(ValueError, match=r"n_rules must be a whole number in 2\.\.32"):
        load("rules", n_rules=n_rules)


@pytest.mark.parametrize("noise", [-0.1, math.nan, math.inf, "0.1"])
def test_bad_noise(noise):
    with pytest.raises(ValueError, match="noise must be a finite number of at least 0"):
        load("composition", noise=noise)
