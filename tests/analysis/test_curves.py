"""The curves of learning and of entropies."""

import numpy as np
import pytest
from scipy.stats import entropy

from latentroute.analysis.chains import join_chains
from latentroute.analysis.plots import entropies, learning_curves
from latentroute.analysis.plots.curves import Curves, collect, smooth
from latentroute.analysis.runs import runs


def lines(axes):
    return {str(line.get_label()): line for line in axes.get_lines()}


def band(axes, label):
    """Lowest and highest value at each step."""
    (collection,) = [c for c in axes.collections if c.get_label() == label]
    vertices = collection.get_paths()[0].vertices
    steps = np.unique(vertices[:, 0])
    heights = [vertices[vertices[:, 0] == step, 1] for step in steps]
    return steps, [h.min() for h in heights], [h.max() for h in heights]


def values(tree, method, name, seeds):
    found = [tree[f"{method}/seed_{s}/training/{name}"].values[0] for s in seeds]
    return np.stack(found)


def test_learning_curves_draw_mean_and_range(comparison_tree):
    tree = comparison_tree(("exact", "hard-em"), (0, 1, 2))
    valid, loss = learning_curves(tree).axes
    assert "(nats)" in valid.get_ylabel()
    assert "(nats)" in loss.get_ylabel()
    for axes, name in ((valid, "valid"), (loss, "loss")):
        assert set(lines(axes)) == {"exact", "hard-em"}
        for method in ("exact", "hard-em"):
            expected = values(tree, method, name, range(3))
            line = lines(axes)[method]
            np.testing.assert_allclose(line.get_ydata(), expected.mean(0))
            steps, low, high = band(axes, method)
            np.testing.assert_array_equal(line.get_xdata(), steps)
            np.testing.assert_allclose(low, expected.min(0))
            np.testing.assert_allclose(high, expected.max(0))
    assert list(lines(valid)["exact"].get_xdata()) == [10, 20, 30, 40]


def test_learning_curves_without_validation_data(comparison_tree):
    tree = comparison_tree(("exact",), (0, 1))
    for run in runs(tree):
        training = run.tree["training"].to_dataset().drop_vars("valid")
        run.tree["training"].dataset = training
    (loss,) = learning_curves(tree).axes
    assert "objective" in loss.get_title(loc="left")


def test_one_seed_has_no_band(run_tree):
    drawn = learning_curves(run_tree())
    assert not drawn.axes[0].collections
    assert drawn.get_supxlabel() == "One seed per method: no interval."


def test_notes_count_the_seeds_that_finished(comparison_tree):
    drawn = learning_curves(comparison_tree(("a", "b"), (0, 1, 2), failed=[("a", 0)]))
    assert "mean over 2 to 3 seeds" in drawn.get_supxlabel()


def test_a_seed_that_diverged_leaves_a_gap(comparison_tree):
    tree = comparison_tree(("a",), (0, 1))
    tree["a/seed_1/training"]["valid"].values[0, 2] = np.nan
    drawn = learning_curves(tree)
    drawn.draw_without_rendering()
    assert np.isnan(lines(drawn.axes[0])["a"].get_ydata()).tolist() == [0, 0, 1, 0]


def test_seeds_are_compared_at_the_steps_that_all_have(comparison_tree):
    tree = comparison_tree(("a",), (0, 1))
    short = tree["a/seed_1/training"].to_dataset().isel(log_step=slice(0, 2))
    tree["a/seed_1/training"].dataset = short
    curves = collect(runs(tree), "valid")
    assert curves.steps.tolist() == [10, 20]
    assert curves.values.shape == (2, 2)


def test_smooth_averages_stretches():
    steps, heights = np.arange(1, 251), np.arange(250.0)[None]
    curves, length = smooth(Curves(steps, heights))
    assert length == 2
    assert curves.steps[:2].tolist() == [2, 4]
    assert curves.values[0, :2].tolist() == [0.5, 2.5]
    few, length = smooth(Curves(steps[:50], heights[:, :50]))
    assert length == 1
    assert few.values.shape == (1, 50)


def test_long_losses_say_how_they_were_averaged(comparison_tree, history):
    tree = comparison_tree(("a",), (0,))
    training = tree["a/seed_0/training"].to_dataset().isel(step=np.arange(400) % 40)
    training = training.assign_coords(step=np.arange(1, 401))
    tree["a/seed_0/training"].dataset = training
    loss = learning_curves(tree).axes[1]
    assert loss.get_ylabel() == "loss per example, mean over 4 steps (nats)"
    first = training["loss"].values[0, :4].mean()
    assert lines(loss)["a"].get_ydata()[0] == pytest.approx(first)


DIFFERENCE = "H(A) \N{MINUS SIGN} H(A|X)"


def entropy_lines(axes):
    """The three lines by the first word of their label."""
    return {
        label.split("\n")[0].split(" =")[0]: line for label, line in lines(axes).items()
    }


