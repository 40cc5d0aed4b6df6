"""The columns of the posterior-routes figure."""

import numpy as np
import pytest

from latentroute.analysis import tree_from_evaluation
from latentroute.analysis.plots import posterior_routes


def heights(axes):
    """(n_modules, n_columns) heights of the coloured steps."""
    found = []
    for patch in axes.patches:
        top, _, baseline = patch.get_data()
        found.append(top - baseline)
    return np.array(found)


def probabilities(tree, site=0):
    return tree["routing/route_probs"].values[:, site].astype(float)


def labels(axes):
    return [label.get_text() for label in axes.get_xticklabels()]


def test_every_example_is_a_column_grouped_by_class(run_tree):
    tree = run_tree(n_choices=(3, 3))
    y = tree["observed_data/y"].values
    figure = posterior_routes(tree)
    assert len(figure.axes) == 2
    for site, axes in enumerate(figure.axes):
        assert axes.get_title(loc="left") == f"route_{site}"
        drawn, probs = heights(axes), probabilities(tree, site)
        np.testing.assert_allclose(drawn.sum(0), 1, rtol=1e-5)
        start = 0
        for c in range(4):
            expected = probs[y == c]
            columns = drawn[:, start : start + len(expected)].T
            start += len(expected)
            order = np.lexsort(columns.T), np.lexsort(expected.T)
            np.testing.assert_allclose(
                columns[order[0]], expected[order[1]], rtol=1e-4, atol=1e-6
            )
    bottom = figure.axes[-1]
    assert labels(bottom) == ["0", "1", "2", "3"]
    assert bottom.get_xlabel() == "test examples, grouped by class"
    centres = [np.mean(np.flatnonzero(np.sort(y) == c)) + 0.5 for c in range(4)]
    np.testing.assert_allclose(bottom.get_xticks(), centres)


def test_a_column_is_the_same_example_at_every_site(run_tree):
    tree = run_tree(n_choices=(3, 3))
    first, second = (heights(axes) for axes in posterior_routes(tree).axes)
    pairs = np.concatenate([probabilities(tree, 0), probabilities(tree, 1)], 1)
    drawn = np.concatenate([first, second]).T
    np.testing.assert_allclose(
        drawn[np.lexsort(drawn.T)], pairs[np.lexsort(pairs.T)], rtol=1e-4, atol=1e-6
    )


def test_where_the_true_modules_are_known_each_site_is_grouped_by_its_own(data):
    made = data(n_choices=(3, 2), classes=None)
    tree = tree_from_evaluation(
        made.evaluation,
        made.x,
        made.y,
        routes=made.routes,
        attrs={"method": "exact", "seed": 0, "task": "toy"},
    )
    for site, axes in enumerate(posterior_routes(tree).axes):
        drawn, probs = heights(axes), probabilities(tree, site)
        truth, start = made.routes[:, site].numpy(), 0
        for m in np.unique(truth):
            expected = probs[truth == m][:, : len(drawn)]
            columns = drawn[:, start : start + len(expected)].T
            start += len(expected)
            np.testing.assert_allclose(
                np.sort(columns, 0), np.sort(expected, 0), rtol=1e-4, atol=1e-6
            )
        assert labels(axes) == [str(m) for m in np.unique(truth)]
    assert axes.get_xlabel() == "test examples, grouped by true module"


def test_within_a_class_by_most_probable_module(run_tree):
    tree = run_tree(n_choices=(3,), classes=1, concentration=3.0)
    best = heights(posterior_routes(tree).axes[0]).argmax(0)
    assert (np.diff(best) >= 0).all()


def test_class_names(run_tree):
    tree = run_tree(attrs={"class_names": ("cat", "dog", "eel", "fox")})
    assert labels(posterior_routes(tree).axes[-1]) == ["cat", "dog", "eel", "fox"]


def test_sorted_by_a_number(run_tree):
    tree = run_tree(classes=None, outputs=2, n_choices=(3,))
    y = tree["observed_data/y"].values
    for output in (0, 1):
        axes = posterior_routes(tree, output=output).axes[0]
        expected = probabilities(tree)[np.argsort(y[:, output])]
        np.testing.assert_allclose(heights(axes).T, expected, rtol=1e-4, atol=1e-6)
        assert axes.get_xlabel() == f"test examples, sorted by y[{output}]"
    smallest = f"{y[:, 1].min():.2f}".replace("-", "\N{MINUS SIGN}")
    assert labels(axes)[0] == smallest


def test_sorted_by_a_feature(run_tree):
    tree = run_tree(attrs={"feature_names": list("abcde")})
    axes = posterior_routes(tree, feature=2).axes[0]
    expected = probabilities(tree)[np.argsort(tree["constant_data/x"].values[:, 2])]
    np.testing.assert_allclose(heights(axes).T, expected, rtol=1e-4, atol=1e-6)
    assert "by c: toy" in axes.figure.get_suptitle()


def test_few_numbers_are_groups(run_tree):
    tree = run_tree(classes=None)
    tree["observed_data"]["y"].values[:] = (np.arange(60) % 2)[:, None]
    axes = posterior_routes(tree).axes[-1]
    assert axes.get_xlabel() == "test examples, grouped by y"
    assert labels(axes) == ["0", "1"]


def test_comparison_shows_each_methods_best_seed(comparison_tree):
    tree = comparison_tree(("a", "b"), (0, 1, 2), n_choices=(3,))
    for run, level in (("a/seed_1", 0.0), ("b/seed_2", 0.0)):
        tree[run]["log_likelihood"]["y"].values[:] = level
    figure = posterior_routes(tree)
    rows = [axes.get_ylabel() for axes in figure.axes]
    assert rows == ["a\nseed_1", "b\nseed_2"]
    for axes, run in zip(figure.axes, ("a/seed_1", "b/seed_2"), strict=True):
        drawn, expected = heights(axes).T, probabilities(tree[run])
        np.testing.assert_allclose(
            drawn[np.lexsort(drawn.T)], expected[np.lexsort(expected.T)], atol=1e-6
        )
    assert "compare patterns, not colours" in figure.get_supxlabel()


def test_padding_is_not_drawn(run_tree):
    wide, narrow = posterior_routes(run_tree(n_choices=(5, 2))).axes
    assert len(wide.patches) == 5
    assert len(narrow.patches) == 2
    legend = wide.figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == [
        f"module {m}" for m in range(5)
    ]


def test_many_examples_are_thinned_evenly(run_tree):
    tree = run_tree(n=5000, draws=1, n_choices=(2,))
    axes = posterior_routes(tree).axes[0]
    assert heights(axes).shape == (2, 2000)
    assert axes.get_xlim() == (0, 5000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feature": 5}, r"feature: got 5, expected one of x \(60, 5\)"),
        ({"output": 2}, r"output: got 2, expected one of y \(60, 2\)"),
    ],
)
def test_refusals(run_tree, options, message):
    with pytest.raises(ValueError, match=message):
        posterior_routes(run_tree(classes=None, outputs=2), **options)


def test_without_targets_a_feature_is_needed(run_tree):
    tree = run_tree().drop_nodes("observed_data")
    with pytest.raises(ValueError, match="expected feature= to be given"):
        posterior_routes(tree)
    posterior_routes(tree, feature=0)
