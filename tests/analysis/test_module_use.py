"""Shares of the module-use figure."""

import numpy as np
import pytest

from latentroute.analysis.chains import join_chains
from latentroute.analysis.plots import module_use


def drawn_shares(axes):
    """Per method: rank (rounded), mean, lowest and highest share."""
    found = {}
    for container in axes.containers:
        ranks, mean = container[0].get_data()
        ends = None
        if container.has_yerr:
            segments = np.array(container[2][0].get_segments())
            ends = segments[:, 0, 1], segments[:, 1, 1]
        found[container.get_label()] = np.round(ranks).tolist(), mean, ends
    return found


def test_ranked_shares_with_their_range(comparison_tree):
    tree = comparison_tree(("a", "b"), (0, 1), n_choices=(3, 3))
    shares = {0: [0.2, 0.7, 0.1], 1: [0.5, 0.1, 0.4]}
    for seed, share in shares.items():
        tree[f"a/seed_{seed}/routing"]["router_probs"].values[:, 1] = share
    axes = module_use(tree).axes[1]
    ranks, mean, (low, high) = drawn_shares(axes)["a"]
    assert ranks == [1, 2, 3]
    np.testing.assert_allclose(mean, [0.6, 0.3, 0.1], rtol=1e-6)
    np.testing.assert_allclose(low, [0.5, 0.2, 0.1], rtol=1e-6)
    np.testing.assert_allclose(high, [0.7, 0.4, 0.1], rtol=1e-6)
    assert set(drawn_shares(axes)) == {"a", "b"}
    assert axes.get_title(loc="left") == "route_1  (1/M = 0.33 dotted)"
    (even,) = [line for line in axes.get_lines() if line.get_linestyle() == ":"]
    np.testing.assert_allclose(even.get_ydata(), 1 / 3)


def test_shares_are_those_of_the_router_on_all_examples(run_tree):
    tree = run_tree(n_choices=(4,))
    axes = module_use(tree).axes[0]
    _, mean, ends = drawn_shares(axes)["exact"]
    expected = tree["routing/router_probs"].values[:, 0].astype(float).mean(0)
    np.testing.assert_allclose(mean, np.sort(expected)[::-1])
    # one seed: what so many examples leave open
    rows = tree["routing/router_probs"].values[:, 0].astype(float)
    order = np.argsort(-rows.mean(0))
    error = 1.96 * rows.std(0)[order] / np.sqrt(60)
    np.testing.assert_allclose(ends[0], mean - error)
    np.testing.assert_allclose(ends[1], mean + error)
    assert "95% interval" in axes.figure.get_supxlabel()


def test_intervals_of_few_examples_are_wider_but_stay_shares(run_tree):
    def width(n):
        axes = module_use(run_tree(n=n, n_choices=(4,))).axes[0]
        _, _, (low, high) = drawn_shares(axes)["exact"]
        assert (low >= 0).all()
        assert (high <= 1).all()
        return (high - low).max()

    assert width(10) > 2 * width(300)


def test_chains_of_one_run_are_its_spread(run_tree):
    trees = [run_tree(n_choices=(3,)) for _ in range(2)]
    trees[1]["routing/router_probs"].values[:] = [0.2, 0.7, 0.1]
    tree = join_chains(trees)
    axes = module_use(tree).axes[0]
    _, mean, (low, high) = drawn_shares(axes)["exact"]
    chains = tree["routing/chain_router_probs"].values[:, :, 0].astype(float).mean(1)
    ranked = -np.sort(-chains)
    np.testing.assert_allclose(mean, ranked.mean(0))
    np.testing.assert_allclose(low, ranked.min(0))
    np.testing.assert_allclose(high, ranked.max(0))
    assert "lowest to highest seed" in axes.figure.get_supxlabel()


def test_padding_is_no_module(run_tree):
    wide, narrow = module_use(run_tree(n_choices=(5, 2))).axes
    assert len(drawn_shares(wide)["exact"][0]) == 5
    assert len(drawn_shares(narrow)["exact"][0]) == 2


@pytest.mark.parametrize("n_sites", [1, 4, 6])
def test_a_panel_a_layer(run_tree, n_sites):
    assert len(module_use(run_tree(n_choices=(2,) * n_sites)).axes) == n_sites


def test_every_panel_has_room_for_its_bars(run_tree):
    """The panels share an axis: the first may not cut off what is higher in others."""
    run = run_tree(n=30, n_choices=(3, 3))
    run["routing/router_probs"].values[:, 0] = 1 / 3
    run["routing/router_probs"].values[:, 1] = [0.9, 0.1, 0.0]
    for axes in module_use(run).axes:
        _, _, (low, high) = drawn_shares(axes)["exact"]
        assert axes.get_ylim()[0] < low.min()
        assert axes.get_ylim()[1] > high.max()
