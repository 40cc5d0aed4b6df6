"""The target column: classes or numbers told apart, and said."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..options import quoted
from .columns import Column, is_number, to_float32

FEW = 20
ROWS_PER_CLASS = 5


class Target(NamedTuple):
    """What to predict.

    Attributes:
        name: The column's name.
        values: Shape (N,): int64 classes, or float64 numbers as in the file.
        class_names: One per class; empty for numbers.
        note: What it was taken for, why, and how to override.
    """

    name: str
    values: NDArray[Any]
    class_names: tuple[str, ...]
    note: str

    @property
    def strata(self) -> NDArray[np.int64] | None:
        """The classes to stratify a split by; None for numbers."""
        return self.values if self.class_names else None


class Y(NamedTuple):
    """The target as the head wants it.

    Attributes:
        values: Shape (N,), int64 classes, or shape (N, 1), float32 numbers.
        mean: What was subtracted from the numbers; empty where nothing was.
        scale: What they were divided by after that; empty where nothing was.
        notes: What was done, and which classes have no training row.
    """

    values: NDArray[Any]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    notes: tuple[str, ...]


def as_target(column: Column, kind: str) -> Target:
    """Classes or numbers, by the option `kind`.

    "auto": texts, categories and yes/no values are classes; floats are numbers; whole
    numbers are classes where there are few, that is at most 20 distinct ones with 5
    rows each on average (two distinct ones are always few).

    Raises:
        ValueError: Texts as numbers, a single class or value, or nearly as many classes
            as rows.
    """
    distinct = column.distinct()
    if len(distinct) < 2:
        raise ValueError(
            f"target {column.name!r} must have at least two different values; got only "
            f"{quoted(distinct)}"
        )
    if kind == "numbers" and column.is_text:
        bad = [text for text in distinct if not is_number(text)]
        raise ValueError(
            f"target {column.name!r} must hold numbers for kind='numbers'; got texts"
            + (f" such as {quoted(bad, limit=3)}" if bad else "")
            + _cure(column)
        )
    classes, why = _is_classes(column, kind, len(distinct))
    if not classes:
        override = "" if kind == "numbers" else "; kind='classes' overrides"
        note = f"target {column.name!r} taken as numbers: {why}{override}"
        return Target(column.name, column.values, (), note)
    if len(distinct) > len(column.values) / 2:
        raise ValueError(
            f"target {column.name!r} has {len(distinct)} different values in "
            f"{len(column.values)} rows, too many for classes{_cure(column)}"
        )
    members = np.unique(column.values, return_inverse=True)[1].astype(np.int64)
    can_override = kind == "auto" and not column.is_text
    override = "; kind='numbers' overrides" if can_override else ""
    note = (
        f"target {column.name!r} taken as {len(distinct)} classes "
        f"({quoted(distinct)}): {why}{override}"
    )
    return Target(column.name, members, distinct, note)


def as_y(target: Target, train: NDArray[np.int64], *, standardise: bool) -> Y:
    """Classes as they are; numbers to mean 0, deviation 1 over the training rows.

    Args:
        target: The target of N rows.
        train: The rows to learn from.
        standardise: False leaves numbers as they are.

    Raises:
        ValueError: A number that is the same in all training rows.
    """
    known = target.values[train]
    if target.class_names:
        absent = sorted(set(range(len(target.class_names))) - set(known.tolist()))
        lost = quoted(target.class_names[c] for c in absent)
        note = f"classes without a training row, nothing can be learned of them: {lost}"
        return Y(target.values, (), (), (note,) if absent else ())
    if (known == known[0]).all():
        raise ValueError(
            f"target {target.name!r} must differ between training rows; got "
            f"{known[0]:g} in all {len(known)}"
        )
    if not standardise:
        return Y(to_float32(target.values[:, None]), (), (), ())
    mean, scale = float(known.mean()), float(known.std())
    note = (
        f"target {target.name!r} standardised by the training rows, (target - "
        f"{mean:g}) / {scale:g}: log densities are of the standardised target"
    )
    values = (target.values[:, None] - mean) / scale
    return Y(to_float32(values), (mean,), (scale,), (note,))


def _is_classes(column: Column, kind: str, n_distinct: int) -> tuple[bool, str]:
    if kind != "auto":
        return kind == "classes", f"kind={kind!r} says so"
    if column.is_text:
        return True, "it holds texts"
    if column.kind == "boolean":
        return True, "it holds yes/no values"
    if column.kind == "float":
        return False, "it holds floating-point numbers"
    few = max(2, min(FEW, len(column.values) // ROWS_PER_CLASS))
    if n_distinct <= few:
        return True, f"it holds whole numbers, only {n_distinct} different ones"
    return False, f"it holds whole numbers, {n_distinct} different ones"


def _cure(column: Column) -> str:
    """The way out where a few marks turned numbers into texts."""
    marks = column.marks()
    if not marks:
        return ""
    return f": {quoted(marks, limit=3)} among numbers; na_values= reads it as missing"
