"""Expected log predictive densities, against formulas and an exact leave-one-out."""

import arviz_stats
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from scipy import stats

from latentroute.analysis import from_pyro, model_comparison, to_datatree
from latentroute.analysis.chains import join_chains
from latentroute.analysis.model_comparison import compare_elpd, elpd_from_pointwise
from latentroute.models import LayeredNetwork


def with_likelihood(run, values):
    """A run whose log p(y|x) is (chain, draw, obs) values."""
    out = run.copy()
    y = xr.DataArray(values, dims=["chain", "draw", "obs"], name="y")
    out["log_likelihood"] = xr.DataTree(y.to_dataset())
    return out


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    base = rng.normal(-1, 0.5, 60)
    return base + rng.normal([[-0.05], [0.0], [-0.3]], 0.2, (3, 60))


@pytest.fixture
def models(run_tree, rows):
    run = run_tree(draws=3)
    return {
        name: with_likelihood(run, np.tile(row, (1, 3, 1)))
        for name, row in zip("abc", rows, strict=True)
    }


def test_held_out_by_hand(models, rows):
    table = compare_elpd(models)
    order = np.argsort(-rows.sum(1))
    assert list(table.index) == ["abc"[i] for i in order]
    assert table["rank"].tolist() == [0, 1, 2]
    np.testing.assert_allclose(table["elpd"], rows.sum(1)[order])
    np.testing.assert_allclose(table["se"], np.sqrt(60) * rows.std(1)[order])
    apart = (rows - rows[order[0]])[order]
    np.testing.assert_allclose(table["elpd_diff"], apart.sum(1), atol=1e-12)
    np.testing.assert_allclose(table["dse"], np.sqrt(60) * apart.std(1), atol=1e-12)
    assert (table["elpd_diff"] <= 0).all()
    assert "p" not in table


def test_weights_are_the_best_mixture(models, rows):
    """Stacking maximises the log score of the mixture: searched on a grid."""
    found = compare_elpd(models)["weight"].loc[list("abc")].to_numpy()
    grid = np.linspace(0, 1, 51)
    every = np.array([(a, b, 1 - a - b) for a in grid for b in grid if a + b <= 1])
    scores = np.log(every @ np.exp(rows)).sum(1)
    assert np.log(found @ np.exp(rows)).sum() >= scores.max() - 1e-3
    assert found.sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("weights", ["stacking", "pseudo-BMA", "BB-pseudo-BMA"])
def test_densities_too_small_to_exponentiate(run_tree, rows, weights):
    """What a target of many outputs gives: exp(-900) is 0, and ArviZ's weights NaN."""
    run = run_tree(draws=2)
    make = {
        shift: {
            name: with_likelihood(run, np.tile(row + shift, (1, 2, 1)))
            for name, row in zip("abc", rows, strict=True)
        }
        for shift in (0.0, -900.0)
    }
    near, far = (compare_elpd(make[s], weights=weights)["weight"] for s in make)
    np.testing.assert_allclose(far, near, atol=1e-6)


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # in ArviZ 0.8
def test_arviz_agrees_where_it_can(models, rows):
    ours = compare_elpd(models)
    theirs = arviz_stats.compare(
        {name: elpd_from_pointwise(row) for name, row in zip("abc", rows, strict=True)},
        **model_comparison.unrounded(),
    )
    for column in ("elpd", "se", "dse", "weight"):
        np.testing.assert_allclose(
            ours[column], theirs[column].astype(float), rtol=1e-6, atol=1e-9
        )
    np.testing.assert_allclose(-ours["elpd_diff"], abs(theirs["elpd_diff"]))


def test_a_comparison_is_the_mean_over_seeds(comparison_tree):
    tree = comparison_tree(("a", "b"), (0, 1, 2), failed=[("b", 1)])
    for node in tree.subtree:  # the same examples for all
        if "observed_data" in node.children:
            node["observed_data"] = tree["a/seed_0/observed_data"].copy()
    table = compare_elpd(tree)
    for name, seeds in (("a", (0, 1, 2)), ("b", (0, 2))):
        own = [tree[f"{name}/seed_{s}/log_likelihood/y"].values[0, 0] for s in seeds]
        assert table.loc[name, "elpd"] == pytest.approx(np.mean(own, 0).sum(), rel=1e-6)


def test_joined_chains_count_as_an_ensemble(run_tree):
    values = np.log([[0.2, 0.6], [0.4, 0.2]])  # two chains of two examples
    runs = [
        with_likelihood(run_tree(n=2, draws=3), np.tile(row, (1, 3, 1)))
        for row in values
    ]
    elpd = compare_elpd({"both": join_chains(runs)}).loc["both", "elpd"]
    assert elpd == pytest.approx(np.log(0.3) + np.log(0.4))


