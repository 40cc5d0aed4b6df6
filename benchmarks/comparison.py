"""Every method on digits and on composition: what it reached, and how it routes.

``python -m latentroute.benchmarks.comparison`` writes comparison_TASK.csv and
comparison_TASK.md beside this file, from ``latentroute compare --methods all``. A
comparison of all methods that lies under runs/comparison-TASK is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path

import pandas as pd
import xarray as xr

from latentroute.analysis import load, runs, summary
from latentroute.cli import main as latentroute
from latentroute.inference import METHODS

HERE = Path(__file__).resolve().parent  # the clone, not the link to it
RUNS = HERE.parent / "runs"
SIZES = {  # by task: seeds, steps and what is set besides
    "digits": ["--seeds", "3", "--steps", "1000"],
    "composition": ["--seeds", "3", "--steps", "1000"],
}
COLUMNS = {  # of the summary, with the digits shown
    "log_lik": ("log p(y given x)", 3),
    "accuracy": ("accuracy", 3),
    "rmse": ("RMSE", 3),
    "h_a": ("H(A given X)", 2),
    "h_b": ("H(A)", 2),
    "collapsed": ("collapsed", 2),
    "route_accuracy": ("routes right", 2),
}


def compared(task: str) -> xr.DataTree:
    """The comparison of a task, made where it is not there or lacks a method."""
    folder = RUNS / f"comparison-{task}"
    saved = folder / "comparison.nc"
    if not saved.is_file() or not set(METHODS) <= set(load(saved).children):
        out = os.path.relpath(folder)  # as the table's command will have it
        words = ["--task", task, "--methods", "all", *SIZES[task], "--out", out]
        latentroute(["compare", *words])
    return load(saved)


def table_of(tree: xr.DataTree) -> pd.DataFrame:
    """The summary, with what each method maximises, and why it was left out."""
    table = summary(tree)
    wirings = [METHODS[name].wiring for name in table.index]
    table.insert(0, "objective", wirings)
    reasons = {run.method: run.error for run in runs(tree) if run.error}
    table["error"] = [reasons.get(name, "") for name in table.index]
    return table


def about(tree: xr.DataTree) -> str:
    """How the numbers were made."""
    versions = json.loads(tree.attrs["versions"])
    shown = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"Made by `{tree.attrs['command']}` with Python {platform.python_version()}, "
        f"{shown}. Mean ± standard error over seeds, on the test split. Objectives "
        "differ: this is no ranking."
    )


def markdown(table: pd.DataFrame) -> str:
    """The table as Markdown."""
    known = {name: how for name, how in COLUMNS.items() if name in table}
    headings = ["method", "objective", *(heading for heading, _ in known.values())]
    lines = [headings, ["---"] * len(headings)]
    for method, row in table.iterrows():
        cells = [_cell(row, name, digits) for name, (_, digits) in known.items()]
        lines.append([str(method), str(row["objective"]), *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(row: pd.Series, name: str, digits: int) -> str:
    value, error = row[name], row.get(f"{name}_se", float("nan"))
    if pd.isna(value):
        return ""
    text = f"{value:.{digits}f}"
    return text if pd.isna(error) else f"{text} ± {error:.{digits}f}"


def main() -> int:
    """Write the table and its description of each task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", default=list(SIZES), help="of these")
    for task in parser.parse_args().tasks:
        tree = compared(task)
        table = table_of(tree)
        table.to_csv(HERE / f"comparison_{task}.csv")
        parts = [f"# All methods on {task}", about(tree), markdown(table)]
        for method, reason in table["error"].items():
            parts += [f"{method}: {reason}."] if reason else []
        text = "\n\n".join(parts)
        (HERE / f"comparison_{task}.md").write_text(text + "\n")
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
