"""The tables of the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..model_comparison import compare_elpd
from ..runs import finished, runs
from ..summary import summary
from .table import COLUMNS, Column, cell, records, shown_columns

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

NOT_OF_ONE: Final = ("seeds", "failed")  # say nothing of one training
ELPD_COLUMNS: Final = (
    Column(
        "elpd",
        "sum of log p(y|x)",
        1,
        "Over all test examples, mean over seeds, in nats; ± is its standard error "
        "over examples. Higher is better.",
    ),
    Column(
        "elpd_diff",
        "behind the best",
        1,
        "Difference to the best method, with the standard error over examples of the "
        "difference itself: methods miss the same examples, so it is known better than "
        "either sum.",
    ),
    Column(
        "weight",
        "weight",
        2,
        "In the mixture of all methods' predictions that predicts these examples best "
        "(stacking).",
    ),
)


class Heading(NamedTuple):
    """The head of a column."""

    label: str
    note: str
    is_text: bool = False


class Cell(NamedTuple):
    """A cell: what one reads, and what sorts it."""

    text: str
    value: str


class Table(NamedTuple):
    """A table that its headings sort.

    Attributes:
        name: A word for its address on the page.
        title: What it is.
        hint: How to read it.
        headings: Of the columns.
        rows: Cells; the first names the row.
        folded: Whether one has to ask for it.
    """

    name: str
    title: str
    hint: str
    headings: list[Heading]
    rows: list[list[Cell]]
    folded: bool = False


def tables(tree: xr.DataTree) -> tuple[list[Table], dict[str, str]]:
    """Every table that a tree has the data for, the summary first.

    Args:
        tree: A comparison, or one run.

    Returns:
        The tables in reading order, and why others are missing, by title.

    Raises:
        ValueError: The tree is neither.
    """
    table = summary(tree)
    shown = shown_columns(table)
    hint = "Mean ± standard error over seeds."
    found = [_table("summary", "Summary", hint, ["method"], shown, records(table))]
    missing = {}
    several = [run for run in runs(tree) if not run.error]
    if len({run.method for run in several}) > 1:
        title = "Which predicts better"
        try:
            found.append(_held_out(tree, title))
        except ValueError as error:  # such as: other examples in one run than another
            missing[title] = str(error)
    if len(several) > 1:
        found.append(_each(tree))
    return found, missing


def sort_value(value: float) -> str:
    """A number as the page's script reads it."""
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return "NaN" if math.isnan(value) else repr(value)


def _table(
    name: str,
    title: str,
    hint: str,
    words: Sequence[str],
    columns: Sequence[Column],
    rows: Sequence[Mapping[str, Any]],
) -> Table:
    """Columns of words first, then those of numbers."""
    headings = [Heading(word, "", is_text=True) for word in words]
    headings += [Heading(column.label, column.note) for column in columns]
    cells = [
        [
            *(Cell(str(row[word]), str(row[word])) for word in words),
            *(Cell(cell(row, c), sort_value(float(row[c.name]))) for c in columns),
        ]
        for row in rows
    ]
    return Table(name, title, hint, headings, cells)


def _held_out(tree: xr.DataTree, title: str) -> Table:
    """Methods by the log predictive density of the same examples."""
    table = compare_elpd(tree).rename(columns={"se": "elpd_se", "dse": "elpd_diff_se"})
    rows = [{"method": name, **row} for name, row in zip(*_split(table), strict=True)]
    hint = "The same test examples under every method; ± is a standard error over them."
    return _table("held-out", title, hint, ["method"], ELPD_COLUMNS, rows)


def _split(table: pd.DataFrame) -> tuple[list[str], list[dict[str, Any]]]:
    """A table's index and its rows."""
    names = [str(name) for name in table.index]
    rows = table.to_dict("records")
    return names, [{str(key): value for key, value in row.items()} for row in rows]


def _each(tree: xr.DataTree) -> Table:
    """Every training that finished, by itself."""
    rows = [
        {**record, "method": method, "seed": run.seed.removeprefix("seed_")}
        for method, of_method in finished(tree).items()
        for run in of_method
        for record in records(summary(run.tree))
    ]
    columns = [
        column
        for column in COLUMNS
        if column.name not in NOT_OF_ONE
        and any(not math.isnan(float(row.get(column.name, math.nan))) for row in rows)
    ]
    rows = [dict.fromkeys((c.name for c in columns), math.nan) | row for row in rows]
    hint = "The numbers that the summary averages."
    words = ["method", "seed"]
    table = _table("trainings", "Each training", hint, words, columns, rows)
    return table._replace(folded=True)
