"""The examples that the examples figure picks, and what it draws of each."""

import functools
import json
import operator

import numpy as np
import pytest
from scipy.stats import entropy

from latentroute.analysis.plots import examples

SHAPE = json.dumps([1, 5])


def by_example(figure, n, parts=3):
    """Axes of each example, in the order drawn: least certain, then most certain."""
    grid = np.array(figure.axes, dtype=object).reshape(2, parts, n)
    return [grid[half, :, i] for half in range(2) for i in range(n)]


def uncertainty(tree):
    probs = tree["routing/route_probs"].values.astype(float)
    return np.array([np.mean([entropy(p) for p in row]) for row in probs])


def ranked(tree, n):
    """The n least certain rows and the n most certain ones."""
    h = uncertainty(tree).tolist()
    order = sorted(range(60), key=lambda row: -h[row])
    return order[:n], order[::-1][:n]


def bars(axes):
    """label -> (left, width) of each bar, by height."""
    found = {}
    for patch in axes.patches:
        height = round(patch.get_y() + patch.get_height() / 2)
        found.setdefault(height, []).append((patch.get_x(), patch.get_width()))
    return found


def test_pictures_are_the_examples_by_rank(run_tree):
    tree = run_tree(attrs={"image_shape": [1, 5]}, concentration=1.0)
    assert tree.attrs["image_shape"] == SHAPE
    least, most = ranked(tree, 4)
    uncertain = uncertainty(tree)
    x = tree["constant_data/x"].values
    drawn = by_example(examples(tree, n=4), 4)
    for row, (picture, *_) in zip(least + most, drawn, strict=True):
        np.testing.assert_array_equal(picture.images[0].get_array(), x[row][None])
        h = uncertain[row]
        title = f"H = {h:.2f}" if h >= 0.005 else "H < 0.01"
        assert picture.get_title() == title or picture.get_title(loc="left") == title
    clims = {axes[0].images[0].get_clim() for axes in drawn}
    assert clims == {(x.min(), x.max())}


def test_other_posteriors_pick_other_examples(run_tree):
    tree = run_tree(attrs={"image_shape": [1, 5]}, concentration=1.0)
    row = ranked(tree, 1)[1][0]  # the most certain one
    tree["routing/route_probs"].values[row] = 1 / 3
    (first, *_), *_ = by_example(examples(tree, n=2), 2)
    x = tree["constant_data/x"].values
    np.testing.assert_array_equal(first.images[0].get_array(), x[row][None])


def test_route_bars_are_filled_by_the_posterior(run_tree):
    tree = run_tree(n_choices=(3, 2), attrs={"image_shape": [1, 5]}, concentration=1.0)
    probs = tree["routing/route_probs"].values.astype(float)
    least, most = ranked(tree, 3)
    drawn = by_example(examples(tree, n=3), 3)
    for row, (_, routes, _) in zip(least + most, drawn, strict=True):
        found = bars(routes)
        for site, n_modules in enumerate((3, 2)):
            starts, widths = np.array(found[site]).T
            np.testing.assert_allclose(widths, probs[row, site, :n_modules], atol=1e-6)
            np.testing.assert_allclose(starts, widths.cumsum() - widths, atol=1e-6)
    labels = [label.get_text() for label in drawn[0][1].get_yticklabels()]
    assert labels == ["route_0", "route_1"]


def test_class_bars_are_the_most_probable_and_the_true_one(run_tree):
    tree = run_tree(classes=6, attrs={"class_names": list("abcdef")})
    probs = tree["predictive_probs/y"].values
    y = tree["observed_data/y"].values
    least, most = ranked(tree, 5)
    missed = 0
    drawn = by_example(examples(tree, n=5), 5)
    for row, (*_, axes) in zip(least + most, drawn, strict=True):
        shown = np.argsort(-probs[row])[:3].tolist()
        if y[row] not in shown:
            shown[-1] = y[row]
            missed += 1
        widths = [patch.get_width() for patch in axes.patches]
        np.testing.assert_allclose(widths, probs[row, shown], rtol=1e-6)
        texts = [text.get_text() for text in axes.texts]
        assert [text[0] for text in texts] == ["abcdef"[c] for c in shown]
        assert ["(true)" in text for text in texts] == [c == y[row] for c in shown]
    assert missed  # or the case is not tested


def test_percentages_are_never_rounded_to_certainty(run_tree):
    tree = run_tree(classes=2)
    tree["predictive_probs/y"].values[:] = [0.999, 0.001]
    texts = [t.get_text() for t in by_example(examples(tree, n=1), 1)[0][2].texts]
    assert [text.split()[-1] for text in texts] == [">99%", "<1%"]


