"""Groups, dims, dtypes and numbers of a run's tree."""

import json

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from latentroute.analysis import to_datatree, tree_from_evaluation
from latentroute.inference.weight_draws import WeightDraws
from latentroute.models import LayeredNetwork

GROUPS = {
    "posterior": {"route": ("chain", "draw", "obs", "site")},
    "routing": {
        "route_probs": ("obs", "site", "module"),
        "router_probs": ("obs", "site", "module"),
        "n_choices": ("site",),
    },
    "usage": {
        "share": ("chain", "draw", "site", "module"),
        "entropy": ("chain", "draw", "site"),
    },
    "log_likelihood": {"y": ("chain", "draw", "obs")},
    "sample_stats": {"lp": ("chain", "draw")},
    "constant_data": {"x": ("obs", "feature"), "routes_true": ("obs", "site")},
    "observed_data": {"y": ("obs",)},
    "posterior_predictive": {"y": ("chain", "draw", "obs")},
    "predictive_probs": {"y": ("obs", "klass")},
    "training": {
        "loss": ("chain", "step"),
        "h_a": ("chain", "log_step"),
        "h_b": ("chain", "log_step"),
        "h_a_layers": ("chain", "log_step", "site"),
        "h_b_layers": ("chain", "log_step", "site"),
        "valid": ("chain", "log_step"),
        "seconds": ("chain", "log_step"),
    },
}


def dims_of(tree):
    return {
        group: {str(name): v.dims for name, v in node.data_vars.items()}
        for group, node in tree.children.items()
    }


def test_groups_and_dims_of_classes(data, history):
    d = data()
    tree = tree_from_evaluation(
        d.evaluation, d.x, d.y, routes=d.routes, history=history()
    )
    assert dims_of(tree) == GROUPS


@pytest.mark.parametrize("outputs", [1, 3])
def test_groups_and_dims_of_numbers(data, outputs):
    d = data(classes=None, outputs=outputs)
    found = dims_of(tree_from_evaluation(d.evaluation, d.x, d.y))
    assert found["predictive_mean"] == {"y": ("obs", "output")}
    assert found["posterior_predictive"] == {"y": ("chain", "draw", "obs", "output")}
    assert found["observed_data"] == {"y": ("obs", "output")}
    assert "predictive_probs" not in found
    assert "training" not in found
    assert "routes_true" not in found["constant_data"]


def test_numbers_without_an_output_axis(data):
    d = data(classes=None)
    evaluation = d.evaluation._replace(y_draws=d.evaluation.y_draws[..., 0])
    tree = tree_from_evaluation(evaluation, d.x, d.y[:, 0])
    assert tree["predictive_mean/y"].dims == ("obs",)
    assert tree["posterior_predictive/y"].dims == ("chain", "draw", "obs")


def test_counts_are_numbers_not_classes(data):
    d = data(classes=None)
    counts = torch.arange(60)
    evaluation = d.evaluation._replace(y_draws=d.evaluation.y_draws[..., 0])
    assert "predictive_mean" in tree_from_evaluation(evaluation, d.x, counts).children


def test_a_program_that_only_scores(data):
    d = data()
    evaluation = d.evaluation._replace(predictive=None, y_draws=None)
    found = dims_of(tree_from_evaluation(evaluation, d.x, None))
    assert not {"observed_data", "predictive_probs", "posterior_predictive"} & set(
        found
    )


def test_values(data):
    d = data(n_choices=(4, 2), draws=5)
    tree = tree_from_evaluation(d.evaluation, d.x, d.y)
    e = d.evaluation
    assert tree["posterior/route"].dtype == np.int16
    np.testing.assert_array_equal(tree["posterior/route"][0], e.routes)
    np.testing.assert_array_equal(tree["routing/route_probs"], e.route_probs)
    np.testing.assert_array_equal(tree["routing/router_probs"], e.router_probs)
    assert tree["routing/n_choices"].values.tolist() == [4, 2]
    assert tree["posterior"]["site"].values.tolist() == ["route_0", "route_1"]
    for draw in range(5):
        np.testing.assert_array_equal(tree["log_likelihood/y"][0, draw], e.log_marginal)
    np.testing.assert_allclose(
        tree["sample_stats/lp"], np.full((1, 5), e.log_marginal.double().sum())
    )
    np.testing.assert_array_equal(tree["constant_data/x"], d.x)
    np.testing.assert_array_equal(tree["observed_data/y"], d.y)


def test_usage_counts_the_drawn_routes(data):
    d = data(n_choices=(3, 2), draws=4)
    tree = tree_from_evaluation(d.evaluation, d.x, d.y)
    share = tree["usage/share"].values[0]
    for draw in range(4):
        for site in range(2):
            counts = np.bincount(d.evaluation.routes[draw, :, site], minlength=3)
            np.testing.assert_allclose(share[draw, site], counts / 60)
            used = counts[counts > 0] / 60
            entropy = float(tree["usage/entropy"][0, draw, site])
            assert entropy == pytest.approx(-(used * np.log(used)).sum())


