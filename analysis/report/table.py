"""How the summary table is shown: the same columns on the page and in a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..plots.style import number

if TYPE_CHECKING:
    import pandas as pd

UNKNOWN = "\N{EN DASH}"
ERROR_SUFFIX = "_se"


class Column(NamedTuple):
    """One column of :func:`latentroute.analysis.summary` for people."""

    name: str
    label: str
    digits: int
    note: str


COLUMNS = (
    Column("seeds", "seeds", 0, "Trainings of the method, each from its own seed."),
    Column(
        "failed", "failed", 0, "How many of them failed; they enter none of the means."
    ),
    Column(
        "log_lik",
        "log p(y|x)",
        3,
        "Test log-likelihood: the mean over test examples, routes summed out, in nats. "
        "Higher is better.",
    ),
    Column(
        "gain",
        "gain",
        3,
        "Test log-likelihood minus that of a prediction which ignores x: the training "
        "data's class shares, or a normal fit to y. In nats; above 0 something was "
        "learnt.",
    ),
    Column(
        "accuracy",
        "accuracy",
        3,
        "Share of test examples whose most probable class is the true one.",
    ),
    Column(
        "rmse",
        "RMSE",
        3,
        "Root mean squared error of the predictive mean, in the units of the target "
        "that the network sees.",
    ),
    Column(
        "h_a",
        "H(A|X)",
        3,
        "How unsure the router is about one input: entropy of p(a|x), mean over test "
        "examples and layers, in nats. 0: always the same module for an input; log M: "
        "a module at random.",
    ),
    Column(
        "h_b",
        "H(A)",
        3,
        "How evenly the M modules are used over all inputs: entropy of the mean of "
        "p(a|x), mean over layers, in nats. log M: all alike; 0: one does everything. "
        "H(A) minus H(A|X) is I(A;X), what a route tells about its input.",
    ),
    Column(
        "dead",
        "dead",
        2,
        "Share of all modules that are used less than a tenth of an even share.",
    ),
    Column("seconds", "seconds", 1, "Wall time of one training."),
)


def shown_columns(table: pd.DataFrame) -> list[Column]:
    """The columns that the table has something to say in; failures where there are."""
    shown = []
    for column in COLUMNS:
        values = table[column.name].to_numpy(float) if column.name in table else None
        if values is None or np.isnan(values).all():
            continue
        if column.name != "failed" or values.any():
            shown.append(column)
    return shown


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The table's rows, the method under ``"method"``."""
    rows = table.reset_index().to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def cell(row: Mapping[str, Any], column: Column) -> str:
    """A value and its standard error as text."""
    value = float(row[column.name])
    if np.isnan(value):
        return UNKNOWN
    error = float(row.get(column.name + ERROR_SUFFIX, np.nan))
    text = number(value, column.digits)
    return text if np.isnan(error) else f"{text} ± {number(error, column.digits)}"
