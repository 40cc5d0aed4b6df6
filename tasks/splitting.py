"""Random streams and splits that a seed fixes; the global generators stay untouched."""

import numpy as np
from numpy.typing import NDArray

SPLITS = ("train", "valid", "test")


def streams(seed: int, n: int) -> list[np.random.Generator]:
    """`n` independent generators of one seed.

    A task draws its hidden functions from the first and each split from one of its
    own, so a longer training set changes neither the functions nor the test set.
    """
    return [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(n)]


def split_rows(
    n_rows: int,
    fractions: tuple[float, float, float],
    *,
    seed: int,
    classes: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers of train, valid and test: disjoint, all rows, random by seed.

    With `classes`, every class is spread over the splits in proportion: its rows get
    evenly spaced positions in 0..1, and the sorted positions are cut twice. The first
    row of a class always stands first, so a class of one row goes to train (where
    scikit-learn's stratified split refuses it) unless train has fewer rows than there
    are classes.

    Args:
        n_rows: Rows to split.
        fractions: Shares of train, valid and test.
        seed: Fixes the split.
        classes: Class of each row, shape (n_rows,), to stratify by.

    Raises:
        ValueError: A split would be empty.
    """
    n_valid, n_test = round(fractions[1] * n_rows), round(fractions[2] * n_rows)
    sizes = (n_rows - n_valid - n_test, n_valid, n_test)
    for name, size in zip(SPLITS, sizes, strict=True):
        if size < 1:
            raise ValueError(
                f"fractions={fractions} leave no row for {name} out of {n_rows} rows; "
                "every split needs one: more rows, or other fractions"
            )
    rng = np.random.default_rng(seed)
    order = rng.permutation(n_rows)
    if classes is not None:
        order = order[np.argsort(_positions(classes[order], rng), kind="stable")]
    train, valid, test = np.split(order, [sizes[0], sizes[0] + n_valid])
    return train, valid, test


def _positions(
    classes: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Where each row stands within its class: 0, then (rank + u) / class size."""
    _, members, counts = np.unique(classes, return_inverse=True, return_counts=True)
    by_class = np.argsort(members, kind="stable")
    starts = np.cumsum(counts) - counts
    rank = np.empty(len(classes))
    rank[by_class] = np.arange(len(classes)) - np.repeat(starts, counts)
    # one offset per class: without it, small classes would never reach the last split
    offset = rng.random(len(counts))[members]
    return np.where(rank == 0, 0.0, (rank + offset) / counts[members])
