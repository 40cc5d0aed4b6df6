"""Calibration as a DataTree, of simulations and of runs, and its figures' content."""

import arviz_plots
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from latentroute import analysis
from latentroute.analysis import (
    calibration_tree,
    predictive_calibration,
    reliability,
    route_calibration,
    route_reliability,
    uniformity,
)
from latentroute.analysis.calibration_uniformity import ecdf_band
from latentroute.analysis.plots import calibration_ecdf, coverage
from latentroute.analysis.plots import reliability as reliability_figure
from tests.analysis.calibration_programs import (
    BUGS,
    QUANTITIES,
    inputs,
    posterior,
    program,
)

N = 300


@pytest.fixture(scope="module")
def found():
    return route_calibration(program, inputs(N))


@pytest.fixture(scope="module")
def tree(found):
    return calibration_tree(found)


@pytest.fixture(scope="module")
def broken():
    wrong = posterior(BUGS["ignores the prior"])
    return calibration_tree(route_calibration(program, inputs(N), wrong))


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_the_tree_holds_what_was_found(found, tree):
    pit = tree["calibration/pit"]
    assert pit.dims == ("simulation", "quantity")
    assert tuple(pit["quantity"].values) == QUANTITIES
    np.testing.assert_array_equal(pit.values, found.pit)
    tests = uniformity(found.pit)
    np.testing.assert_array_equal(tree["uniformity/p_adjusted"], tests.p_adjusted)
    expected = reliability(found.route_probs, found.routes)
    for name, values in expected._asdict().items():
        np.testing.assert_array_equal(tree["reliability"][name].values, values)
    assert list(tree["reliability"]["site"].values) == ["a", "b"]


def test_it_survives_a_file(tree, tmp_path):
    path = analysis.save(tree, tmp_path / "calibration.nc")
    assert analysis.load(path).identical(tree)


def test_classes_are_ranked_by_their_probabilities(run_tree):
    run = run_tree(classes=4)
    out = predictive_calibration(run, seed=1)
    p = run["predictive_probs/y"].values.astype(float)
    y = run["observed_data/y"].values
    upto = p.cumsum(-1)[np.arange(len(y)), y]
    said = p[np.arange(len(y)), y]
    u = out["calibration/pit"].values[:, 0]
    assert ((u >= upto - said - 1e-6) & (u <= upto + 1e-6)).all()
    expected = reliability(p[:, None], y[:, None], seed=1)
    np.testing.assert_array_equal(out["reliability/seen"].values, expected.seen)
    assert "coverage" not in out.children


def test_numbers_are_ranked_among_the_draws(run_tree):
    run = run_tree(classes=0)
    out = predictive_calibration(run)
    y = run["observed_data/y"].values
    drawn = run["posterior_predictive/y"].values.reshape(-1, *y.shape)
    rank = (drawn < y).sum(0).reshape(len(y), -1)
    u = out["calibration/pit"].values
    np.testing.assert_array_equal((u * (len(drawn) + 1)).astype(int), rank)
    inside = np.abs(2 * u - 1) <= 0.8
    np.testing.assert_allclose(
        out["coverage/seen"].sel(level=0.8).values, inside.mean(0)
    )


def with_truth(run, truth):
    constant = run["constant_data"].to_dataset()
    constant["routes_true"] = (("obs", "site"), truth)
    groups = {name: node.to_dataset() for name, node in run.children.items()}
    return xr.DataTree.from_dict(groups | {"constant_data": constant})


def test_routes_of_a_run_are_matched_before_they_are_judged(run_tree):
    run = run_tree(n_choices=(3, 3))
    probs = run["routing/route_probs"].values.astype(float)
    truth = probs.argmax(-1)
    expected = reliability(probs, truth)
    relabelled = np.array([2, 0, 1])[truth]
    for labels in (truth, relabelled):
        out = route_reliability(with_truth(run, labels))
        np.testing.assert_allclose(out["reliability/seen"], expected.seen)
        np.testing.assert_allclose(out["reliability/ece"], expected.ece)
    fewer = np.minimum(truth, 1)  # two true modules: one found module is left over
    found = route_reliability(with_truth(run, fewer))["reliability/ece"].values
    assert np.isfinite(found).all() and (found > expected.ece).all()


