"""What the explorer and the tables are given is what the tree holds."""

import base64
import json

import numpy as np
import pytest
import xarray as xr

from latentroute.analysis import join_chains, summary
from latentroute.analysis.arrays import entropy
from latentroute.analysis.model_comparison import compare_elpd
from latentroute.analysis.report import explorer_data, tables
from latentroute.analysis.report.assets import as_json, policy, script, stylesheet
from latentroute.analysis.report.explorer import spaced
from latentroute.analysis.report.tables import sort_value

HOSTILE = "</script><script>alert('x')</script>&amp;"


def flat(probs, counts):
    return np.concatenate([probs[:, i, :m] for i, m in enumerate(counts)], 1)


@pytest.mark.parametrize("n_choices", [(3,), (3, 3), (2, 5, 4), (16,) * 4])
def test_routes_are_those_of_the_tree(run_tree, n_choices):
    tree = run_tree(n_choices=n_choices)
    (run,) = explorer_data(tree)["runs"]
    for name in ("router", "posterior"):
        whole = tree["routing"][f"{name.replace('posterior', 'route')}_probs"].values
        assert run["choices"] == list(n_choices)
        np.testing.assert_allclose(
            np.array(run[name]) / 10_000, flat(whole, n_choices), atol=5.1e-5
        )
    posterior = tree["routing"]["route_probs"].values.astype(float)
    router = tree["routing"]["router_probs"].values.astype(float)
    np.testing.assert_allclose(run["entropy"], entropy(posterior).mean(1), rtol=1e-3)
    one = np.where(posterior > 0, posterior, 1.0), np.where(router > 0, router, 1.0)
    kl = (posterior * np.log(one[0] / one[1])).sum(-1)
    np.testing.assert_allclose(run["moved"], kl, rtol=1e-3, atol=1e-6)


def test_whole_routes_are_counted_over_all_draws(run_tree):
    tree = run_tree(draws=9)
    (run,) = explorer_data(tree)["runs"]
    route = tree["posterior"]["route"].values  # (chain, draw, obs, site)
    assert (run["draws"], run["chains"]) == (9, 1)
    for i, found in enumerate(run["routes"]):
        times = [row[0] for row in found]
        assert times == sorted(times, reverse=True)
        for count, *modules in found:
            assert count == (route[:, :, i] == modules).all(-1).sum()


def test_classes_and_targets(run_tree):
    tree = run_tree(attrs={"class_names": ["a", "b", "c", HOSTILE]})
    found = explorer_data(tree)
    (examples,), (run,) = found["examples"], found["runs"]
    assert examples["classes"][3] == HOSTILE
    assert examples["y"] == tree["observed_data"]["y"].values.tolist()
    probs = np.array(run["prediction"]["probs"]) / 10_000
    np.testing.assert_allclose(probs, tree["predictive_probs"]["y"].values, atol=5.1e-5)
    log_lik = tree["log_likelihood"]["y"].values[0, 0]
    np.testing.assert_allclose(run["log_lik"], log_lik, rtol=1e-3)


@pytest.mark.parametrize("outputs", [1, 3])
def test_numbers_have_mean_spread_and_interval(run_tree, outputs):
    tree = run_tree(classes=None, outputs=outputs, draws=50)
    found = explorer_data(tree)
    run, examples = found["runs"][0], found["examples"][0]
    y = tree["posterior_predictive"]["y"].values[0].reshape(50, 60, outputs)
    np.testing.assert_allclose(run["prediction"]["sd"], y.std(0), rtol=1e-3)
    low, high = np.quantile(y, [0.05, 0.95], axis=0)
    np.testing.assert_allclose(run["prediction"]["low"], low, rtol=1e-3)
    np.testing.assert_allclose(run["prediction"]["high"], high, rtol=1e-3)
    mean = tree["predictive_mean"]["y"].values.reshape(60, outputs)
    np.testing.assert_allclose(run["prediction"]["mean"], mean, rtol=1e-3)
    truth = tree["observed_data"]["y"].values.reshape(60, outputs)
    np.testing.assert_allclose(examples["y"], truth, rtol=1e-3)


