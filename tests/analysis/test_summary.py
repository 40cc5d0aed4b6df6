"""The table on hand-made trees whose numbers are known."""

import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from latentroute.analysis import information, join_chains, summary
from latentroute.analysis.summary import run_measures
from tests.analysis.relabelling import permuted

table_of = sys.modules[run_measures.__module__]  # `summary` is the function's name

NUMBERS = [
    *("log_lik", "accuracy", "h_a", "h_b", "mi_lower", "mi_upper", "dead"),
    *("collapsed", "seconds"),
]


def set_numbers(run, *, log_lik, n_right, router, seconds):
    """Overwrite what the table reads."""
    run["log_likelihood"]["y"].values[:] = log_lik
    y = run["observed_data"]["y"].values
    probs = np.full(run["predictive_probs"]["y"].shape, 0.1, np.float32)
    probs[np.arange(len(y)), (y + (np.arange(len(y)) >= n_right)) % probs.shape[1]] = (
        0.7
    )
    run["predictive_probs"]["y"].values[:] = probs
    run["routing"]["router_probs"].values[:] = router
    run.attrs["wall_time"] = seconds


def test_known_numbers(comparison_tree):
    tree = comparison_tree(("a", "b"), (0, 1, 2))
    even = [1 / 3, 1 / 3, 1 / 3]
    for method, level in (("a", -0.2), ("b", -0.4)):
        for seed in range(3):
            set_numbers(
                tree[f"{method}/seed_{seed}"],
                log_lik=level + 0.1 * (seed - 1),
                n_right=30 + 6 * seed,
                router=even if method == "a" else [0.99, 0.01, 0.0],
                seconds=1.0 + seed,
            )
    table = summary(tree)
    assert table.index.name == "method"
    assert list(table.index) == ["a", "b"]
    assert table["seeds"].tolist() == [3, 3]
    assert table["failed"].tolist() == [0, 0]
    np.testing.assert_allclose(table["log_lik"], [-0.2, -0.4], rtol=1e-6)
    np.testing.assert_allclose(table["log_lik_se"], 0.1 / np.sqrt(3), rtol=1e-6)
    np.testing.assert_allclose(table["gain"], [1.2, 1.0], rtol=1e-6)
    np.testing.assert_allclose(table["accuracy"], 0.6)
    np.testing.assert_allclose(table["accuracy_se"], 0.1 / np.sqrt(3))
    h = -(0.99 * np.log(0.99) + 0.01 * np.log(0.01))
    np.testing.assert_allclose(table["h_a"], [np.log(3), h], rtol=1e-6)
    np.testing.assert_allclose(table["h_b"], [np.log(3), h], rtol=1e-6)
    np.testing.assert_allclose(table["h_b_se"], 0, atol=1e-12)
    np.testing.assert_allclose(table["dead"], [0, 2 / 3])
    np.testing.assert_allclose(table["seconds"], 2.0)
    np.testing.assert_allclose(table["seconds_se"], 1 / np.sqrt(3))


def test_columns(comparison_tree):
    columns = list(summary(comparison_tree()).columns)
    assert columns[:5] == ["seeds", "failed", "log_lik", "log_lik_se", "gain"]
    measured = ["gap", *NUMBERS[1:]]
    assert columns[5:] == [c for n in measured for c in (n, f"{n}_se")]


def test_failures_are_counted_and_enter_no_mean(comparison_tree):
    whole = comparison_tree(("a", "b"), (0, 1))
    tree = comparison_tree(("a", "b"), (0, 1, 2), failed=[("a", 2)])
    table = summary(tree)
    assert table["seeds"].tolist() == [3, 3]
    assert table["failed"].tolist() == [1, 0]
    assert table.loc["a", NUMBERS].equals(summary(whole).loc["a", NUMBERS])


def test_a_method_that_always_failed_keeps_its_row(comparison_tree):
    tree = comparison_tree(("a", "b"), (0, 1), failed=[("b", 0), ("b", 1)])
    row = summary(tree).loc["b"]
    assert (row["seeds"], row["failed"]) == (2, 2)
    assert row[NUMBERS].isna().all()


def test_one_seed_has_no_standard_error(comparison_tree):
    table = summary(comparison_tree(seeds=(0,)))
    assert table[[f"{name}_se" for name in NUMBERS]].isna().all(axis=None)
    assert table[NUMBERS].notna().all(axis=None)


def test_one_run(run_tree):
    run = run_tree()
    table = summary(run)
    assert list(table.index) == ["exact"]
    row = table.loc["exact"]
    info = information(run["routing"]["router_probs"].values)
    assert row["h_a"] == pytest.approx(info["h_a"].mean())
    assert row["log_lik"] == pytest.approx(float(run["log_likelihood"]["y"].mean()))
    assert np.isnan(row["gain"])  # one run knows no prior
    assert row["seconds"] == 2.0