def test_a_run_without_what_is_needed_is_refused(run_tree):
    run = run_tree(classes=4)
    with pytest.raises(ValueError, match="routes_true"):
        route_reliability(run)
    with pytest.raises(ValueError, match="observed_data"):
        predictive_calibration(xr.DataTree())


def test_arviz_takes_the_group_as_it_is(tree):
    shown = arviz_plots.plot_ecdf_pit(
        tree,
        group="calibration",
        sample_dims=["simulation"],
        coords={"quantity": ["log_joint", "a=0"]},
        backend="matplotlib",
    )
    assert shown.viz["plot"]["pit"].sizes == {"quantity": 2}


def test_the_curves_are_those_of_the_pits(found, tree, broken):
    shown = calibration_ecdf(tree)
    for i, name in enumerate(QUANTITIES):
        line = shown.viz["ecdf_lines"]["pit"].sel(quantity=name).item()
        at, height = line.get_data()
        u = found.pit[:, i]
        upto = [(u <= t).mean() - t for t in at]  # on the right of each jump
        before = [(u < t).mean() - t for t in at]
        np.testing.assert_allclose(height[2::2], upto[2::2], atol=1e-12)
        np.testing.assert_allclose(height[1::2], before[1::2], atol=1e-12)
        assert set(u) < set(at)
        axes = shown.get_target("pit", {"quantity": name})
        p = float(tree["uniformity/p_adjusted"][i])
        assert axes.get_title(loc="left") == f"{name}\np = {p:.2g}"
        assert line.get_color() == "#0072B2"
    assert "all pass" in shown.viz["figure"].item().get_suptitle()
    wrong = calibration_ecdf(broken, quantities=["log_prior"])
    line = wrong.viz["ecdf_lines"]["pit"].sel(quantity="log_prior").item()
    assert line.get_color() == "#D55E00"
    axes = wrong.get_target("pit", {"quantity": "log_prior"})
    assert axes.get_title(loc="left") == "log_prior\np < 1e\N{MINUS SIGN}9"
    assert " of 8 fail" in wrong.viz["figure"].item().get_suptitle()


def test_the_band_is_for_all_quantities_that_were_tested(tree):
    shown = calibration_ecdf(tree, quantities=["log_joint"])
    axes = shown.get_target("pit", {"quantity": "log_joint"})
    (band,) = axes.collections
    (path,) = band.get_paths()
    points = np.linspace(0, 1, 201)
    low, high = ecdf_band(N, points, prob=1 - 0.05 / len(QUANTITIES))
    assert path.vertices[:, 1].max() == pytest.approx((high - points).max())
    assert path.vertices[:, 1].min() == pytest.approx((low - points).min())


def test_reliability_is_drawn_as_it_is(tree):
    figure = reliability_figure(tree)
    diagrams = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in diagrams] == ["a", "b"]
    for i, axes in enumerate(diagrams):
        dots = np.concatenate(
            [line.get_xydata() for line in axes.lines if line.get_marker() == "o"]
        )
        group = tree["reliability"]
        expected = np.stack([group["said"][i], group["seen"][i]], -1)
        expected = expected[~np.isnan(expected).any(1)]
        np.testing.assert_allclose(dots[np.argsort(dots[:, 0])], expected)
        assert f"ECE {float(group['ece'][i]):.3f}" in axes.texts[0].get_text()
    counts = [patch.get_height() for patch in figure.axes[len(diagrams)].patches]
    np.testing.assert_array_equal(counts, tree["reliability/pairs"][0])


def test_coverage_is_drawn_as_it_is(run_tree):
    out = predictive_calibration(run_tree(classes=0))
    (axes,) = coverage(out).axes
    dots = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(dots, out["coverage/seen"].values.ravel())
    said = {text.get_text().split()[-1] for text in axes.texts}
    assert said == {f"{100 * s:.1f}%" for s in out["coverage/seen"].values.ravel()}


def test_figures_say_what_a_tree_lacks(tree):
    with pytest.raises(ValueError, match="'coverage' among them"):
        coverage(tree)
    with pytest.raises(ValueError, match="got 'c=0', expected some of"):
        calibration_ecdf(tree, quantities=["c=0"])