def test_features_by_name(run_tree):
    tree = run_tree(attrs={"feature_names": ["a", "b", "c", "d", HOSTILE]})
    features = explorer_data(tree)["examples"][0]["features"]
    x = tree["constant_data"]["x"].values
    assert features["names"][-1] == HOSTILE
    assert features["of"] == 5
    np.testing.assert_allclose(features["values"], x, rtol=1e-3)
    np.testing.assert_allclose(features["mean"], x.mean(0), rtol=1e-3)


def test_pictures_are_bytes(run_tree):
    tree = run_tree(attrs={"image_shape": [1, 5]})
    examples = explorer_data(tree)["examples"][0]
    picture, x = examples["picture"], tree["constant_data"]["x"].values
    assert examples["features"] is None
    pixels = np.frombuffer(base64.b64decode(picture["bytes"]), np.uint8)
    drawn = x.min() + pixels.reshape(60, 5) / 255 * (x.max() - x.min())
    np.testing.assert_allclose(drawn, x, atol=(x.max() - x.min()) / 255)


def test_large_pictures_are_thinned_and_more_axes_are_not_drawn(run_tree):
    tree = run_tree()
    ways = {(100, 30): (50, 15, 2), (56, 56): (56, 56, 1)}
    for shape, (height, width, step) in ways.items():
        x = xr.DataArray(np.zeros((60, *shape)), dims=["obs", "h", "w"])
        tree["constant_data"].dataset = xr.Dataset({"x": x})
        picture = explorer_data(tree)["examples"][0]["picture"]
        found = (picture["height"], picture["width"], picture["step"])
        assert found == (height, width, step)
    x = xr.DataArray(np.zeros((60, 3, 4, 4)), dims=["obs", "c", "h", "w"])
    tree["constant_data"].dataset = xr.Dataset({"x": x})
    assert explorer_data(tree)["examples"][0]["shape"] == [3, 4, 4]


def test_true_modules_are_matched(run_tree):
    tree = run_tree(known=True, n_choices=(4, 4))
    names = {"route_0_0": (2, 0, 3, 1), "route_0_1": (2, 0, 3, 1)}
    route = explorer_data(tree)["examples"][0]["routes"]
    assert route == tree["constant_data"]["routes_true"].values.tolist()
    true = np.array(route)
    probs = np.zeros((60, 2, 4), dtype=np.float32)
    order = np.array(list(names.values()))  # true label -> module
    for site in range(2):
        probs[np.arange(60), site, order[site][true[:, site]]] = 1
    tree["routing"]["route_probs"].values[:] = probs
    (run,) = explorer_data(tree)["runs"]
    for site in range(2):
        assert [run["matched"][site][m] for m in order[site]] == [0, 1, 2, 3]
    assert explorer_data(run_tree())["runs"][0]["matched"] is None


def test_what_a_run_lacks_is_left_out(run_tree):
    tree = run_tree()
    routing = tree["routing"].to_dataset().drop_vars("router_probs")
    tree["routing"].dataset = routing
    for group in (
        *("observed_data", "predictive_probs", "posterior_predictive"),
        "constant_data",
    ):
        del tree[group]
    found = explorer_data(tree)
    run, examples = found["runs"][0], found["examples"][0]
    assert run["router"] is run["moved"] is run["prediction"] is None
    assert examples["y"] is examples["features"] is examples["picture"] is None


def test_chains_are_counted_together(run_tree):
    trees = [run_tree(seed=0, attrs={"seed": seed}) for seed in range(3)]
    (run,) = explorer_data(join_chains(trees))["runs"]
    assert (run["draws"], run["chains"]) == (21, 3)


