"""The cells of the confusion of true and found modules."""

from itertools import permutations

import numpy as np
import pytest

from latentroute.analysis.datatree import tree_from_evaluation
from latentroute.analysis.plots import confusion
from latentroute.analysis.plots.confusion import matched_shares


@pytest.fixture
def known(data):
    """A run whose true routes are known; they, and its posterior over modules."""

    def made(n_choices=(3, 2), routes=None, **options):
        got = data(n_choices=n_choices, **options)
        tree = tree_from_evaluation(
            got.evaluation,
            got.x,
            got.y,
            routes=got.routes if routes is None else routes,
            attrs={"method": "exact", "seed": 0, "task": "toy"},
        )
        truth = tree["constant_data/routes_true"].values
        return tree, truth, tree["routing/route_probs"].values.astype(float)

    return made


def panels(figure):
    return [axes for axes in figure.axes if axes.images]


def cells(axes):
    return np.ma.filled(axes.images[0].get_array(), np.nan)


def columns(axes):
    return [int(label.get_text()) for label in axes.get_xticklabels()]


def best_accuracy(truth, found, n):
    """Over every way to match n modules to n, tried one by one."""
    return max(
        np.mean(np.array(labels)[found] == truth) for labels in permutations(range(n))
    )


def test_rows_are_where_the_posterior_puts_a_true_modules_examples(known):
    tree, truth, probs = known()
    for site, axes in enumerate(panels(confusion(tree))):
        for row, shares in enumerate(cells(axes)):
            mine = probs[truth[:, site] == row, site].mean(0)
            np.testing.assert_allclose(shares, mine[columns(axes)], rtol=1e-6)
        np.testing.assert_allclose(cells(axes).sum(1), 1, rtol=1e-5)
        assert axes.get_title(loc="left").startswith(f"route_{site}: ")


def test_accuracy_is_the_best_over_all_matchings(known):
    tree, truth, _ = known(n_choices=(4, 3), concentration=2.0)
    probs = tree["routing/route_probs"].values
    probs[:, 0] = probs[:, 0, [2, 0, 3, 1]]  # a module's number is not the true one's
    probs[:, 1, :3] = probs[:, 1, [1, 2, 0]]
    for site, (axes, n) in enumerate(zip(panels(confusion(tree)), (4, 3), strict=True)):
        best = best_accuracy(truth[:, site], probs[:, site].argmax(-1), n)
        assert axes.get_title(loc="left") == f"route_{site}: {best:.0%} right"
        assert best < 1


def test_relabelled_modules_make_the_same_figure(known):
    tree, _, _ = known(n_choices=(4,))
    before = panels(confusion(tree))[0]
    order = [2, 0, 3, 1]
    values = tree["routing/route_probs"].values
    values[:] = values[..., order]
    after = panels(confusion(tree))[0]
    np.testing.assert_array_equal(cells(before), cells(after))
    assert before.get_title(loc="left") == after.get_title(loc="left")
    assert [order[m] for m in columns(after)] == columns(before)


def test_recovered_routes_are_a_diagonal(known):
    tree, truth, _ = known()
    values = tree["routing/route_probs"].values
    values[:] = 0
    for site, shifted in enumerate(((truth[:, 0] + 1) % 3, 1 - truth[:, 1])):
        values[np.arange(60), site, shifted] = 1
    for axes, n in zip(panels(confusion(tree)), (3, 2), strict=True):
        np.testing.assert_array_equal(cells(axes), np.eye(n))
        assert "100% right" in axes.get_title(loc="left")


def test_what_is_drawn_follows_the_posterior(known):
    tree, _, _ = known()
    before = cells(panels(confusion(tree))[0])
    values = tree["routing/route_probs"].values
    values[:, 0] = values[::-1, 0].copy()  # other examples' routes
    assert np.abs(cells(panels(confusion(tree))[0]) - before).max() > 0.05


def test_more_modules_than_true_ones_stand_at_the_right(known):
    routes = np.arange(60)[:, None] % 2
    tree, _, _ = known(n_choices=(4,), routes=routes)
    values = tree["routing/route_probs"].values
    values[:] = 0
    values[np.arange(60), 0, 3 - routes[:, 0]] = 1  # 0 by 3, 1 by 2
    (axes,) = panels(confusion(tree))
    assert columns(axes)[:2] == [3, 2]
    np.testing.assert_array_equal(cells(axes), np.eye(2, 4))


def test_fewer_modules_than_true_ones(known):
    routes = np.arange(60)[:, None] % 3
    tree, _, _ = known(n_choices=(2,), routes=routes)
    (axes,) = panels(confusion(tree))
    assert cells(axes).shape == (3, 2)


def test_a_true_module_without_examples_is_left_empty(known):
    routes = np.where(np.arange(60)[:, None] % 2, 2, 0)
    tree, _, _ = known(n_choices=(3,), routes=routes)
    (axes,) = panels(confusion(tree))
    assert np.isnan(cells(axes)[1]).all()
    assert len(axes.texts) == 6
    axes.figure.draw_without_rendering()


def test_written_numbers_are_those_of_the_cells(known):
    tree, _, _ = known()
    for axes in panels(confusion(tree)):
        written = [float(text.get_text()) for text in axes.texts]
        np.testing.assert_allclose(written, cells(axes).ravel(), atol=0.005 + 1e-6)


def test_many_modules_have_no_numbers(known):
    tree, _, _ = known(n_choices=(17,), n=200)
    (axes,) = panels(confusion(tree))
    assert not axes.texts
    assert len(axes.get_xticks()) <= 16


def test_unknown_truth_is_refused(run_tree):
    with pytest.raises(ValueError, match="got no true routes"):
        confusion(run_tree())


def test_truth_of_another_number_of_decisions_is_none(known):
    tree, _, _ = known(routes=np.zeros((60, 3), dtype=np.int64))
    with pytest.raises(ValueError, match="got no true routes"):
        confusion(tree)


def test_ties_do_not_depend_on_what_modules_are_called():
    truth = np.array([0, 0, 1, 1, 1])
    probs = np.array([[1.0, 0], [0.5, 0.5], [0.5, 0.5], [0, 1.0], [0, 1.0]])
    found, renamed = (matched_shares(truth, p) for p in (probs, probs[:, ::-1]))
    assert found.accuracy == renamed.accuracy == 0.8  # ties go to the module used most
    np.testing.assert_array_equal(found.shares, renamed.shares)