def test_entropies_draw_both_and_their_ceiling(comparison_tree):
    tree = comparison_tree(("exact", "hard-em"), (0, 1), n_choices=(3, 5))
    drawn = entropies(tree)
    panels = [axes for axes in drawn.axes if axes.get_lines()]
    assert [axes.get_title(loc="left") for axes in panels] == ["exact", "hard-em"]
    for axes, method in zip(panels, ("exact", "hard-em"), strict=True):
        found = entropy_lines(axes)
        assert set(found) - {"_nolegend_"} == {"H(A)", "H(A|X)", DIFFERENCE, "log M"}
        both = [values(tree, method, name, range(2)) for name in ("h_b", "h_a")]
        np.testing.assert_allclose(
            found[DIFFERENCE].get_ydata(), (both[0] - both[1]).mean(0)
        )
        for label, name in (("H(A)", "h_b"), ("H(A|X)", "h_a")):
            expected = values(tree, method, name, range(2))
            np.testing.assert_allclose(found[label].get_ydata(), expected.mean(0))
        ceiling = (np.log(3) + np.log(5)) / 2
        np.testing.assert_allclose(found["log M"].get_ydata(), ceiling)
    assert panels[0].get_ylabel() == "entropy, mean over layers (nats)"


def bracket(axes):
    """Ends of the bar at the end of training."""
    (found,) = axes.containers
    (segment,) = found[2][0].get_segments()
    return found[0].get_xdata()[0], segment[:, 1]


def own_information(probs):
    """Plug-in and leave-one-out I(A;X), row by row."""
    plug_in = np.mean([entropy(row, probs.mean(0)) for row in probs])
    others = [np.delete(probs, i, axis=0).mean(0) for i in range(len(probs))]
    left_out = np.mean([entropy(p, q) for p, q in zip(probs, others, strict=True)])
    return plug_in, left_out


def test_entropies_end_with_the_bracket_on_the_test_examples(comparison_tree):
    tree = comparison_tree(("a",), (0, 1), n_choices=(3, 5), n=25)
    at, ends = bracket(entropies(tree).axes[0])
    expected = [
        own_information(tree[run]["routing/router_probs"].values[:, i].astype(float))
        for run in ("a/seed_0", "a/seed_1")
        for i in range(2)
    ]
    np.testing.assert_allclose(ends, np.mean(expected, axis=0), rtol=1e-5)
    assert ends[0] < ends[1]
    assert at > 40  # right of the last step


def test_entropies_bracket_of_one_site(run_tree):
    tree = run_tree(n_choices=(3, 5), n=25)
    _, ends = bracket(entropies(tree, site="route_1").axes[0])
    probs = tree["routing/router_probs"].values[:, 1].astype(float)
    np.testing.assert_allclose(ends, own_information(probs), rtol=1e-5)


def test_an_infinite_bound_ends_at_log_m(run_tree):
    tree = run_tree(n_choices=(3,), n=4)
    probs = tree["routing/router_probs"].values
    probs[:] = [1.0, 0.0, 0.0]
    probs[0] = [0.0, 1.0, 0.0]  # owns its module: no other example has any
    _, ends = bracket(entropies(tree).axes[0])
    np.testing.assert_allclose(ends, [entropy([3 / 4, 1 / 4]), np.log(3)])


def test_chains_of_one_run_are_a_band(run_tree):
    trees = [run_tree() for _ in range(3)]
    for i, tree in enumerate(trees):
        tree["training/valid"].values[:] += i**2
    drawn = learning_curves(join_chains(trees))
    expected = np.concatenate([tree["training/valid"].values for tree in trees])
    line = lines(drawn.axes[0])["exact"]
    np.testing.assert_allclose(line.get_ydata(), expected.mean(0))
    _, low, high = band(drawn.axes[0], "exact")
    np.testing.assert_allclose(low, expected.min(0))
    np.testing.assert_allclose(high, expected.max(0))
    assert "mean over 3 seeds" in drawn.get_supxlabel()


def test_entropies_say_how_many_modules_that_is(run_tree):
    drawn = entropies(run_tree(n_choices=(4, 4)))
    (right,) = [axes for axes in drawn.axes if "effective" in axes.get_ylabel()]
    np.testing.assert_allclose(right.get_yticks(), np.log([1, 2, 3, 4]))
    assert right.get_ylim() == drawn.axes[0].get_ylim()


def test_entropies_of_one_site(run_tree):
    tree = run_tree(n_choices=(3, 5))
    axes = entropies(tree, site="route_1").axes[0]
    found = entropy_lines(axes)
    expected = tree["training/h_a_layers"].sel(site="route_1").values[0]
    np.testing.assert_allclose(found["H(A|X)"].get_ydata(), expected)
    np.testing.assert_allclose(found["log M"].get_ydata(), np.log(5))
    assert axes.get_ylabel() == "entropy, route_1 (nats)"


def test_entropies_refuse_an_unknown_site(run_tree):
    with pytest.raises(ValueError, match=r"site: got 'route_9', expected one of"):
        entropies(run_tree(), site="route_9")
