"""The ribbons of the flows figure."""

import itertools

import numpy as np
import pytest
from matplotlib.patches import PathPatch, Rectangle

from latentroute.analysis.chains import join_chains
from latentroute.analysis.datatree import tree_from_evaluation
from latentroute.analysis.plots import flows


def ribbons(axes):
    """Label -> width at the left and at the right end."""
    found = {}
    for patch in axes.patches:
        if isinstance(patch, PathPatch):
            points = patch.get_path().vertices
            left = points[7, 1] - points[0, 1]
            right = points[4, 1] - points[3, 1]
            found[patch.get_label()] = (left, right)
    return found


def boxes(axes):
    """Label -> (top, height)."""
    return {
        patch.get_label(): (patch.get_y(), patch.get_height())
        for patch in axes.patches
        if isinstance(patch, Rectangle)
    }


def expected(tree):
    """The joint of consecutive columns, counted one draw and example at a time."""
    route = tree["posterior/route"].values
    y = tree["observed_data/y"].values
    found = {}
    weight = 1 / np.prod(route.shape[:3])
    for chain in route:
        for draw in chain:
            for label, modules in zip(y, draw, strict=True):
                names = [f"class {label}"]
                names += [f"route_{i} {m}" for i, m in enumerate(modules)]
                for a, b in itertools.pairwise(names):
                    key = f"{a} to {b}"
                    found[key] = found.get(key, 0) + weight
    return found


def assert_drawn(axes, wanted):
    drawn = ribbons(axes)
    assert set(drawn) == set(wanted)
    for name, (left, right) in drawn.items():
        assert left == pytest.approx(wanted[name], abs=1e-12)
        assert right == pytest.approx(wanted[name], abs=1e-12)


def test_ribbons_are_as_wide_as_the_joint_share(run_tree):
    tree = run_tree(n_choices=(3, 4, 2), concentration=1.0)
    (axes,) = flows(tree).axes
    assert_drawn(axes, expected(tree))


def test_the_joint_is_not_the_product_of_shares(run_tree):
    tree = run_tree(n_choices=(2, 2), classes=1)
    route = tree["posterior/route"].values
    route[..., 0] = np.arange(60) % 2
    route[..., 1] = route[..., 0]
    drawn = ribbons(flows(tree).axes[0])
    assert drawn["route_0 0 to route_1 0"][0] == pytest.approx(0.5)
    assert "route_0 0 to route_1 1" not in drawn  # 0.25 if it were the product


def test_other_draws_make_other_ribbons(run_tree):
    tree = run_tree(n_choices=(3, 3))
    before = ribbons(flows(tree).axes[0])
    tree["posterior/route"].values[..., 1] = 0
    after = ribbons(flows(tree).axes[0])
    assert before != after
    assert all("route_1 0" in name for name in after if "to route_1" in name)


def test_every_column_holds_all_examples_without_overlap(run_tree):
    (axes,) = flows(run_tree(n_choices=(3, 9), concentration=1.0)).axes
    found = boxes(axes)
    for column in ("class", "route_0", "route_1"):
        edges = sorted(v for name, v in found.items() if name.startswith(column))
        assert sum(height for _, height in edges) == pytest.approx(1)
        for (top, height), (below, _) in itertools.pairwise(edges):
            assert top + height <= below + 1e-12
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        "class",
        "route_0",
        "route_1",
    ]


def test_ribbons_stay_within_their_boxes(run_tree):
    (axes,) = flows(run_tree(n_choices=(3, 3), concentration=1.0)).axes
    found = boxes(axes)
    ends = {name: [] for name in found}
    for patch in axes.patches:
        if isinstance(patch, PathPatch):
            points = patch.get_path().vertices
            start, _, end = patch.get_label().partition(" to ")
            ends[start].append(("right", points[0, 1], points[7, 1]))
            ends[end].append(("left", points[3, 1], points[4, 1]))
    for name, (top, height) in found.items():
        for side in ("left", "right"):
            spans = sorted(span[1:] for span in ends[name] if span[0] == side)
            if not spans:  # the first column's left, the last one's right
                continue
            stacked = np.array([edge for span in spans for edge in span])
            assert stacked[0] == pytest.approx(top)
            assert stacked[-1] == pytest.approx(top + height)
            np.testing.assert_allclose(stacked[1:-1:2], stacked[2::2], atol=1e-12)


