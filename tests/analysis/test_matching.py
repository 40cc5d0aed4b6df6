"""Matching of labels, against all assignments tried out."""

import itertools

import numpy as np
import pytest

from latentroute.analysis.matching import (
    UNMATCHED,
    completed,
    layers_of,
    match_layers,
    match_modules,
    one_hot,
)


@pytest.mark.parametrize("sizes", [(4, 4), (3, 4), (4, 3)])
def test_no_assignment_is_better(sizes):
    rng = np.random.default_rng(sum(sizes))
    for _ in range(20):
        p, q = (rng.dirichlet(np.ones(m), 30) for m in sizes)
        labels = match_modules(p, q)
        got = sum((p[:, r] * q[:, m]).sum() for m, r in enumerate(labels) if r >= 0)
        n = max(sizes)
        padded = [np.pad(x, ((0, 0), (0, n - x.shape[1]))) for x in (p, q)]
        best = max(
            sum((padded[0][:, order[m]] * padded[1][:, m]).sum() for m in range(n))
            for order in itertools.permutations(range(n))
        )
        assert got == pytest.approx(best, rel=1e-12)
        kept = labels[labels != UNMATCHED]
        assert len(kept) == min(sizes) == len(set(kept.tolist()))


def test_accuracy_after_it_is_the_best_possible():
    rng = np.random.default_rng(0)
    true, found = rng.integers(0, 3, 50), rng.integers(0, 3, 50)
    labels = match_modules(one_hot(true, 3), one_hot(found, 3))
    best = max(
        (np.array(order)[found] == true).mean()
        for order in itertools.permutations(range(3))
    )
    assert (labels[found] == true).mean() == best


def test_modules_that_cannot_be_told_apart_keep_their_labels():
    rng = np.random.default_rng(0)
    for _ in range(30):
        p, order = np.zeros((40, 6)), np.arange(6)
        used = rng.choice(6, 3, replace=False)
        p[:, used] = rng.dirichlet([1, 1, 1], 40)
        order[used] = rng.permutation(used)
        assert (match_modules(p, p[:, order]) == order).all()
    even = np.full((9, 4), 0.25)
    assert (match_modules(even, even) == np.arange(4)).all()


def test_left_over_modules_get_what_is_free():
    assert completed(np.array([2, UNMATCHED, 0, UNMATCHED])).tolist() == [2, 1, 0, 3]
    assert completed(np.array([1, 0])).tolist() == [1, 0]


def test_padding_stays():
    rng = np.random.default_rng(0)
    p = np.zeros((30, 2, 4))
    p[:, 0] = rng.dirichlet(np.ones(4), 30)
    p[:, 1, :2] = rng.dirichlet(np.ones(2), 30)
    q = p[:, :, [1, 0, 2, 3]]
    assert match_layers(p, q, [4, 2], [[0], [1]]).tolist() == [[1, 0, 2, 3]] * 2


def test_layers_of_slots():
    assert layers_of(["a", "route_0", "route_1"]) == [[0], [1], [2]]
    names = ["route_0_0", "route_1_0", "route_0_1", "route_1_1", "route_0"]
    assert layers_of(names) == [[0, 2], [1, 3], [4]]


def test_other_examples_are_refused():
    with pytest.raises(ValueError, match=r"got shapes \(5, 2\) and \(4, 2\)"):
        match_modules(np.ones((5, 2)), np.ones((4, 2)))