def test_numbers_get_rmse(run_tree):
    run = run_tree(classes=None, outputs=2)
    y, mean = run["observed_data"]["y"].values, run["predictive_mean"]["y"].values
    table = summary(run)
    assert "accuracy" not in table
    assert table.loc["exact", "rmse"] == pytest.approx(
        np.sqrt(np.mean((y.astype(float) - mean) ** 2))
    )


def test_likelihood_averages_over_draws_of_weights(run_tree):
    run = run_tree(draws=2)
    run["log_likelihood"]["y"].values[0, 0] = np.log(0.2)
    run["log_likelihood"]["y"].values[0, 1] = np.log(0.6)
    assert summary(run).loc["exact", "log_lik"] == pytest.approx(np.log(0.4))


def test_an_impossible_example_is_no_warning(comparison_tree):
    tree = comparison_tree(("a",), (0, 1))
    tree["a/seed_0"]["log_likelihood"]["y"].values[..., 3] = -np.inf
    assert summary(tree).loc["a", "log_lik"] == -np.inf


def with_truth(run, seed=0):
    """A run whose data have true routes, some of which its draws get right."""
    route = run["posterior/route"].values[0, 0]
    rng = np.random.default_rng(seed)
    other = rng.integers(0, 4, route.shape)
    true = np.where(rng.uniform(size=route.shape) < 0.3, other, route)
    out = run.copy()
    data = run["constant_data"].to_dataset()
    out["constant_data"] = xr.DataTree(data.assign(routes_true=(["obs", "site"], true)))
    return out


ORDER = st.permutations(range(4))


@pytest.fixture(scope="module")
def some_runs(run_tree):
    return {
        (method, seed): with_truth(
            run_tree(
                n_choices=(4, 4),
                draws=5,
                concentration=1.0,
                seed=10 * i + seed,
                attrs={"method": method, "seed": seed},
            )
        )
        for i, method in enumerate(("exact", "soft"))
        for seed in (0, 1)
    }


def as_comparison(found):
    nodes = {f"{method}/seed_{seed}": run for (method, seed), run in found.items()}
    return xr.DataTree.from_dict(nodes)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.lists(ORDER, min_size=2, max_size=2), min_size=4, max_size=4))
def test_labels_change_no_number(some_runs, orders):
    """Of any run, each by an order of its own: in no column."""
    renamed = {
        key: permuted(run, order)
        for (key, run), order in zip(some_runs.items(), orders, strict=True)
    }
    before = summary(as_comparison(some_runs))
    assert {"gap", "route_accuracy", "recovered"} <= set(before)
    after = summary(as_comparison(renamed))
    pd.testing.assert_frame_equal(after, before, rtol=1e-12)


def test_a_measure_of_labels_would_be_noticed(some_runs, monkeypatch):
    """The control: the mean label in place of a measure fails the test above."""

    def mean_label(tree):
        return {**run_measures(tree), "dead": tree["posterior/route"].values.mean()}

    monkeypatch.setattr(table_of, "run_measures", mean_label)
    orders = [[[1, 2, 3, 0], [3, 1, 0, 2]]] * 4
    with pytest.raises(AssertionError):
        test_labels_change_no_number.hypothesis.inner_test(some_runs, orders)


def test_gap_is_to_the_exact_row_seed_by_seed(comparison_tree):
    tree = comparison_tree(("exact", "b"), (0, 1, 2), failed=[("exact", 1)])
    for method, levels in (("exact", [-1.0, None, -3.0]), ("b", [-1.5, -9.0, -3.1])):
        for seed, level in enumerate(levels):
            if level is not None:
                tree[f"{method}/seed_{seed}/log_likelihood/y"].values[:] = level
    row = summary(tree).loc["b"]
    assert row["gap"] == pytest.approx(-0.3, abs=1e-6)
    assert row["gap_se"] == pytest.approx(np.std([0.5, 0.1], ddof=1) / np.sqrt(2))
    assert np.isnan(summary(tree).loc["exact", "gap"])


def test_gap_finds_the_exact_method_under_another_label(comparison_tree):
    tree = comparison_tree(("a", "b"), (0,))
    assert "gap" not in summary(tree)
    tree["b/seed_0"].attrs["config"] = '"Exact(chunk=None)"'
    table = summary(tree)
    expected = table.loc["a", "log_lik"] - table.loc["b", "log_lik"]
    assert table.loc["a", "gap"] == pytest.approx(expected)


def test_information_is_that_of_the_router(comparison_tree):
    tree = comparison_tree(("a",), (0, 1))
    table = summary(tree)
    found = [
        information(tree[f"a/seed_{s}/routing/router_probs"].values) for s in (0, 1)
    ]
    for name in ("mi_lower", "mi_upper"):
        assert table.loc["a", name] == pytest.approx(
            np.mean([info[name].mean() for info in found])
        )
    difference = table.loc["a", "h_b"] - table.loc["a", "h_a"]
    assert table.loc["a", "mi_lower"] == pytest.approx(difference)


