"""The page itself: what its template is given."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from ..plots.style import number
from ..runs import runs
from ..summary import summary
from .pictures import Picture
from .table import COLUMNS, Column, cell, records, shown_columns

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

# Root attributes that have a place of their own on the page.
PLACED = ("task", "description", "notes", "command", "prior_log_lik", "versions")


class Cell(NamedTuple):
    """A cell of the table: what one reads, and what sorts it."""

    text: str
    value: float | str


class Failure(NamedTuple):
    """A run that failed."""

    method: str
    seed: str
    error: str


def render(
    tree: xr.DataTree,
    figures: Sequence[Picture],
    out: str | os.PathLike[str],
    *,
    missing: Mapping[str, str] | None = None,
) -> Path:
    """Write the page of a comparison: one HTML file that needs nothing else.

    Args:
        tree: A comparison, or one run.
        figures: Pictures to embed, in reading order.
        out: File to write.
        missing: Why figures are not there, by name.

    Returns:
        The path.

    Raises:
        ValueError: If the tree is neither a comparison nor a run.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode("ascii")
    text = environment.get_template("page.html").render(
        **_content(tree), figures=figures, missing=dict(missing or {})
    )
    path = Path(out)
    path.write_text(text, encoding="utf-8")
    return path


def _content(tree: xr.DataTree) -> dict[str, Any]:
    """Everything on the page but the figures."""
    table = summary(tree)
    columns = shown_columns(table)
    attrs = {str(name): _decoded(value) for name, value in tree.attrs.items()}
    found = runs(tree)
    return {
        "task": str(attrs.get("task", "a task")),
        "description": str(attrs.get("description", "")),
        "notes": [str(note) for note in attrs.get("notes", [])],
        "command": str(attrs.get("command", "")),
        "versions": attrs.get("versions", {}),
        "columns": columns,
        "rows": _rows(table, columns),
        "lede": _lede(table, float(attrs.get("prior_log_lik", np.nan))),
        "failures": [Failure(r.method, r.seed, r.error) for r in found if r.error],
        "n_runs": len(found),
        "settings": _settings(attrs),
    }


def _rows(table: pd.DataFrame, columns: Sequence[Column]) -> list[list[Cell]]:
    """The table's cells, the method first."""
    return [
        [
            Cell(str(row["method"]), str(row["method"])),
            *(Cell(cell(row, c), float(row[c.name])) for c in columns),
        ]
        for row in records(table)
    ]


def _lede(table: pd.DataFrame, prior: float) -> str:
    """The result in a sentence."""
    finished = records(table[table["log_lik"].notna()])
    if not finished:
        return "No training finished."
    row = max(finished, key=lambda r: float(r["log_lik"]))
    column = next(c for c in COLUMNS if c.name == "log_lik")
    best = f"{row['method']}, {cell(row, column)} nats per example"
    text = f"Highest test log-likelihood: {best}"
    if np.isnan(prior):
        return f"{text}."
    return f"{text}; a prediction that ignores x gets {number(prior, column.digits)}."


def _settings(attrs: Mapping[str, Any]) -> dict[str, list[str]]:
    """What else the tree says of itself: lines by name, one an entry of a mapping."""
    return {
        name.replace("_", " "): [f"{key}: {_spelt(v)}" for key, v in value.items()]
        if isinstance(value, Mapping)
        else [_spelt(value)]
        for name, value in attrs.items()
        if name not in PLACED
    }


def _decoded(value: Any) -> Any:
    """An attribute that was stored as JSON as what it was."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value
    return value


def _spelt(value: Any) -> str:
    """A value in words: what lists hold with commas between, the rest as it is."""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