def test_runs_share_their_examples(comparison_tree):
    tree = comparison_tree(failed=[("exact", 1)])
    found = explorer_data(tree)
    assert [run["name"] for run in found["runs"]][:2] == [
        *("exact, seed 0", "exact, seed 2")
    ]
    assert len(found["examples"]) == 5  # each of these has data of its own
    same = xr.DataTree.from_dict(
        {f"m/seed_{i}": tree["exact/seed_0"].copy() for i in range(2)}
    )
    shared = explorer_data(same)
    assert [run["set"] for run in shared["runs"]] == [0, 0]
    assert len(shared["examples"]) == 1


def test_so_many_examples_are_shown(run_tree, comparison_tree):
    assert len(explorer_data(run_tree(n=1000))["examples"][0]["rows"]) == 400
    few = explorer_data(run_tree(n=1000), most=7)
    assert few["examples"][0]["rows"] == [0, 166, 333, 500, 666, 832, 999]
    assert few["examples"][0]["n"] == 1000
    assert len(few["runs"][0]["posterior"]) == 7
    with pytest.raises(ValueError, match="most: got 0"):
        explorer_data(run_tree(), most=0)
    assert spaced(1, 400).tolist() == [0]
    wide = comparison_tree(seeds=range(3), n=200, n_choices=(64,) * 4, draws=2)
    shown = explorer_data(wide)
    assert 20 < len(shown["runs"][0]["posterior"]) < 150
    assert len(as_json(shown)) < 3_000_000


def test_no_run_no_explorer(comparison_tree):
    failed = [("exact", 0)]
    assert explorer_data(comparison_tree(["exact"], [0], failed=failed)) is None


def test_data_cannot_leave_their_element():
    value = {HOSTILE: [HOSTILE, "\u2028", 1.5, None]}
    text = as_json(value)
    assert not set("<>&") & set(text)
    assert json.loads(text) == value
    with pytest.raises(ValueError, match="JSON"):
        as_json(float("nan"))


def test_scripts_and_styles_cannot_leave_theirs():
    assert "</script" not in script().lower()
    assert "<!--" not in script()
    assert "</style" not in stylesheet().lower()
    assert "innerHTML" not in script()  # text from outside stays text
    assert "url(" not in stylesheet()
    assert policy("a", "b") != policy("a", "c")


def test_infinities_are_as_the_script_reads_them():
    values = (1.25, -3e-9, np.inf, -np.inf, np.nan)
    assert [sort_value(float(v)) for v in values] == [
        *("1.25", "-3e-09", "Infinity", "-Infinity", "NaN")
    ]


def test_each_training_has_a_row(comparison_tree):
    tree = comparison_tree(failed=[("exact", 1)])
    found, _ = tables(tree)
    (each,) = [table for table in found if table.name == "trainings"]
    labels = [heading.label for heading in each.headings]
    rows = {(row[0].value, row[1].value): row for row in each.rows}
    assert len(rows) == 5
    assert ("exact", "1") not in rows
    row = rows["score-function", "2"]
    alone = summary(tree["score-function/seed_2"]).iloc[0]
    assert float(row[labels.index("log p(y|x)")].value) == alone.log_lik
    assert float(row[labels.index("accuracy")].value) == alone.accuracy


def test_methods_are_compared_on_the_same_examples(comparison_tree, run_tree):
    _, missing = tables(comparison_tree())
    assert "expected the same" in missing["Which predicts better"]
    trees = {
        f"{method}/seed_0": run_tree(attrs={"method": method}, level=level)
        for method, level in {"a": -0.5, "b": -0.9}.items()
    }
    tree = xr.DataTree.from_dict(trees)
    found, missing = tables(tree)
    assert missing == {}
    table = next(table for table in found if table.name == "held-out")
    expected = compare_elpd(tree)
    assert [row[0].text for row in table.rows] == list(expected.index) == ["a", "b"]
    for row, (_, true) in zip(table.rows, expected.iterrows(), strict=True):
        assert float(row[1].value) == true.elpd
        assert f"{true.elpd:.1f} ± {true.se:.1f}" == row[1].text.replace(
            "\N{MINUS SIGN}", "-"
        )
        assert float(row[2].value) == true.elpd_diff