def test_true_routes_of_another_depth_keep_a_dim_of_their_own(data):
    d = data()
    routes = torch.zeros(60, 5, dtype=torch.int64)
    tree = tree_from_evaluation(d.evaluation, d.x, d.y, routes=routes)
    assert tree["constant_data/routes_true"].dims == ("obs", "decision")


def test_inputs_that_are_no_vectors(data):
    d = data()
    tree = tree_from_evaluation(d.evaluation, torch.zeros(60, 1, 4, 4), d.y)
    assert tree["constant_data/x"].shape == (60, 1, 4, 4)
    assert tree["constant_data/x"].dims[0] == "obs"


def test_attributes(data):
    d = data()
    attrs = {"config": {"lr": 0.1}, "class_names": ("a", "b"), "resumed": True}
    tree = tree_from_evaluation(
        d.evaluation, d.x, d.y, attrs=attrs | {"seed": np.int64(3), "wall_time": 1.5}
    )
    assert json.loads(tree.attrs["config"]) == {"lr": 0.1}
    assert json.loads(tree.attrs["class_names"]) == ["a", "b"]
    assert tree.attrs["resumed"] == 1
    assert tree.attrs["exact"] == 1
    assert tree.attrs["seed"] == 3
    assert type(tree.attrs["seed"]) is int
    assert tree.attrs["schema_version"] == 1
    assert set(json.loads(tree.attrs["versions"])) >= {"python", "torch", "latentroute"}
    group = tree["posterior"].attrs
    assert group["inference_library"] == "latentroute"
    assert {"created_at", "creation_library"} <= set(group)


@pytest.mark.parametrize("name", ["x", "y", "routes"])
def test_refuses_other_examples_than_were_evaluated(data, name):
    d = data()
    given = {"x": d.x, "y": d.y, "routes": d.routes}
    given[name] = given[name][:-1]
    message = rf"{name}: got shape \(59.*expected the 60 examples"
    with pytest.raises(ValueError, match=message):
        tree_from_evaluation(
            d.evaluation, given["x"], given["y"], routes=given["routes"]
        )


def test_refuses_true_routes_without_a_layer_axis(data):
    d = data()
    with pytest.raises(
        ValueError, match=r"routes: got shape \(60,\), expected \(N, n_"
    ):
        tree_from_evaluation(d.evaluation, d.x, d.y, routes=d.routes[:, 0])


def test_refuses_choices_beyond_int16(data):
    d = data()
    evaluation = d.evaluation._replace(n_choices=(3, 40_000))
    with pytest.raises(ValueError, match="site 'route_1': got 40000 choices"):
        tree_from_evaluation(evaluation, d.x, d.y)


@pytest.mark.parametrize("given", [torch.zeros(3, 2), (torch.zeros(3, 2),), "train"])
def test_refuses_data_that_is_no_pair(given):
    with pytest.raises(ValueError, match=r"data: got \w+, expected \(x, y\)"):
        to_datatree(lambda x, y=None: None, given)


def test_a_real_network():
    torch.manual_seed(0)
    net = LayeredNetwork(4, 3, n_layers=2, n_modules=3, hidden_features=5)
    x, y = torch.randn(20, 4), torch.arange(20) % 3
    routes = torch.zeros(20, 2, dtype=torch.int64)
    tree = to_datatree(net, (x, y, routes), draws=6, attrs={"method": "none"})
    expected = {name: dims for name, dims in GROUPS.items() if name != "training"}
    assert dims_of(tree) == expected
    assert tree["posterior/route"].shape == (1, 6, 20, 2)
    for name in ("route_probs", "router_probs"):
        np.testing.assert_allclose(tree[f"routing/{name}"].sum("module"), 1, rtol=1e-5)
    assert (tree["log_likelihood/y"] < 0).all()
    again = to_datatree(net, (x, y, routes), draws=6)
    np.testing.assert_array_equal(again["posterior/route"], tree["posterior/route"])


def test_arviz_takes_a_run_as_it_is(run_tree):
    import arviz_plots
    import arviz_stats

    tree = run_tree(draws=50)
    forest = arviz_plots.plot_forest(tree, group="usage", var_names=["share"])
    assert forest.viz["figure"].item() is not None
    table = arviz_stats.summary(tree, group="usage", var_names=["entropy"])
    assert len(table) == 2
    import matplotlib.pyplot as plt

    plt.close("all")


