"""The summary in a terminal: what is left out, and where it is cut."""

import numpy as np
import pytest

from latentroute.analysis import summary
from latentroute.analysis.report import COLUMNS, blocks, shown_columns


def test_empty_columns_are_not_shown(comparison_tree):
    table = summary(comparison_tree(("a", "b"), (0,)))
    named = {column.name for column in shown_columns(table)}
    assert not named & {"gap", "rmse", "route_accuracy", "recovered", "failed"}
    table["seconds"] = np.nan
    assert "seconds" not in {column.name for column in shown_columns(table)}


def test_brief_leaves_out_columns_and_adds_none(comparison_tree):
    table = summary(comparison_tree())
    whole, brief = shown_columns(table), shown_columns(table, brief=True)
    assert [column for column in whole if column.brief] == brief
    assert {column.name for column in whole} - {column.name for column in brief} == {
        *("mi_upper", "dead")
    }
    assert len({column.label for column in COLUMNS}) == len(COLUMNS)


@pytest.mark.parametrize("width", [20, 40, 60, 200])
def test_blocks_fit_and_hold_everything(width):
    headings = ["method", *(f"column {i}" for i in range(9))]
    rows = [[f"m{r}", *(f"{r}.{i} ± 0.01" for i in range(9))] for r in range(3)]
    parts = blocks(headings, rows, width)
    for head, body in parts:
        cells = [head, *body]
        assert {len(row) for row in cells} == {len(head)}
        widths = [max(len(row[j]) for row in cells) + 3 for j in range(len(head))]
        assert sum(widths) <= width or len(head) == 2
        assert [row[0] for row in body] == ["m0", "m1", "m2"]
    assert [h for head, _ in parts for h in head[1:]] == headings[1:]
    for r in range(3):
        assert [c for _, body in parts for c in body[r][1:]] == rows[r][1:]
    assert (len(parts) == 1) == (width == 200)
