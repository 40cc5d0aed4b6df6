"""Runs found in trees."""

import pytest
import xarray as xr

from latentroute.analysis import join_chains, runs
from latentroute.analysis.runs import by_method, finished, listed


def test_one_run_is_itself(run_tree):
    (run,) = runs(run_tree(seed=3))
    assert (run.method, run.seed, run.error) == ("exact", "seed_3", "")


def test_joined_chains_are_called_by_all_their_seeds(run_tree):
    (run,) = runs(join_chains([run_tree(seed=seed) for seed in (0,) * 2]))
    assert run.seed == "seeds_0_0"


def test_comparison_in_its_own_order(comparison_tree):
    tree = comparison_tree(("z", "a"), (0, 10, 2), failed=[("a", 10)])
    tree["summary"] = xr.DataTree(xr.Dataset({"log_lik": ("method", [1.0, 2.0])}))
    found = [(run.method, run.seed, bool(run.error)) for run in runs(tree)]
    assert found == [
        ("z", "seed_0", False),
        ("z", "seed_10", False),
        ("z", "seed_2", False),
        ("a", "seed_0", False),
        ("a", "seed_10", True),
        ("a", "seed_2", False),
    ]
    assert {m: len(seeds) for m, seeds in by_method(tree).items()} == {"z": 3, "a": 3}
    assert {m: len(seeds) for m, seeds in finished(tree).items()} == {"z": 3, "a": 2}


def test_method_without_a_finished_run(comparison_tree):
    tree = comparison_tree(("a", "b"), (0,), failed=[("b", 0)])
    assert list(by_method(tree)) == ["a", "b"]
    assert list(finished(tree)) == ["a"]


def test_every_run_failed(comparison_tree):
    tree = comparison_tree(("a",), (0, 1), failed=[("a", 0), ("a", 1)])
    with pytest.raises(ValueError, match=r"every run failed \(ValueError: loss is NaN"):
        finished(tree)


def test_neither_run_nor_comparison():
    tree = xr.DataTree.from_dict({"posterior": xr.Dataset()})
    with pytest.raises(
        ValueError, match=r"got groups \['posterior'\], expected one run"
    ):
        runs(tree)


def test_listed(run_tree):
    tree = run_tree(attrs={"class_names": ("a", "b")})
    assert listed(tree, "class_names") == ["a", "b"]
    assert listed(tree, "feature_names") == []
