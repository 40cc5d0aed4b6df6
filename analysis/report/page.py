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
from markupsafe import Markup

from ...files import write_whole
from ..plots.style import number
from ..runs import runs
from ..summary import summary
from .assets import HERE, as_json, policy, script, stylesheet
from .explorer import explorer_data
from .pictures import Picture
from .table import COLUMNS, cell, records
from .tables import tables

if TYPE_CHECKING:
    import xarray as xr

# Root attributes that have a place of their own on the page.
PLACED = (
    *("task", "description", "notes", "command", "prior_log_lik", "versions"),
    *("class_names", "feature_names", "image_shape"),
)


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

    Its content security policy lets the browser run this page's script alone and send
    no request.

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
        loader=FileSystemLoader(HERE),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode("ascii")
    text = environment.get_template("page.html").render(
        **_content(tree), **_own(), figures=figures, missing=dict(missing or {})
    )
    path = Path(out)
    write_whole(path, text)
    return path


def _own() -> dict[str, Any]:
    """What is the same on every page: no text from outside is in it."""
    style, code = stylesheet(), script()
    return {
        "style": Markup(style),
        "script": Markup(code),
        "policy": policy(style, code),
    }


def _content(tree: xr.DataTree) -> dict[str, Any]:
    """Everything that the tree says, but the figures."""
    attrs = {str(name): _decoded(value) for name, value in tree.attrs.items()}
    made = runs(tree)
    found, not_found = tables(tree)
    examples = explorer_data(tree)
    return {
        "task": str(attrs.get("task", "a task")),
        "description": str(attrs.get("description", "")),
        "notes": [str(note) for note in attrs.get("notes", [])],
        "command": str(attrs.get("command", "")),
        "versions": attrs.get("versions", {}),
        "n_methods": len({run.method for run in made}),
        "tables": found,
        "missing_tables": not_found,
        "lede": _lede(tree, float(attrs.get("prior_log_lik", np.nan))),
        "explorer": _explorer(examples) if examples else None,
        "failures": [
            Failure(run.method, run.seed, run.error)
            for run in made
            if run.error and run.applies
        ],
        "left_out": {r.method: r.error for r in made if not r.applies},
        "n_runs": sum(run.applies for run in made),
        "settings": _settings(attrs),
    }


def _explorer(examples: Mapping[str, Any]) -> dict[str, Any]:
    """The explorer's data, and how many examples it has."""
    first = examples["examples"][0]
    # as_json has left no sign in it that HTML reads
    data = Markup(as_json(examples))
    return {"data": data, "shown": len(first["rows"]), "of": first["n"]}


def _lede(tree: xr.DataTree, prior: float) -> str:
    """The result in a sentence."""
    table = summary(tree)
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
