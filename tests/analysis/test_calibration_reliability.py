"""Reliability, scores and coverage: by hand, against SciPy's and scikit-learn's."""

import numpy as np
import pytest
from scipy.stats import binomtest, norm
from sklearn.metrics import brier_score_loss, log_loss

from latentroute.analysis import coverage, proper_scores, reliability
from latentroute.analysis.intervals import wilson
from tests.statistics import COMPARISON_RATE, LEDGER

N = 5000


def simulated(power=1.0, n=N, m=3, sites=2, seed=0):
    """Probabilities raised to a power, and choices that follow the plain ones."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(m, 0.6), size=(n, sites))
    truth = (rng.uniform(size=(n, sites, 1)) > p.cumsum(-1)).sum(-1).clip(0, m - 1)
    said = p**power
    return said / said.sum(-1, keepdims=True), truth


def test_bins_by_hand():
    p = np.array([[[0.9, 0.1]], [[0.9, 0.1]], [[0.3, 0.7]], [[0.2, 0.8]]])
    truth = np.array([[0], [1], [1], [1]])
    found = reliability(p, truth, n_bins=2)
    np.testing.assert_array_equal(found.pairs, [[4, 4]])
    np.testing.assert_allclose(found.said, [[0.175, 0.825]])
    np.testing.assert_allclose(found.seen, [[0.25, 0.75]])
    np.testing.assert_allclose(found.ece, [0.075])
    empty = reliability(np.full((3, 1, 2), 0.5), np.zeros((3, 1), int), n_bins=10)
    assert np.isnan(empty.seen[0, 0]) and empty.pairs[0].sum() == 6


def test_right_probabilities_stay_at_the_floor():
    p, truth = simulated()
    found = reliability(p, truth)
    assert (found.ece < 1.5 * found.ece_limit).all()
    assert (found.ece_floor < found.ece_limit).all()
    scores = proper_scores(p, truth)
    far = norm.isf(COMPARISON_RATE / 2)
    LEDGER.spend(2 * COMPARISON_RATE)  # two sites
    assert (np.abs(scores.excess) < far * scores.excess_error).all()


@pytest.mark.parametrize(("power", "sign"), [(2.0, 1), (0.5, -1)])
def test_over_confident_and_too_cautious_ones_do_not(power, sign):
    p, truth = simulated(power)
    found = reliability(p, truth)
    assert (found.ece > 3 * found.ece_limit).all()
    scores = proper_scores(p, truth)
    assert (sign * scores.excess > 7 * scores.excess_error).all()
    right = proper_scores(*simulated())
    assert (scores.miscalibration > 3 * right.miscalibration).all()
    np.testing.assert_allclose(scores.discrimination, right.discrimination, atol=0.02)


def test_the_floor_is_the_error_of_right_probabilities():
    """Over 60 data sets, their mean error is the floor that each one states."""
    found = [reliability(*simulated(n=300, sites=1, seed=s), seed=s) for s in range(60)]
    errors = np.array([f.ece[0] for f in found])
    floors = np.array([f.ece_floor[0] for f in found])
    assert errors.mean() == pytest.approx(floors.mean(), rel=0.15)


def test_scores_are_scikit_learn_s():
    p, truth = simulated(1.3, sites=1)
    found = proper_scores(p, truth)
    assert found.log_score[0] == pytest.approx(log_loss(truth[:, 0], p[:, 0]))
    each = sum(brier_score_loss(truth[:, 0] == m, p[:, 0, m]) for m in range(3))
    assert found.brier[0] == pytest.approx(each)
    shares = np.bincount(truth[:, 0]) / len(truth)
    assert found.uncertainty[0] == pytest.approx((shares * (1 - shares)).sum())


def test_the_parts_add_up():
    p, truth = simulated(1.7)
    found = proper_scores(p, truth)
    parts = found.miscalibration - found.discrimination + found.uncertainty
    np.testing.assert_allclose(found.brier, parts)
    np.testing.assert_allclose(found.log_score, found.entropy + found.excess)
    assert (found.miscalibration >= 0).all() and (found.discrimination >= 0).all()


def test_what_is_impossible_and_happens_costs_everything():
    p, truth = np.array([[[1.0, 0.0]], [[0.5, 0.5]]]), np.array([[1], [0]])
    found = proper_scores(p, truth)
    assert found.log_score[0] == found.excess[0] == np.inf
    assert found.brier[0] == pytest.approx((2 + 0.5) / 2)


def test_what_was_never_said_and_happens_counts_as_missed():
    """Not as a hit of its neighbour: fewer modules than true ones, a collapsed site."""
    p = np.zeros((10, 1, 4))
    p[:, 0, 0] = 1.0
    truth = np.repeat([0, 1], 5)[:, None]
    found = reliability(p, truth)
    assert found.pairs[0].tolist() == [10] + [0] * 8 + [10]  # choices 0 and 1
    assert found.said[0, [0, -1]].tolist() == [0.0, 1.0]
    assert found.seen[0, [0, -1]].tolist() == [0.5, 0.5]
    assert found.ece[0] == 0.5
    assert found.ece_floor[0] == 0.0


def test_choices_that_a_site_does_not_have_change_nothing():
    p, truth = simulated(n=400)
    padded = np.concatenate([p, np.zeros((400, 2, 2))], -1)
    for function in (reliability, proper_scores):
        for with_, without in zip(
            function(padded, truth), function(p, truth), strict=True
        ):
            np.testing.assert_allclose(with_, without, atol=1e-12)


@pytest.mark.parametrize(("hits", "trials"), [(0, 7), (3, 10), (999, 1000), (50, 50)])
def test_wilson_is_scipy_s(hits, trials):
    low, high = wilson(np.array([hits]), np.array([trials]))
    expected = binomtest(hits, trials).proportion_ci(method="wilson")
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_coverage_by_hand():
    pit = np.array([0.5, 0.05, 0.3, 0.99])
    found = coverage(pit, levels=(0.5, 0.9))
    np.testing.assert_allclose(found.seen, [[0.5], [0.75]])
    even = (np.arange(1000) + 0.5) / 1000
    exact = coverage(np.stack([even, even**3], 1))
    np.testing.assert_allclose(exact.seen[:, 0], exact.levels, atol=1e-3)
    assert (exact.low <= exact.seen).all() and (exact.seen <= exact.high).all()
    assert (exact.high[1:4, 1] < exact.levels[1:4]).all()  # the negative control


@pytest.mark.parametrize(
    ("pit", "levels", "match"),
    [
        ([0.5, np.nan], (0.5,), "pit: got nan, expected numbers in"),
        ([0.5, 1.5], (0.5,), "pit: got 1.5, expected numbers in"),
        ([0.5], (50,), "levels: got .50,., expected probabilities"),
    ],
)
def test_coverage_of_what_is_no_pit_is_refused(pit, levels, match):
    with pytest.raises(ValueError, match=match):
        coverage(pit, levels=levels)


@pytest.mark.parametrize(
    ("probs", "truth", "match"),
    [
        (np.ones((3, 2)) / 2, np.zeros((3, 2), int), "got shapes"),
        (np.ones((3, 1, 2)), np.zeros((3, 1), int), "sum to 1"),
        (np.ones((3, 1, 2)) / 2, np.full((3, 1), 2), r"whole numbers in 0 \.\. 1"),
        (np.ones((3, 1, 2)) / 2, np.zeros((3, 1)), "whole numbers"),
    ],
)
def test_what_is_no_forecast_is_refused(probs, truth, match):
    for function in (reliability, proper_scores):
        with pytest.raises(ValueError, match=match):
            function(probs, truth)
    with pytest.raises(ValueError, match="n_bins"):
        reliability(np.ones((3, 1, 2)) / 2, np.zeros((3, 1), int), n_bins=1)
