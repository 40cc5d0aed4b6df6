"""The measures of Mittal et al.: the paper's formulas, all permutations, the limits."""

import itertools

import numpy as np
import pytest
from scipy.stats import entropy

from latentroute.analysis import specialisation
from latentroute.analysis.specialisation import activation_matrix


def matrices(n_rules, n_modules, n=5):
    rng = np.random.default_rng(0)
    return rng.dirichlet(np.full(n_modules, 0.4), (n, n_rules))


@pytest.mark.parametrize("r", [2, 3, 5])
def test_the_papers_formulas_where_modules_are_as_many_as_rules(r):
    """Equations 16 to 20, the nearest of all R! permutations, draws of one's own."""
    for a in matrices(r, r):
        found = specialisation(a, draws=4000)
        p_m = sum(a[rule, :] / r for rule in range(r))
        c_a = r / (r - 1) * sum(max(0, 1 / r - p) for p in p_m)
        assert found.collapse_avg == pytest.approx(c_a, rel=1e-12)
        assert found.collapse_worst == pytest.approx(1 - r * min(p_m), rel=1e-12)
        s_d = min(
            np.abs(a - np.eye(r)[list(pi)]).sum() / (2 * r)
            for pi in itertools.permutations(range(r))
        )
        assert found.alignment == pytest.approx(s_d, rel=1e-12)
        mi = entropy((a / r).ravel(), np.outer(np.full(r, 1 / r), p_m).ravel())
        assert found.inverse_mi == pytest.approx(1 - mi / np.log(r), rel=1e-12)
        gaps = []
        for p in np.random.default_rng(9).dirichlet(np.ones(r), 4000):
            q = [sum(p[i] * a[i, m] for i in range(r)) for m in range(r)]
            gaps.append(np.abs(np.sort(p) - np.sort(q)).sum() / 2)
        error = 4 * np.sqrt(2) * np.std(gaps) / np.sqrt(4000)
        assert found.adaptation == pytest.approx(np.mean(gaps), abs=error)
        assert np.std(gaps) < 0.5  # the documented bound on the Monte Carlo error


def test_adaptation_of_idle_modules_in_closed_form():
    """q is even whatever p = (u, 1-u): half the L1 distance is |u - 1/2|, mean 1/4."""
    found = specialisation(np.full((2, 2), 0.5), draws=100_000)
    assert found.adaptation == pytest.approx(0.25, abs=0.003)


def test_perfect_specialists_are_zero_everywhere():
    for pi in itertools.permutations(range(4)):
        np.testing.assert_allclose(specialisation(np.eye(4)[list(pi)]), 0, atol=1e-14)


def test_random_and_collapsed_systems_as_the_paper_says():
    """Random: no collapse and no specialisation. Collapsed: bad in all."""
    idle = specialisation(np.full((4, 4), 0.25))
    assert (idle.collapse_avg, idle.collapse_worst) == (0, 0)
    assert idle.alignment == pytest.approx(0.75)
    assert idle.inverse_mi == pytest.approx(1)
    collapsed = specialisation(np.eye(4)[[1, 1, 1, 1]])
    assert (collapsed.collapse_avg, collapsed.collapse_worst) == (1, 1)
    assert collapsed.alignment == pytest.approx(0.75)
    assert collapsed.inverse_mi == pytest.approx(1)
    assert collapsed.adaptation > idle.adaptation > 0.1


def test_spare_modules():
    """Three rules with a module each out of five: specialised, two modules unused."""
    found = specialisation(np.eye(5)[[4, 0, 2]])
    assert found.collapse_avg == pytest.approx(2 / 4)
    assert found.collapse_worst == 1
    np.testing.assert_allclose(found[2:], 0, atol=1e-14)


def test_too_few_modules():
    """Four rules on two modules, two each: the bounds that the docstring gives."""
    found = specialisation(np.eye(2)[[0, 0, 1, 1]])
    assert (found.collapse_avg, found.collapse_worst) == (0, 0)
    assert found.alignment == pytest.approx(1 - 2 / 4)
    assert found.inverse_mi == pytest.approx(1 - np.log(2) / np.log(4))


@pytest.mark.parametrize(("r", "m"), [(3, 5), (5, 3), (1, 4), (4, 1), (1, 1)])
def test_other_numbers_of_modules_against_all_assignments(r, m):
    for a in matrices(r, m):
        found = specialisation(a)
        short, long = sorted((r, m))
        best = max(
            sum(a[(i, j) if r <= m else (j, i)] for i, j in enumerate(pi))
            for pi in itertools.permutations(range(long), short)
        )
        assert found.alignment == pytest.approx(1 - best / r, abs=1e-14)
        assert all(0 <= value <= 1 for value in found)
        if r == 1:
            assert found.inverse_mi == 0
        if m == 1:
            assert (found.collapse_avg, found.collapse_worst) == (0, 0)


def test_labels_of_rules_and_modules_do_not_matter():
    a = matrices(4, 4, 1)[0]
    permuted = specialisation(a[:, [2, 0, 3, 1]])
    np.testing.assert_allclose(permuted, specialisation(a), rtol=1e-12)
    rules = specialisation(a[[3, 1, 0, 2]])
    np.testing.assert_allclose(rules[:4], specialisation(a)[:4], rtol=1e-12)


def test_activation_matrix_is_the_mean_of_each_rule():
    p = np.array([[0.2, 0.8], [1.0, 0.0], [0.4, 0.6]])
    a = activation_matrix(p, np.array([7, 3, 7]))
    np.testing.assert_allclose(a, [[1.0, 0.0], [0.3, 0.7]])


@pytest.mark.parametrize(
    ("a", "message"),
    [
        (np.ones(3), r"got shape \(3,\)"),
        (np.ones((0, 2)), "got shape"),
        (np.ones((2, 2)), "no probabilities"),
        (np.array([[1.5, -0.5]]), "no probabilities"),
        (np.array([[np.nan, 1.0]]), "no probabilities"),
    ],
)
def test_refusals(a, message):
    with pytest.raises(ValueError, match=message):
        specialisation(a)
