"""Feature columns become a matrix; what that takes is learned on the training rows."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..options import listed, quoted
from .columns import Column, to_float32

# what was done -> the columns it was done to
Said = defaultdict[str, list[str]]
MARKS = "texts because of a few values among numbers (na_values= reads them as missing)"


class Features(NamedTuple):
    """The encoded features.

    Attributes:
        x: Shape (N, in_features), float32.
        names: One per column of x.
        notes: What was filled in, encoded, standardised, left out.
    """

    x: NDArray[np.float32]
    names: tuple[str, ...]
    notes: tuple[str, ...]


def encode(
    columns: Sequence[Column],
    train: NDArray[np.int64],
    *,
    standardise: bool,
    max_categories: int,
) -> Features:
    """Numbers standardised, yes/no as 0/1, texts one-hot; constant columns left out.

    Missing values that are still there get the median (numbers) or the most frequent
    value (the rest) of the training rows. A category that no training row has gives
    zeros in all columns of its one-hot code.

    Args:
        columns: The features, N rows each.
        train: The rows to learn from.
        standardise: Numbers to mean 0, standard deviation 1 over the training rows.
        max_categories: More distinct texts than this in a column are refused.

    Raises:
        ValueError: A text column with too many values, or no column left.
    """
    _refuse_many_categories(columns, max_categories)
    blocks: list[NDArray[np.float64]] = []
    names: list[str] = []
    said: Said = defaultdict(list)
    for column in columns:
        filled = _fill(column, train, said)
        if filled is None or _is_constant(filled, train):
            said["left out, the same in all training rows"].append(repr(column.name))
            continue
        block, block_names = _block(column, filled, train, standardise, said)
        blocks.append(block)
        names.extend(block_names)
    if not blocks:
        raise ValueError(
            f"no feature is left: columns {quoted(c.name for c in columns)} are the "
            "same in all training rows"
            if columns
            else "no feature is left: the file has no column beside the target"
        )
    notes = tuple(f"{what}: {listed(found)}" for what, found in said.items())
    return Features(to_float32(np.concatenate(blocks, axis=1)), tuple(names), notes)


def _block(
    column: Column,
    filled: NDArray[Any],
    train: NDArray[np.int64],
    standardise: bool,
    said: Said,
) -> tuple[NDArray[np.float64], list[str]]:
    """The columns of x that a column of the file becomes, shape (N, 1 or levels)."""
    if column.is_text:
        levels = np.unique(filled[train])
        onehot = (filled[:, None] == levels).astype(np.float64)
        said["texts, one-hot encoded"].append(f"{column.name!r} ({len(levels)} values)")
        if marks := column.marks():
            said[MARKS].append(f"{column.name!r} ({quoted(marks, limit=3)})")
        if not onehot.any(axis=1).all():
            said["zeros for texts that no training row has"].append(repr(column.name))
        return onehot, [f"{column.name}={level}" for level in levels]
    if column.kind == "boolean":
        said["yes/no values as 1 and 0"].append(repr(column.name))
    elif standardise:
        mean, scale = filled[train].mean(), filled[train].std()
        filled = (filled - mean) / scale
        said["standardised by the training rows"].append(repr(column.name))
    return filled[:, None], [column.name]


def _fill(column: Column, train: NDArray[np.int64], said: Said) -> NDArray[Any] | None:
    """The values with the missing ones filled in; None where train has no value."""
    if not column.missing.any():
        return column.values
    known = column.values[train][~column.missing[train]]
    if len(known) == 0:
        return None
    if column.kind in ("float", "integer"):
        value = float(np.median(known))
        what = f"median {value:g}"
    else:
        # ties by value: the order of the rows must not decide
        value = max(sorted(Counter(known).items()), key=lambda item: item[1])[0]
        what = f"most frequent {value!r}"
    said["missing values filled in from the training rows"].append(
        f"{column.name!r} ({int(column.missing.sum())} by the {what})"
    )
    filled: NDArray[Any] = np.where(column.missing, value, column.values)
    return filled


def _is_constant(values: NDArray[Any], train: NDArray[np.int64]) -> bool:
    """Compared, not measured by a deviation, which rounding keeps above zero."""
    return bool((values[train] == values[train[0]]).all())


def _refuse_many_categories(columns: Sequence[Column], max_categories: int) -> None:
    found = []
    for column in columns:
        n = len(column.distinct()) if column.is_text else 0
        if n > max_categories:
            marks = column.marks()
            hint = f", numbers but for {quoted(marks, limit=3)}" if marks else ""
            found.append(f"{column.name!r} ({n} values{hint})")
    if found:
        raise ValueError(
            f"text columns must have at most max_categories={max_categories} different "
            f"values; got {listed(found)}: exclude= leaves them out, na_values= reads "
            "marks among numbers as missing, max_categories= allows more"
        )
