"""Use of modules: by hand, its limits, refusals."""

import numpy as np
import pytest
from scipy.stats import variation

from latentroute.analysis import stream_information, usage


def test_values_by_hand():
    p = np.array([[0.7, 0.2, 0.1], [0.6, 0.4, 0.0], [0.0, 1.0, 0.0], [0.4, 0.4, 0.2]])
    use = usage(p)
    np.testing.assert_allclose(use.importance, [[1.7 / 4, 2.0 / 4, 0.3 / 4]])
    np.testing.assert_allclose(use.load, [[2.5 / 4, 1.5 / 4, 0]])  # the tie is shared
    assert use.cv_importance[0] == pytest.approx(variation([1.7, 2.0, 0.3]))
    assert use.cv_load[0] == pytest.approx(variation([2.5, 1.5, 0]))
    assert use.max_over_mean[0] == pytest.approx(2.5 / (4 / 3))
    assert use.dead.tolist() == [0.0]  # .075 >= 1/30: used, though never first


def test_dead_is_below_a_tenth_of_an_even_share():
    even = 0.1 / 4
    p = np.array([[even * 0.999, even * 1.001, 0.0, 1 - 2 * even]])
    use = usage(p)
    assert use.is_dead.tolist() == [[True, False, True, False]]
    assert use.dead.tolist() == [0.5]


def test_limits():
    one = usage(np.ones((5, 1)))
    assert (one.cv_load, one.max_over_mean, one.dead) == (0, 1, 0)
    even = usage(np.eye(4)[np.arange(8) % 4])
    assert (even.cv_load, even.max_over_mean, even.dead) == (0, 1, 0)
    collapsed = usage(np.eye(4)[[2] * 8])
    assert collapsed.cv_load == pytest.approx(np.sqrt(3))
    assert (collapsed.max_over_mean, collapsed.dead) == (4, 0.75)


def test_an_undecided_router_loads_all_modules_alike():
    """Not the first one, which an argmax would take."""
    use = usage(np.full((10, 4), 0.25))
    np.testing.assert_allclose(use.load, [[0.25] * 4])
    assert use.max_over_mean[0] == pytest.approx(1)


def test_padding_counts_for_nothing():
    p = np.random.default_rng(0).dirichlet(np.ones(3), (20, 2))
    padded = np.concatenate([p, np.zeros((20, 2, 2))], -1)
    known, unknown = usage(padded, n_modules=[3, 3]), usage(padded)
    for name in ("cv_importance", "cv_load", "max_over_mean", "dead"):
        np.testing.assert_allclose(getattr(known, name), getattr(usage(p), name))
    assert not known.is_dead[:, 3:].any()
    assert (unknown.dead >= 0.4).all()  # taken for modules, they are dead ones


def test_the_stream_finds_the_same():
    p = np.random.default_rng(0).dirichlet(np.full(6, 0.2), (100, 3))
    streamed = stream_information(np.split(p, 10))["use"]
    for name, value in usage(p)._asdict().items():
        np.testing.assert_allclose(getattr(streamed, name), value, rtol=1e-12)


@pytest.mark.parametrize("n_modules", [[3], [0, 3], [4, 3], [2, 3], [[3, 3]]])
def test_refusals(n_modules):
    with pytest.raises(ValueError, match="n_modules: got"):
        usage(np.full((5, 2, 3), 1 / 3), n_modules=n_modules)
