"""Whole routes as numbers, and the routes that are used most."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentroute.analysis import decode_paths, encode_paths, match_chains, top_paths
from latentroute.analysis.paths import paths


def test_numbers_are_the_order_of_all_routes():
    sizes = (2, 3, 4)
    routes = np.array(list(itertools.product(*map(range, sizes))))
    np.testing.assert_array_equal(encode_paths(routes, sizes), np.arange(24))
    np.testing.assert_array_equal(decode_paths(np.arange(24), sizes), routes)


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=10),
    seed=st.integers(0, 9),
)
def test_there_and_back(sizes, seed):
    rng = np.random.default_rng(seed)
    routes = rng.integers(0, sizes, (3, 2, len(sizes))).astype(np.int16)
    again = decode_paths(encode_paths(routes, sizes), sizes)
    np.testing.assert_array_equal(again, routes)


def test_paths_of_a_run(run_tree):
    tree = run_tree(n_choices=(3, 2), draws=5)
    path = paths(tree)
    assert path.dims == ("chain", "draw", "obs")
    assert path.dtype == np.int64
    route = tree["posterior/route"].values
    np.testing.assert_array_equal(path, route[..., 0] * 2 + route[..., 1])


def test_top_paths_are_counts(run_tree):
    tree = run_tree(n=20, n_choices=(3, 2), draws=9)
    route = tree["posterior/route"].values.reshape(9, 20, 2)
    counted = Counter(tuple(r) for r in route.reshape(-1, 2).tolist())
    top = top_paths(tree, 4)
    assert top["use"].values.tolist() == sorted(top["use"].values, reverse=True)
    for i, label in enumerate(top["path"].values):
        choices = tuple(map(int, label.split("-")))
        assert tuple(top["route"].values[i]) == choices
        assert top["use"].values[i] == pytest.approx(counted[choices] / 180)
        share = (route == choices).all(-1).mean(0)
        np.testing.assert_allclose(top["prob"][:, i], share)
    everything = top_paths(tree, 100)
    assert everything.sizes["path"] == len(counted)
    np.testing.assert_allclose(everything["prob"].sum("path"), 1)


def test_labels_that_are_matched_change_the_paths(run_tree):
    """What is derived follows; what were stored would be left behind."""
    tree = run_tree(n_choices=(3, 3), draws=6)
    swapped = tree.copy(deep=True)
    swapped["posterior/route"][:] = (2 - tree["posterior/route"]).astype(np.int16)
    assert not np.array_equal(paths(swapped), paths(tree))
    use = [np.sort(top_paths(t)["use"].values) for t in (tree, swapped)]
    np.testing.assert_allclose(*use)
    assert "path" not in match_chains(tree)["posterior"]


def test_refuses_routes_beyond_int64():
    with pytest.raises(ValueError, match="more than int64"):
        encode_paths(np.zeros((1, 16), np.int64), [16] * 16)


def test_refuses_other_sites():
    with pytest.raises(ValueError, match="got 3 sites, expected 2"):
        encode_paths(np.zeros((1, 3), np.int64), (2, 2))
