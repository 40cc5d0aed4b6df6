"""Intervals over runs: formulas written out, coverage, limits."""

import numpy as np
import pytest
from scipy import stats

from latentroute.analysis import mean_interval, success_rate, truth, truth_table


def test_student_interval():
    x = np.array([0.2, 0.5, 0.9, 0.4])
    found = mean_interval(x, level=0.9)
    low, high = stats.t.interval(0.9, 3, x.mean(), stats.sem(x))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert (found.mean, found.n) == (x.mean(), 4)


def test_one_run_has_no_interval():
    found = mean_interval([0.3])
    assert found.mean == 0.3 and np.isnan([found.low, found.high]).all()


@pytest.mark.parametrize(("k", "n"), [(0, 10), (9, 10), (10, 10), (1, 1), (37, 100)])
def test_wilson_interval(k, n):
    """The two p at which |p - k/n| is 1.96 standard errors of p itself."""
    found = success_rate(k, n)
    assert (found.rate, found.k, found.n) == (k / n, k, n)
    z2, p = stats.norm.ppf(0.975) ** 2, k / n
    ends = np.sort(np.roots([n + z2, -(2 * n * p + z2), n * p**2]).real)
    assert (found.low, found.high) == pytest.approx(tuple(ends), abs=1e-7)
    assert 0 <= found.low <= p <= found.high <= 1


def made_up_runs(n):
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, (40, 2))
    return [truth(rng.dirichlet(np.ones(3), (40, 2)), true) for _ in range(n)]


def test_truth_table_averages_over_runs():
    runs = made_up_runs(5)
    table = truth_table(runs, level=0.8)
    for layer in range(2):
        row = table.loc[("alignment", str(layer))]
        expected = mean_interval([run.alignment[layer] for run in runs], level=0.8)
        assert row.tolist() == pytest.approx(list(expected))
    row = table.loc[("ari", "path")]
    assert row["mean"] == pytest.approx(np.mean([run.path_ari for run in runs]))
    measures = {*runs[0]._fields} - {"path_accuracy", "path_ari", "path_nmi", "n"}
    assert set(table.index.get_level_values("measure")) == measures
    assert len(table) == 2 * len(measures) + 3


def test_ends_stay_where_the_measures_are():
    table = truth_table(made_up_runs(2))
    nonnegative = table.drop(index="ari", level="measure")
    assert (nonnegative["low"] >= 0).all() and (table["high"] <= 1).all()
    assert (table["low"] <= table["mean"]).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval([]), r"values: got shape \(0,\)"),
        (lambda: mean_interval([[1.0]]), r"values: got shape \(1, 1\)"),
        (lambda: mean_interval([1.0, 2.0], level=0), "level: got 0"),
        (lambda: success_rate(3, 2), "got 3 of 2 runs"),
        (lambda: success_rate(0, 0), "got 0 of 0 runs"),
        (lambda: success_rate(1, 2, level=95), "level: got 95"),
        (lambda: truth_table([]), r"runs: got 0 with \[\] layers"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