def test_unused_modules_have_no_box(run_tree):
    tree = run_tree(n_choices=(3,))
    tree["posterior/route"].values[:] = 2
    found = boxes(flows(tree).axes[0])
    assert [name for name in found if name.startswith("route_0")] == ["route_0 2"]
    assert found["route_0 2"][1] == pytest.approx(1)


def test_known_routes_are_where_examples_start(data):
    made = data(n_choices=(3, 2), classes=None)
    tree = tree_from_evaluation(
        made.evaluation, made.x, made.y, routes=made.routes, attrs={"task": "toy"}
    )
    figure = flows(tree)
    truth = made.routes.numpy()
    heights = {
        name.removeprefix("true route "): height
        for name, (_, height) in boxes(figure.axes[0]).items()
        if name.startswith("true")
    }
    paths, counts = np.unique(truth, axis=0, return_counts=True)
    wanted = {f"{a}-{b}": n / 60 for (a, b), n in zip(paths, counts, strict=True)}
    assert heights == pytest.approx(wanted)
    assert "from true route" in figure.get_suptitle()


def test_numbers_start_at_their_fifth(run_tree):
    tree = run_tree(classes=None, n_choices=(2,), n=100)
    y = tree["observed_data/y"].values[:, 0]
    y[:] = np.arange(100)
    route = tree["posterior/route"].values
    route[:] = (y >= 20).astype(int)[:, None]
    assert ribbons(flows(tree).axes[0]) == {
        name: pytest.approx((0.2, 0.2))
        for name in (
            "y below 19.80 to route_0 0",
            "y 19.80 to 39.60 to route_0 1",
            "y 39.60 to 59.40 to route_0 1",
            "y 59.40 to 79.20 to route_0 1",
            "y above 79.20 to route_0 1",
        )
    }


def test_few_numbers_are_values(run_tree):
    tree = run_tree(classes=None, n_choices=(2,))
    tree["observed_data/y"].values[:] = (np.arange(60) % 2)[:, None]
    found = boxes(flows(tree).axes[0])
    assert found["y 0"][1] == found["y 1"][1] == pytest.approx(0.5)


def test_chains_are_all_in_it(run_tree):
    trees = [run_tree(n_choices=(2, 2)), run_tree(n_choices=(2, 2))]
    trees[1]["posterior/route"].values[:] = 0
    joined = join_chains(trees)
    assert joined["posterior/route"].sizes["chain"] == 2
    assert_drawn(flows(joined).axes[0], expected(joined))


def test_a_panel_for_each_methods_best_seed(comparison_tree):
    tree = comparison_tree(("a", "b"), (0, 1), n_choices=(3,))
    tree["b/seed_1"]["log_likelihood"]["y"].values[:] = 0.0
    figure = flows(tree)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[1] == "b, seed 1"
    assert_drawn(figure.axes[1], expected(tree["b/seed_1"]))


def test_class_names_and_numbers_are_written(run_tree):
    tree = run_tree(attrs={"class_names": ["cat", "dog", "eel", "fox"]})
    texts = [text.get_text() for text in flows(tree).axes[0].texts]
    assert texts[:4] == ["cat", "dog", "eel", "fox"]
    assert set(texts[4:]) <= {"0", "1", "2"}


def test_names_of_many_classes_do_not_overlap(run_tree):
    figure = flows(run_tree(classes=60, n=600, n_choices=(2,)))
    figure.draw_without_rendering()
    (axes,) = figure.axes
    spans = [text.get_window_extent() for text in axes.texts]
    names = sorted((span.y0, span.y1) for span in spans if span.x1 < spans[-1].x0)
    assert len(names) > 10
    for (_, top), (bottom, _) in itertools.pairwise(names):
        assert top <= bottom + 1


def test_nothing_flows_from_nowhere(run_tree):
    tree = run_tree(n_choices=(3,)).drop_nodes("observed_data")
    with pytest.raises(ValueError, match="one route site and no targets"):
        flows(tree)
    two = run_tree(n_choices=(3, 3)).drop_nodes("observed_data")
    assert all("route_0" in name for name in ribbons(flows(two).axes[0]))
