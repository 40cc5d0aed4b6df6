"""Columns of a table as numbers or texts, with what is missing marked."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..options import listed

Kind = Literal["float", "integer", "boolean", "text"]

# what pandas calls the values of a column -> what it is here; all else is refused
KINDS: dict[str, Kind] = {
    "floating": "float",
    "mixed-integer-float": "float",
    "decimal": "float",
    "empty": "float",
    "integer": "integer",
    "boolean": "boolean",
    "string": "text",
    "categorical": "text",
}
LARGEST = float(np.finfo(np.float32).max)


class Column(NamedTuple):
    """One column.

    Attributes:
        name: Its name in the file.
        kind: "text" covers pandas' categories.
        values: Shape (N,): str objects for a text column, "" where missing; else
            float64, NaN where missing.
        missing: Shape (N,), True where the file has no value.
    """

    name: str
    kind: Kind
    values: NDArray[Any]
    missing: NDArray[np.bool_]

    @property
    def is_text(self) -> bool:
        """Whether the values are texts rather than numbers."""
        return self.kind == "text"

    def keep(self, rows: NDArray[np.bool_]) -> "Column":
        """The column without the rows that are False."""
        return self._replace(values=self.values[rows], missing=self.missing[rows])

    def distinct(self) -> tuple[str, ...]:
        """The distinct values that are there, sorted, as texts."""
        values = np.unique(self.values[~self.missing])
        if self.kind == "float":
            return tuple(repr(float(value)) for value in values)
        if self.kind == "boolean":
            return tuple(str(bool(value)) for value in values)
        return tuple(str(v) if self.is_text else str(int(v)) for v in values)

    def marks(self) -> tuple[str, ...]:
        """Texts such as "?" in a text column that otherwise holds numbers.

        A CSV reader takes the whole column for texts because of them. Empty unless at
        least half of the distinct values are numbers.
        """
        distinct = self.distinct() if self.is_text else ()
        marks = tuple(text for text in distinct if not is_number(text))
        return marks if len(marks) <= len(distinct) / 2 else ()


def is_number(text: str) -> bool:
    """Whether the text reads as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def to_float32(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Values far outside the training range may overflow: the task refuses them."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def as_columns(frame: pd.DataFrame) -> list[Column]:
    """Every column of the frame, in order.

    Raises:
        ValueError: Columns of dates, lists, bytes or other values, or infinities.
    """
    kinds = {
        name: str(pd.api.types.infer_dtype(frame[name], skipna=True))
        for name in frame.columns
    }
    refused = [f"{name!r} ({k})" for name, k in kinds.items() if k not in KINDS]
    if refused:
        raise ValueError(
            "columns must hold numbers, yes/no values or texts; got "
            f"{listed(refused)}: turn them into these, or leave them out by exclude="
        )
    columns = [_column(name, frame[name], KINDS[kinds[name]]) for name in frame.columns]
    _refuse_infinities(columns)
    return columns


def _column(name: str, series: "pd.Series[Any]", kind: Kind) -> Column:
    missing = series.isna().to_numpy(dtype=bool)
    if kind == "text":
        texts = np.full(len(series), "", dtype=object)
        texts[~missing] = [str(value) for value in series[~missing]]
        return Column(name, kind, texts, missing)
    numbers = series.to_numpy(dtype=np.float64, na_value=np.nan)
    return Column(name, kind, numbers, missing | np.isnan(numbers))


def _refuse_infinities(columns: Sequence[Column]) -> None:
    numeric = [c for c in columns if not c.is_text]
    counts = {c.name: int((np.abs(c.values) > LARGEST).sum()) for c in numeric}
    found = listed(f"{name!r} ({count})" for name, count in counts.items() if count)
    if found:
        raise ValueError(
            "values must be finite, and at most 3.4e38 in size; got infinite or larger "
            f"ones in {found} (how many): remove or replace them"
        )


def without_missing(
    columns: Sequence[Column], target: str, missing: str
) -> tuple[list[Column], list[str]]:
    """The rows that stay, by the option `missing`, and notes on the others.

    "error" refuses any missing value; "drop" leaves out every row that has one;
    "impute" leaves out the rows without a target and keeps the rest, still marked.

    Raises:
        ValueError: Missing values under "error", or no row left.
    """
    counts = {c.name: int(c.missing.sum()) for c in columns}
    found = listed(f"{name!r} ({count})" for name, count in counts.items() if count)
    if not found:
        return list(columns), []
    n_rows = len(columns[0].missing)
    if missing == "error":
        raise ValueError(
            f"missing='error' refuses missing values; got {found} of {n_rows} rows: "
            "missing='drop' leaves these rows out, missing='impute' fills them in, "
            "exclude= leaves out a column"
        )
    looked_at = [c for c in columns if missing == "drop" or c.name == target]
    lost = np.any([c.missing for c in looked_at], axis=0)
    if lost.all():
        raise ValueError(
            f"missing={missing!r} leaves no row: missing values in {found} of "
            f"{n_rows} rows; exclude= leaves out a column"
        )
    why = "a missing value" if missing == "drop" else f"no target {target!r}"
    if not lost.any():
        return list(columns), []
    note = f"{int(lost.sum())} of {n_rows} rows left out: {why}"
    return [c.keep(~lost) for c in columns], [note]
