import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentroute.tasks.splitting import split_rows, streams

FRACTIONS = (0.7, 0.15, 0.15)


@given(
    n=st.integers(10, 200), seed=st.integers(0, 2**32 - 1), n_classes=st.integers(0, 9)
)
def test_every_row_in_exactly_one_split(n, seed, n_classes):
    classes = np.arange(n) % n_classes if n_classes else None
    parts = split_rows(n, FRACTIONS, seed=seed, classes=classes)
    assert sorted(np.concatenate(parts).tolist()) == list(range(n))
    assert len(parts[1]) == len(parts[2]) == round(0.15 * n)


def test_classes_are_spread_in_proportion():
    classes = np.repeat([0, 1, 2], [600, 300, 100])
    for part, share in zip(
        split_rows(1000, FRACTIONS, seed=0, classes=classes), FRACTIONS, strict=True
    ):
        counts = np.bincount(classes[part])
        assert np.abs(counts - share * np.array([600, 300, 100])).max() <= 2


def test_a_plain_split_is_not_stratified():
    """Negative control of the test above."""
    classes = np.repeat([0, 1, 2], [600, 300, 100])
    off = [
        np.abs(np.bincount(classes[part]) - share * np.array([600, 300, 100])).max()
        for seed in range(5)
        for part, share in zip(
            split_rows(1000, FRACTIONS, seed=seed), FRACTIONS, strict=True
        )
    ]
    assert max(off) > 2


@pytest.mark.parametrize("seed", range(20))
def test_rare_classes_go_to_train_first(seed):
    classes = np.array([0] * 50 + [1] * 50 + [2, 3, 3, 4])
    train, _, _ = split_rows(len(classes), FRACTIONS, seed=seed, classes=classes)
    assert set(classes[train]) == {0, 1, 2, 3, 4}


def test_small_classes_reach_every_split():
    classes = np.repeat(np.arange(50), 4)
    counts = [len(p) for p in split_rows(200, FRACTIONS, seed=0, classes=classes)]
    per_split = split_rows(200, FRACTIONS, seed=0, classes=classes)
    assert counts == [140, 30, 30]
    assert all(len(set(classes[p])) > 20 for p in per_split)


def test_too_few_rows():
    with pytest.raises(
        ValueError, match=r"fractions=.* no row for valid out of 3 rows"
    ):
        split_rows(3, FRACTIONS, seed=0)


def test_streams_are_independent_of_their_number():
    first, second = streams(0, 2)[1], streams(0, 5)[1]
    assert first.random() == second.random()
    assert streams(0, 2)[0].random() != streams(0, 2)[1].random()
