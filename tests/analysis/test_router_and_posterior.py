"""Counts and curves of the router-against-posterior figure."""

import numpy as np
import pytest
from scipy.stats import entropy

from latentroute.analysis.plots import router_and_posterior

BINS = 20


def panels(figure):
    """Heat maps, then the panel of moved examples, of each row."""
    drawn = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    maps = [axes for axes in drawn if axes.collections]
    return maps, [axes for axes in drawn if not axes.collections]


def counts(axes):
    """(posterior bin, router bin) numbers of pairs."""
    (mesh,) = axes.collections
    return np.ma.filled(mesh.get_array(), 0).reshape(BINS, BINS)


def pairs(tree, site):
    """Counted pair by pair."""
    found = np.zeros((BINS, BINS))
    n_modules = int(tree["routing/n_choices"].values[site])
    for row in range(60):
        for m in range(n_modules):
            p = [
                float(tree[f"routing/{name}"].values[row, site, m])
                for name in ("route_probs", "router_probs")
            ]
            i, j = (min(int(value * BINS), BINS - 1) for value in p)
            found[i, j] += 1
    return found


def kl(tree, site):
    posterior, router = (
        tree[f"routing/{name}"].values[:, site].astype(float)
        for name in ("route_probs", "router_probs")
    )
    return np.array([entropy(p, q) for p, q in zip(posterior, router, strict=True)])


def make(run_tree, **options):
    """A run whose probabilities are in no bin's edge, and no zeros but padding."""
    tree = run_tree(n_choices=(3, 2), concentration=1.0, **options)
    rng = np.random.default_rng(1)
    for name in ("route_probs", "router_probs"):
        values = tree[f"routing/{name}"].values
        values[:, 0] = rng.dirichlet(np.ones(3), 60)
        values[:, 1, :2] = rng.dirichlet(np.ones(2), 60)
    return tree


def test_cells_count_pairs_of_example_and_module(run_tree):
    tree = make(run_tree)
    maps, _ = panels(router_and_posterior(tree))
    assert len(maps) == 2
    for site, (axes, n_modules) in enumerate(zip(maps, (3, 2), strict=True)):
        np.testing.assert_array_equal(counts(axes), pairs(tree, site))
        assert counts(axes).sum() == 60 * n_modules


def test_a_posterior_that_is_the_router_stands_on_the_diagonal(run_tree):
    tree = make(run_tree)
    routing = tree["routing"]
    off = [counts(axes) for axes in panels(router_and_posterior(tree))[0]]
    assert any(np.abs(found - np.diag(np.diag(found))).sum() for found in off)
    routing["route_probs"].values[:] = routing["router_probs"].values
    figure = router_and_posterior(tree)
    maps, (moved,) = panels(figure)
    for axes in maps:
        found = counts(axes)
        np.testing.assert_array_equal(found, np.diag(np.diag(found)))
        assert "mean KL 0.000" in axes.get_title(loc="left")
    assert all((line.get_ydata() == 0).all() for line in moved.get_lines())


def test_kl_is_that_of_each_example(run_tree):
    tree = make(run_tree)
    maps, (moved,) = panels(router_and_posterior(tree))
    for site, (axes, line) in enumerate(zip(maps, moved.get_lines(), strict=True)):
        expected = kl(tree, site)
        title = axes.get_title(loc="left")
        assert title == f"route_{site}: mean KL {expected.mean():.3f}"
        assert line.get_label() == f"route_{site}"
        for x, share in zip(line.get_xdata(), line.get_ydata(), strict=True):
            assert share == pytest.approx(sum(v > x for v in expected) / 60)
        assert 0 < line.get_ydata()[-40] < 1
    assert "nats" in moved.get_xlabel()


def test_router_and_posterior_are_not_mixed_up(run_tree):
    tree = make(run_tree)
    tree["routing/route_probs"].values[:, 0] = [0.92, 0.06, 0.02]
    tree["routing/router_probs"].values[:, 0] = [0.22, 0.32, 0.46]
    found = counts(panels(router_and_posterior(tree))[0][0])
    assert found[18, 4] == 60  # posterior 0.92 upwards, router 0.22 to the right
    assert found[4, 18] == 0


def test_probabilities_of_zero_and_one_are_counted(run_tree):
    tree = make(run_tree)
    for name in ("route_probs", "router_probs"):
        tree[f"routing/{name}"].values[:, 0] = [1.0, 0.0, 0.0]
    maps, (moved,) = panels(router_and_posterior(tree))
    assert counts(maps[0])[-1, -1] == 60
    assert counts(maps[0])[0, 0] == 120
    assert (moved.get_lines()[0].get_ydata() == 0).all()


def test_a_module_that_the_router_rules_out_is_infinitely_far(run_tree):
    tree = make(run_tree)
    tree["routing/route_probs"].values[:, 0] = [1.0, 0.0, 0.0]
    tree["routing/router_probs"].values[:, 0] = [0.0, 1.0, 0.0]
    maps, (moved,) = panels(router_and_posterior(tree))
    assert (moved.get_lines()[0].get_ydata() == 1).all()
    assert "mean KL inf" in maps[0].get_title(loc="left")


def test_a_row_for_each_methods_best_seed(comparison_tree):
    tree = comparison_tree(("a", "b"), (0, 1), n_choices=(3,))
    tree["b/seed_1"]["log_likelihood"]["y"].values[:] = 0.0
    maps, moved = panels(router_and_posterior(tree))
    assert len(maps) == len(moved) == 2
    names = [axes.texts[0].get_text() for axes in maps]
    assert names[1] == "b, seed 1"
    mean = kl(tree["b/seed_1"], 0).mean()
    assert maps[1].get_title(loc="left") == f"route_0: mean KL {mean:.3f}"


def test_all_heat_maps_share_one_scale(comparison_tree):
    figure = router_and_posterior(comparison_tree(("a", "b"), (0,), n_choices=(3, 2)))
    norms = {axes.collections[0].norm for axes in panels(figure)[0]}
    (norm,) = norms
    assert norm.vmax == max(counts(axes).max() for axes in panels(figure)[0])


def test_without_a_router_it_says_so(run_tree):
    tree = run_tree()
    tree["routing"].dataset = tree["routing"].to_dataset().drop_vars("router_probs")
    with pytest.raises(ValueError, match="expected 'router_probs' among them"):
        router_and_posterior(tree)