class Toy(torch.nn.Module):
    """Two modules, a router and a mean: small enough for truth by hand."""

    def __init__(self):
        super().__init__()
        self.logit = torch.nn.Parameter(torch.zeros(()))
        self.means = torch.nn.Parameter(torch.zeros(2))

    def forward(self, x, y=None):
        with pyro.plate("data", len(x)):
            zero = torch.zeros(len(x))
            logits = torch.stack([self.logit.expand(len(x)), zero], -1)
            a = pyro.sample("a", dist.Categorical(logits=logits))
            mean = self.means[a] + 0 * x[:, 0]
            return pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def drawn_tree(n_chains=2, n_draws=3, draws=100):
    net = Toy()
    generator = torch.Generator().manual_seed(0)
    values = tuple(
        torch.randn(n_chains, n_draws, *p.shape, generator=generator)
        for p in net.parameters()
    )
    lp = torch.arange(float(n_chains * n_draws)).reshape(n_chains, n_draws)
    names = tuple(name for name, _ in net.named_parameters())
    weights = WeightDraws(tuple(net.parameters()), names, values, {"lp": lp})
    x, y = torch.zeros(4, 1), torch.tensor([-1.0, 0.0, 1.0, 2.0])
    tree = to_datatree(net, (x, y), draws=draws, weight_draws=weights)
    assert not net.logit.any() and not net.means.any()  # put back
    return tree, weights, y


def test_drawn_weights_against_a_sum_by_hand():
    tree, weights, y = drawn_tree()
    logit, means = weights.values
    log_router = torch.stack([logit, 0 * logit], -1).log_softmax(-1)  # (chain, draw, 2)
    each = -0.5 * (y[:, None] - means[:, :, None]) ** 2 - 0.5 * np.log(2 * np.pi)
    joint = log_router[:, :, None] + each  # (chain, draw, obs, 2)
    truth = joint.logsumexp(-1)
    np.testing.assert_allclose(tree["log_likelihood/y"], truth, rtol=1e-5)
    posterior = joint.softmax(-1).mean((0, 1))
    np.testing.assert_allclose(tree["routing/route_probs"][:, 0], posterior, rtol=1e-5)
    router = log_router.exp().mean((0, 1)).expand(4, 2)
    np.testing.assert_allclose(tree["routing/router_probs"][:, 0], router, rtol=1e-5)
    mean = (log_router.exp() * means).sum(-1).mean().expand(4)
    np.testing.assert_allclose(tree["predictive_mean/y"], mean, rtol=1e-5)


def test_drawn_weights_are_in_the_tree():
    tree, weights, _ = drawn_tree()
    posterior = tree["posterior"]
    assert posterior["route"].shape == (2, 3, 4, 1)
    assert posterior["means"].dims == ("chain", "draw", "means_dim_0")
    np.testing.assert_array_equal(posterior["means"], weights.values[1])
    np.testing.assert_array_equal(tree["sample_stats/lp"], weights.stats["lp"])
    assert tree["posterior_predictive/y"].dims == ("chain", "draw", "obs")
    assert tree["usage/share"].shape == (2, 3, 1, 2)
    assert tree.attrs["exact"] == 1


def test_a_route_is_drawn_at_its_own_weights():
    net = Toy()
    logit = torch.tensor([[-50.0, 50.0, -50.0], [50.0, 50.0, -50.0]])
    weights = WeightDraws((net.logit,), ("logit",), (logit,))
    tree = to_datatree(net, (torch.zeros(4, 1), torch.zeros(4)), weight_draws=weights)
    own = tree["routing/permutation"][:, 0].values  # the second chain's: swapped
    np.testing.assert_array_equal(own, [[0, 1], [1, 0]])
    expected = np.stack([p[(d < 0).int()] for p, d in zip(own, logit, strict=True)])
    found = tree["posterior/route"][..., 0]
    np.testing.assert_array_equal(found, np.repeat(expected[..., None], 4, -1))


def test_chains_that_name_their_modules_differently_are_matched():
    net = Toy()
    logit = torch.tensor([[3.0, 3.0], [-3.0, -3.0]])
    means = torch.tensor([[[-1.0, 1.0]] * 2, [[1.0, -1.0]] * 2])  # the same, renamed
    names, parameters = ("logit", "means"), tuple(net.parameters())
    weights = WeightDraws(parameters, names, (logit, means))
    y = torch.tensor([-1.0, 0.0, 1.0, 2.0])
    tree = to_datatree(net, (torch.zeros(4, 1), y), weight_draws=weights)
    alone = WeightDraws(parameters, names, (logit[:1], means[:1]))
    single = to_datatree(net, (torch.zeros(4, 1), y), weight_draws=alone)
    for name in ("route_probs", "router_probs"):
        found, expected = tree[f"routing/{name}"], single[f"routing/{name}"]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_many_draws_of_weights_are_thinned():
    tree, weights, _ = drawn_tree(n_draws=6, draws=2)
    np.testing.assert_array_equal(tree["posterior/means"], weights.values[1][:, [2, 5]])
    np.testing.assert_array_equal(tree["sample_stats/lp"], [[2, 5], [8, 11]])