def conjugate(n=25, draws=1000, seed=0):
    """log p(y_n|mu_s) for mu ~ N(0, 10), y ~ N(mu, 1), and the exact leave-one-out."""
    rng = np.random.default_rng(seed)
    y = rng.normal(0.5, 1, n)
    variance = 1 / (n + 0.01)
    mu = rng.normal(variance * y.sum(), np.sqrt(variance), (4, draws))
    log_lik = stats.norm.logpdf(y, mu[..., None], 1)
    others = 1 / (n - 1 + 0.01)
    exact = stats.norm.logpdf(y, others * (y.sum() - y), np.sqrt(1 + others))
    return log_lik, exact


def test_loo_against_the_exact_one(run_tree):
    log_lik, exact = conjugate()
    run = with_likelihood(run_tree(n=25, draws=3), log_lik)
    row = compare_elpd({"m": run}, estimate="loo").loc["m"]
    in_sample = np.log(np.exp(log_lik).mean((0, 1))).sum()
    assert row["elpd"] == pytest.approx(exact.sum(), abs=0.05)
    assert row["p"] == pytest.approx(in_sample - exact.sum(), abs=0.05)
    assert row["bad_k"] == 0
    # the control: the density of what was trained on is not it
    assert in_sample - exact.sum() > 0.5


def test_loo_of_an_example_that_all_draws_predict_alike(run_tree):
    log_lik, exact = conjugate()
    log_lik[:, :, 3] = -0.25
    run = with_likelihood(run_tree(n=25, draws=3), log_lik)
    row = compare_elpd({"m": run}, estimate="loo").loc["m"]
    expected = exact.sum() - exact[3] - 0.25
    assert row["elpd"] == pytest.approx(expected, abs=0.05)


def test_loo_says_where_it_fails(run_tree):
    log_lik, _ = conjugate()
    rng = np.random.default_rng(0)
    log_lik[:, :, 0] = -np.exp(rng.normal(0, 2, log_lik.shape[:2]))
    run = with_likelihood(run_tree(n=25, draws=3), log_lik)
    assert compare_elpd({"m": run}, estimate="loo").loc["m", "bad_k"] == 1


def test_a_point_estimate_has_no_loo(models):
    with pytest.raises(ValueError, match=r"^a: got a log-likelihood that is the same"):
        compare_elpd(models, estimate="loo")


def test_other_examples_are_refused(models, run_tree):
    with pytest.raises(ValueError, match="z: got 60 examples other than the 60 of a"):
        compare_elpd({**models, "z": run_tree(seed=5)})
    with pytest.raises(ValueError, match="z: got 9 examples other than the 60 of a"):
        compare_elpd({**models, "z": run_tree(n=9)})


def test_an_impossible_example_is_refused(models):
    models["b"]["log_likelihood/y"].values[:, :, 7] = -np.inf
    with pytest.raises(ValueError, match=r"b: got log p\(y\|x\) = -inf at 1 examples"):
        compare_elpd(models)


def test_options(models):
    with pytest.raises(ValueError, match="estimate: got 'waic', expected one of"):
        compare_elpd(models, estimate="waic")
    with pytest.raises(ValueError, match="models: got none"):
        compare_elpd({})


def test_trees_of_from_pyro_are_compared_as_they_are():
    """Under their own names of sites and plates; against ours; against ArviZ's LOO."""
    torch.manual_seed(0)
    data = torch.randn(12)
    draws = {"w": 0.3 * torch.randn(400)}

    def model(y, scale):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("seen", dist.Normal(w, scale), obs=y)

    trees = {
        name: from_pyro(model, draws, data, scale, prior_draws=0)
        for name, scale in (("right", 1.0), ("wide", 4.0))
    }
    elpd = compare_elpd(trees)["elpd"]
    each = dist.Normal(draws["w"][:, None], 1.0).log_prob(data)
    by_hand = (each.logsumexp(0) - np.log(400)).sum().item()
    assert elpd["right"] == pytest.approx(by_hand, rel=1e-5)
    assert elpd["wide"] < elpd["right"]
    found = compare_elpd(trees, estimate="loo").loc["right", "elpd"]
    assert found == pytest.approx(arviz_stats.loo(trees["right"]).elpd, abs=0.02)
    two = trees["right"].copy()
    group = two["log_likelihood"].to_dataset()
    two["log_likelihood"] = xr.DataTree(group.assign(more=group["seen"]))
    with pytest.raises(ValueError, match=r"got \['seen', 'more'\], expected one"):
        compare_elpd({"two": two})


def test_no_example_of_a_static_route_is_left_out_alone(run_tree):
    net = LayeredNetwork(
        2,
        2,
        n_layers=1,
        n_modules=2,
        hidden_features=3,
        routing="static",
    )
    x, y = torch.zeros(4, 2), torch.zeros(4, dtype=torch.long)
    run = to_datatree(net, (x, y), draws=3)
    assert run.attrs["coupled"] == 1
    assert run_tree().attrs["coupled"] == 0
    with pytest.raises(ValueError, match="m: a static site joins the examples"):
        compare_elpd({"m": run}, estimate="loo")
