"""How the summary table is shown: the same columns on the page and in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..plots.style import number

if TYPE_CHECKING:
    import pandas as pd

UNKNOWN = "\N{EN DASH}"
ERROR_SUFFIX = "_se"
GUTTER = 3  # characters between the columns of a ruled table


class Column(NamedTuple):
    """One column of :func:`latentroute.analysis.summary` for people."""

    name: str
    label: str
    digits: int
    note: str
    brief: bool = True
    """Whether it is among those that a terminal is wide enough for."""


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
        "gap",
        "gap",
        3,
        "Test log-likelihood minus that of training on the exact marginal likelihood "
        "(the method exact) from the same seed, in nats: what an approximation costs. "
        "Not a gap to the model that made the data.",
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
        2,
        "How unsure the router is about one input: entropy of p(a|x), mean over test "
        "examples and layers, in nats. 0: always the same module for an input; log M: "
        "a module at random.",
    ),
    Column(
        "h_b",
        "H(A)",
        2,
        "How evenly the M modules are used over all inputs: entropy of the mean of "
        "p(a|x), mean over layers, in nats. log M: all alike; 0: one does everything.",
    ),
    Column(
        "mi_lower",
        "I(A;X)",
        2,
        "What a route tells about its input: H(A) minus H(A|X), mean over layers, in "
        "nats. Biased low, the more so the fewer the test examples.",
    ),
    Column(
        "mi_upper",
        "I(A;X) at most",
        2,
        "The same by leaving each example out of the mean that it is compared with: "
        "biased high, infinite where an example has a module to itself.",
        brief=False,
    ),
    Column(
        "dead",
        "dead",
        2,
        "Share of all modules that are used less than a tenth of an even share.",
        brief=False,
    ),
    Column(
        "collapsed",
        "collapsed",
        2,
        "Share of trainings in which some layer has come down to one module: all its "
        "others are dead.",
    ),
    Column(
        "route_accuracy",
        "routes right",
        3,
        "Share of test examples with the true module, on the worst layer: the most "
        "probable whole route, modules matched to the true ones one to one.",
        brief=False,
    ),
    Column(
        "recovered",
        "recovered",
        2,
        "Share of trainings in which at least 0.95 of the routes are right, on the "
        "worst layer.",
    ),
    Column("seconds", "seconds", 1, "Wall time of one training."),
)


def shown_columns(table: pd.DataFrame, *, brief: bool = False) -> list[Column]:
    """The columns that the table has something to say in; failures where there are.

    Args:
        table: The summary.
        brief: Only those that a terminal is wide enough for.
    """
    shown = []
    for column in COLUMNS:
        values = table[column.name].to_numpy(float) if column.name in table else None
        if values is None or np.isnan(values).all() or (brief and not column.brief):
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


def blocks(
    headings: Sequence[str], rows: Sequence[Sequence[str]], width: int
) -> list[tuple[list[str], list[list[str]]]]:
    """A table cut into tables no wider than `width`, each with the first column.

    Args:
        headings: Of the columns.
        rows: Cells, as many a row.
        width: In characters; a single column may be wider.

    Returns:
        Headings and rows of each table, in order.
    """
    columns = list(zip(headings, *rows, strict=True))
    widths = [max(map(len, column)) + GUTTER for column in columns]
    cuts: list[list[int]] = []
    for i in range(1, len(columns)):
        if not cuts or widths[0] + sum(widths[j] for j in (*cuts[-1], i)) > width:
            cuts.append([])
        cuts[-1].append(i)
    return [
        (
            [headings[j] for j in (0, *cut)],
            [[row[j] for j in (0, *cut)] for row in rows],
        )
        for cut in cuts
    ]