def test_values_by_name_where_x_is_no_picture(run_tree):
    tree = run_tree(attrs={"feature_names": list("vwxyz")})
    x = tree["constant_data/x"].values.astype(float)
    z = (x - x.mean(0)) / x.std(0)
    least, most = ranked(tree, 2)
    drawn = by_example(examples(tree, n=2), 2)
    for row, (values, *_) in zip(least + most, drawn, strict=True):
        widths = [patch.get_width() for patch in values.patches]
        np.testing.assert_allclose(widths, np.clip(z[row], -3, 3), rtol=1e-5)
        written = [t.get_text().replace("\N{MINUS SIGN}", "-") for t in values.texts]
        assert written == [f"{v:.3g}" for v in x[row]]
    assert [t.get_text() for t in drawn[0][0].get_yticklabels()] == list("vwxyz")


def test_of_many_features_the_most_unusual(run_tree, data):
    from latentroute.analysis.datatree import tree_from_evaluation

    made = data()
    x = np.random.default_rng(0).normal(size=(60, 30))
    x[:, 11] = 1.0  # a constant one is never unusual
    tree = tree_from_evaluation(made.evaluation, x, made.y, attrs={"task": "toy"})
    figure = examples(tree, n=2)
    drawn = by_example(figure, 2)
    z = (x - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), 1)
    rows = functools.reduce(operator.iadd, ranked(tree, 2), [])
    unusual = np.abs(z[rows]).mean(0)
    expected = sorted(np.argsort(-unusual)[:10])
    names = [t.get_text() for t in drawn[0][0].get_yticklabels()]
    assert names == [f"x{i}" for i in expected]
    assert "x11" not in names
    assert "10 of 30 features" in figure.get_supxlabel()


def test_numbers_have_mean_interval_and_truth(run_tree):
    tree = run_tree(classes=None, outputs=2)
    draws = tree["posterior_predictive/y"].values[0]
    least, most = ranked(tree, 2)
    drawn = by_example(examples(tree, n=2), 2)
    for row, (*_, axes) in zip(least + most, drawn, strict=True):
        (lines,) = axes.collections
        ends = np.array(lines.get_segments())[:, :, 0]
        for output in range(2):
            own = np.sort(draws[:, row, output])
            at = np.array([0.05, 0.95]) * (len(own) - 1)
            wanted = np.interp(at, np.arange(len(own)), own)
            np.testing.assert_allclose(ends[output], wanted, rtol=1e-5)
        mean, truth = (line.get_xdata() for line in axes.get_lines())
        np.testing.assert_array_equal(mean, tree["predictive_mean/y"].values[row])
        np.testing.assert_array_equal(truth, tree["observed_data/y"].values[row])


def test_ranked_by_prediction(run_tree):
    tree = run_tree(attrs={"image_shape": [1, 5]})
    probs = tree["predictive_probs/y"].values.astype(float)
    order = np.argsort([-entropy(p) for p in probs])
    figure = examples(tree, n=2, by="prediction")
    x = tree["constant_data/x"].values
    rows = [*order[:2], *order[::-1][:2]]
    for row, (picture, *_) in zip(rows, by_example(figure, 2), strict=True):
        np.testing.assert_array_equal(picture.images[0].get_array(), x[row][None])
    assert "predictions" in figure.get_suptitle()


def test_the_best_run_of_a_comparison(comparison_tree):
    tree = comparison_tree(("a", "b"), (0, 1))
    tree["b/seed_1"]["log_likelihood"]["y"].values[:] = 0.0
    assert examples(tree).get_suptitle().endswith("toy, b, seed 1")


def test_a_program_that_only_scores_has_no_predictions(run_tree):
    tree = run_tree().drop_nodes(["predictive_probs", "posterior_predictive"])
    assert len(examples(tree, n=2).axes) == 2 * 2 * 2


def test_no_example_is_both(run_tree):
    assert len(examples(run_tree(n=5), n=6).axes) == 2 * 3 * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n: got 0, expected at least 1"),
        ({"by": "luck"}, "by: got 'luck', expected 'route' or 'prediction'"),
    ],
)
def test_refusals(run_tree, options, message):
    with pytest.raises(ValueError, match=message):
        examples(run_tree(), **options)


def test_numbers_are_not_ranked_by_class_probability(run_tree):
    with pytest.raises(ValueError, match="y is no class"):
        examples(run_tree(classes=None), by="prediction")


def test_one_example_has_no_two_halves(run_tree):
    with pytest.raises(ValueError, match="got 1 examples, expected at least 2"):
        examples(run_tree(n=1))


def test_images_of_more_dimensions_are_refused(data):
    from latentroute.analysis.datatree import tree_from_evaluation

    made = data()
    tree = tree_from_evaluation(made.evaluation, np.zeros((60, 3, 4, 4)), made.y)
    with pytest.raises(ValueError, match=r"x: got shape \(60, 3, 4, 4\), expected"):
        examples(tree)
    two = tree_from_evaluation(made.evaluation, np.eye(4)[None].repeat(60, 0), made.y)
    assert examples(two, n=2).axes[0].images[0].get_array().shape == (4, 4)