def test_collapse(comparison_tree):
    tree = comparison_tree(("a",), (0, 1, 2, 3), n_choices=(3, 1))
    routers = [
        [[0.4, 0.3, 0.3], [1, 0, 0]],  # a layer of one module cannot collapse
        [[0.98, 0.01, 0.01], [1, 0, 0]],  # one alive
        [[0.95, 0.05, 0.0], [1, 0, 0]],  # two alive
        [[0, 0, 1], [1, 0, 0]],
    ]
    for seed, router in enumerate(routers):
        tree[f"a/seed_{seed}/routing/router_probs"].values[:] = router
    row = summary(tree).loc["a"]
    assert row["collapsed"] == 0.5
    assert row["dead"] == pytest.approx(np.mean([0, 2, 1, 2]) / 4)


def test_recovery_is_of_the_modes_of_whole_routes(run_tree):
    run = run_tree(n=40, n_choices=(2, 2), draws=5)
    true = np.random.default_rng(0).integers(0, 2, (40, 2))
    data = run["constant_data"].to_dataset()
    run["constant_data"] = xr.DataTree(data.assign(routes_true=(["obs", "site"], true)))
    drawn = np.array([1, 0])[np.tile(true, (5, 1, 1))]  # other names, all right
    drawn[:2, :, 0] = 0  # two of five draws wrong: not the modes
    drawn[:, :2, 1] = 1 - drawn[:, :2, 1]  # 2 of 40 wrong on the worst layer
    run["posterior/route"].values[0] = drawn
    row = summary(run).loc["exact"]
    assert row["route_accuracy"] == pytest.approx(0.95)
    assert row["recovered"] == 1
    drawn[:, 2, 1] = 1 - drawn[:, 2, 1]
    run["posterior/route"].values[0] = drawn
    row = summary(run).loc["exact"]
    assert row["route_accuracy"] == pytest.approx(37 / 40)
    assert row["recovered"] == 0


def test_a_method_that_does_not_apply_was_not_trained(comparison_tree):
    tree = comparison_tree(("a", "b"), (0, 1), failed=[("b", 0), ("b", 1)])
    for seed in (0, 1):
        tree[f"b/seed_{seed}"].attrs["applies"] = 0
    row = summary(tree).loc["b"]
    assert (row["seeds"], row["failed"]) == (0, 0)
    assert row[NUMBERS].isna().all()


def test_chains_are_measured_one_by_one(run_tree):
    run = run_tree(n_choices=(3, 3))
    other = permuted(run, [[1, 2, 0], [2, 1, 0]])
    tree = run.copy()
    both = xr.concat(
        [t["routing/router_probs"] for t in (run, other)], "chain"
    )  # never matched
    routing = run["routing"].to_dataset()
    tree["routing"] = xr.DataTree(routing.assign(chain_router_probs=both))
    pd.testing.assert_frame_equal(summary(tree), summary(run), rtol=1e-6)


def test_dead_modules_are_counted_among_those_that_exist(run_tree):
    run = run_tree(n_choices=(4, 2))
    run["routing"]["router_probs"].values[:] = [
        [0.97, 0.024, 0.003, 0.003],  # below 1/40: two (0.024 too)
        [0.96, 0.04, 0.0, 0.0],  # below 1/20: one of two
    ]
    assert summary(run).loc["exact", "dead"] == pytest.approx(4 / 6)


def test_chains_with_other_names_recover_as_one(run_tree):
    """Pooled under the chains' own names, the draws would have no right mode."""
    run = with_truth(run_tree(n_choices=(4, 4), draws=5, concentration=0.2))
    other = permuted(run, [[1, 2, 3, 0], [3, 2, 0, 1]])
    three = run.copy(deep=True)
    for group in ("posterior", "usage", "log_likelihood", "sample_stats"):
        parts = [t[group].to_dataset() for t in (run, other, other)]
        joined = xr.concat(parts, "chain").assign_coords(chain=range(3))
        three[group] = xr.DataTree(joined)
    row, alone = summary(three).loc["exact"], summary(run).loc["exact"]
    assert row["route_accuracy"] == pytest.approx(alone["route_accuracy"])
    assert np.isnan(row["h_a"])  # not the entropy of a mixture of names


def test_chains_recover_one_by_one(run_tree):
    """Pooled, two chains that differ tie at every example, and the first would win."""
    right = run_tree(n_choices=(2, 2), draws=5, known=True)
    wrong = right.copy(deep=True)
    right["posterior/route"].values[0] = right["constant_data/routes_true"].values
    wrong["posterior/route"].values[:] = 0  # collapsed
    for chains in ([right, wrong], [wrong, right]):
        row = summary(join_chains(chains)).loc["exact"]
        assert row["recovered"] == 0.5
        each = [summary(run).loc["exact", "route_accuracy"] for run in chains]
        assert row["route_accuracy"] == np.mean(each)
