"""The uniformity test against SciPy's, its own null distribution, and its band."""

import numpy as np
import pytest
import torch
from scipy.stats import kstwo

from latentroute.analysis import uniformity
from latentroute.analysis.calibration_uniformity import (
    crossing_probability,
    ecdf_band,
    holm,
)
from tests.statistics import assert_frequencies


@pytest.mark.parametrize("n", [1, 2, 5, 50, 140])
@pytest.mark.parametrize("scaled", [0.4, 0.8, 1.2, 2.0, 3.0])
def test_with_kolmogorov_s_band_the_recursion_is_scipy_s_distribution(n, scaled):
    """SciPy's is exact up to n = 140, and an approximation beyond."""
    distance = scaled / np.sqrt(n)
    i = np.arange(1, n + 1)
    low, high = (i / n - distance).clip(0, 1), ((i - 1) / n + distance).clip(0, 1)
    expected = kstwo.sf(distance, n)
    assert crossing_probability(low, high) == pytest.approx(expected, abs=1e-12)


def test_of_one_number_the_p_value_is_its_tail():
    for u, p in ((0.5, 1.0), (0.1, 0.2), (0.98, 0.04), (1e-9, 2e-9)):
        found = uniformity([u])
        assert found.p_values[0] == pytest.approx(p, rel=1e-6)


@pytest.mark.parametrize("n", [7, 50])
def test_p_values_of_uniform_numbers_are_uniform(n):
    p = uniformity(np.random.default_rng(n).uniform(size=(n, 800))).p_values
    cells = torch.as_tensor((p * 5).astype(np.int64).clip(0, 4))
    assert_frequencies(cells, torch.full((5,), 0.2))


def test_p_values_are_between_the_level_and_its_union_bound():
    u = np.random.default_rng(0).beta([0.3, 0.8, 1, 1.2, 3], 1, size=(400, 5))
    found = uniformity(u)
    assert (found.levels <= found.p_values).all()
    assert (found.p_values <= np.minimum(400 * found.levels, 1)).all()
    assert found.p_values[0] < 1e-12 < 1e-9 < found.p_values[2]


def test_the_tails_are_seen_where_kolmogorov_smirnov_is_blind():
    """Three of a thousand at 1e-6: no distance to speak of, and yet impossible."""
    u = np.linspace(0.0005, 0.9995, 1000)
    u[:3] = 1e-6
    distance = np.abs(np.sort(u) - np.arange(1000) / 1000).max()
    assert kstwo.sf(distance, 1000) > 0.99
    assert uniformity(u).p_values[0] < 1e-4


def test_order_and_direction_do_not_matter():
    rng = np.random.default_rng(0)
    u = rng.uniform(size=200)
    p = uniformity(u).p_values
    np.testing.assert_allclose(uniformity(rng.permutation(u)).p_values, p)
    np.testing.assert_allclose(uniformity(1 - u).p_values, p, rtol=1e-8)


@pytest.mark.parametrize("prob", [0.5, 0.95])
def test_a_sample_leaves_the_band_if_and_only_if_its_p_value_is_below(prob):
    n = 60
    u = np.sort(np.random.default_rng(1).uniform(size=(n, 300)), axis=0)
    p = uniformity(u).p_values
    i = np.arange(1, n + 1)[:, None]
    _, most = ecdf_band(n, u, prob=prob)  # the ECDF is i / n at u_(i),
    least, _ = ecdf_band(n, u - 1e-15, prob=prob)  # and (i - 1) / n just before
    left = ((i / n > most + 1e-9) | ((i - 1) / n < least - 1e-9)).any(0)
    clear = np.abs(p - (1 - prob)) > 0.005  # as far as the band's level is solved for
    assert clear.mean() > 0.9 and (p < 1 - prob).any()
    assert np.array_equal(left[clear], (p < 1 - prob)[clear])


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.04, 0.001, 0.02]), [0.04, 0.003, 0.04])
    np.testing.assert_allclose(holm([0.6, 0.7]), [1.0, 1.0])


def test_what_is_no_pit_is_refused():
    with pytest.raises(ValueError, match=r"got 1.5, expected numbers in \[0, 1\]"):
        uniformity([0.1, 1.5])
    with pytest.raises(ValueError, match="got nan"):
        uniformity([np.nan])
    with pytest.raises(ValueError, match=r"got shape \(0,\)"):
        uniformity([])
    with pytest.raises(ValueError, match="0 < prob < 1"):
        ecdf_band(10, [0.5], prob=1.0)
