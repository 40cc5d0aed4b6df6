"""The dots, means, bars and prior of the comparison figure."""

import numpy as np
import pytest

from latentroute.analysis.plots import comparison

MINUS = "\N{MINUS SIGN}"


def names(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def dots(axes):
    return {c.get_label(): c.get_offsets() for c in axes.collections if c.get_paths()}


def means(axes):
    return {c.get_label(): c[0].get_xydata()[0] for c in axes.containers}


def bars(axes):
    found = {}
    for container in axes.containers:
        if container.has_xerr:
            found[container.get_label()] = container[2][0].get_segments()[0][:, 0]
    return found


def level(tree, method, seed):
    return float(tree[f"{method}/seed_{seed}/log_likelihood/y"].mean())


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_seeds_means_errors_and_prior(comparison_tree):
    tree = comparison_tree(("low", "high"), (0, 1, 2))
    for run, shift in (("low/seed_0", 0.3), ("high/seed_2", -0.3)):
        tree[run]["log_likelihood"]["y"].values[:] += shift - 0.5 * (run[0] == "l")
    axes = comparison(tree).axes[0]
    assert names(axes) == ["low", "high"]  # the higher mean on top
    for row, method in enumerate(names(axes)):
        expected = np.array([level(tree, method, seed) for seed in range(3)])
        np.testing.assert_allclose(dots(axes)[method][:, 0], expected, rtol=1e-6)
        assert (abs(dots(axes)[method][:, 1] - row) < 0.5).all()
        np.testing.assert_allclose(
            means(axes)[method], [expected.mean(), row], rtol=1e-6
        )
        error = expected.std(ddof=1) / np.sqrt(3)
        np.testing.assert_allclose(
            bars(axes)[method], expected.mean() + np.array([-error, error]), rtol=1e-5
        )
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # row 0 on top
    (line,) = [line for line in axes.get_lines() if "prior" in str(line.get_label())]
    assert set(line.get_xdata()) == {-1.4}
    assert f"class prior {MINUS}1.40" in texts(axes)


def test_numbers_beside_the_rows(comparison_tree):
    tree = comparison_tree(("exact",), (0, 1))
    for seed, value in enumerate((-0.5, -0.7)):
        tree[f"exact/seed_{seed}"]["log_likelihood"]["y"].values[:] = value
    assert f"{MINUS}0.600 ± 0.100" in texts(comparison(tree).axes[-1])


def test_zooms_where_the_prior_is_far(comparison_tree):
    tree = comparison_tree(("a", "b"), (0, 1))
    tree.attrs["prior_log_lik"] = -9.0
    whole, zoomed = comparison(tree).axes
    assert means(whole).keys() == means(zoomed).keys() == {"a", "b"}
    assert whole.get_xlim()[0] < -9 < zoomed.get_xlim()[0]
    tree.attrs["prior_log_lik"] = -1.0
    assert len(comparison(tree).axes) == 1


def test_one_seed_has_no_bar(comparison_tree):
    drawn = comparison(comparison_tree(("a", "b"), (0,)))
    assert bars(drawn.axes[0]) == {}
    assert "no error bar" in drawn.get_supxlabel()


def test_failures_are_named(comparison_tree):
    failed = [("a", 1), ("b", 0), ("b", 1), ("b", 2)]
    axes = comparison(comparison_tree(("b", "a"), (0, 1, 2), failed=failed)).axes[0]
    assert names(axes) == ["a\n(1 of 3 seeds failed)", "b\n(3 of 3 seeds failed)"]
    assert len(dots(axes)["a"]) == 2
    assert "b" not in dots(axes)


def test_numbers_have_no_class_prior(comparison_tree):
    tree = comparison_tree(("a", "b"), (0, 1), classes=None)
    assert f"prior of y {MINUS}1.40" in texts(comparison(tree).axes[0])


def test_a_tree_without_a_prior_draws_no_line(run_tree):
    axes = comparison(run_tree()).axes[0]
    assert not [line for line in axes.get_lines() if "prior" in str(line.get_label())]


@pytest.mark.parametrize("exact", [0, 1])
def test_says_when_routes_were_not_summed_out_exactly(comparison_tree, exact):
    tree = comparison_tree(("a",), (0, 1))
    tree["a/seed_1"].attrs["exact"] = exact
    assert ("importance sampling" in comparison(tree).get_supxlabel()) == (not exact)


def test_a_run_at_minus_infinity_is_drawn_around(comparison_tree):
    tree = comparison_tree(("a", "b"), (0, 1))
    tree["a/seed_0"]["log_likelihood"]["y"].values[..., 0] = -np.inf
    drawn = comparison(tree)
    drawn.draw_without_rendering()
    assert names(drawn.axes[0])[0] == "b"
