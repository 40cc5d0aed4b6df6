"""The table on hand-made trees whose numbers are known."""

import numpy as np
import pytest

from latentroute.analysis import information, summary
from latentroute.analysis.summary import module_use

NUMBERS = ["log_lik", "accuracy", "h_a", "h_b", "dead", "seconds"]


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
    assert set(columns[5:]) == {c for n in NUMBERS[1:] for c in (n, f"{n}_se")}


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


def test_labels_change_no_number(comparison_tree):
    tree = comparison_tree(n_choices=(4, 4))
    before = summary(tree)
    rng = np.random.default_rng(0)
    for node in tree.subtree:
        for name in ("route_probs", "router_probs"):
            if name in node.data_vars:
                for site in range(2):
                    values = node[name].values
                    values[:, site] = values[:, site, rng.permutation(4)]
    after = summary(tree)
    np.testing.assert_allclose(after, before, rtol=1e-12)


def test_dead_modules_are_counted_among_those_that_exist(run_tree):
    run = run_tree(n_choices=(4, 2))
    run["routing"]["router_probs"].values[:] = [
        [0.97, 0.024, 0.003, 0.003],  # below 1/40: two (0.024 too)
        [0.96, 0.04, 0.0, 0.0],  # below 1/20: one of two
    ]
    assert summary(run).loc["exact", "dead"] == pytest.approx(4 / 6)
    use = module_use(run["routing"].to_dataset())
    assert [len(site) for site in use] == [4, 2]
    np.testing.assert_allclose(use[1], [0.96, 0.04], rtol=1e-6)
