"""What the commands print and write."""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import launched
from .cli import PROG, UsageError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

COMPARISON_FILE = "comparison.nc"
RUN_FILE = "run.nc"
OPTIONS_FILE = "config.yaml"
PLAIN_WIDTH = 2000  # a file or a pipe has no width: nothing is folded


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Raise in place of printing the usage and leaving."""
        raise UsageError(f"{message} (see {self.prog} --help)")


def writable_folder(path: str) -> Path:
    """Make the folder of ``--out`` and see that it can be written to.

    Raises:
        UsageError: If it cannot.
    """
    folder = Path(path).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(
            f"--out: cannot write to {folder}: {error.strerror}"
        ) from error
    return folder


def tell(line: str) -> None:
    """A message to whoever watches, once; stdout is for results."""
    if not launched.rank():
        print(line, file=sys.stderr, flush=True)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on stdout: ruled in a terminal, aligned columns elsewhere."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = sys.stdout.isatty()
    table = Table(box=box.SIMPLE_HEAD if terminal else None, pad_edge=terminal)
    for heading in headings:
        table.add_column(heading, no_wrap=not terminal)
    for row in rows:
        table.add_row(*map(Text, row))  # not as markup: [x] is text
    console = Console(width=None if terminal else PLAIN_WIDTH)
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        print(line.rstrip())


def print_json(value: Any) -> None:
    """JSON on stdout, NaN and infinities as null."""
    print(json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False))


def _finite(value: Any) -> Any:
    """The same value with what JSON cannot say as None or text."""
    if isinstance(value, Mapping):
        return {str(key): _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def print_summary(table: pd.DataFrame) -> None:
    """The summary table for people."""
    from .analysis.report import blocks, cell, records, shown_columns

    columns = shown_columns(table, brief=True)
    rows = [
        [str(row["method"]), *(cell(row, column) for column in columns)]
        for row in records(table)
    ]
    headings = ["method", *(column.label for column in columns)]
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else PLAIN_WIDTH
    for part in blocks(headings, rows, width):
        print_table(*part)


def finish(tree: xr.DataTree, files: Sequence[Path], *, as_json: bool) -> int:
    """Print a comparison or a run; the exit code.

    Args:
        tree: A comparison, or one run.
        files: What has been written, the page last.
        as_json: JSON in place of a table.
    """
    from .analysis import runs, summary
    from .analysis.report import records

    table = summary(tree)
    found = runs(tree)
    left_out = {run.method: run.error for run in found if not run.applies}
    failures = [run for run in found if run.error and run.applies]
    if as_json:
        print_json(
            {
                "task": tree.attrs.get("task"),
                "summary": records(table),
                "failures": [
                    {"method": run.method, "seed": run.seed, "error": run.error}
                    for run in failures
                ],
                "left_out": left_out,
                "files": [str(path) for path in files],
            }
        )
    else:
        print_summary(table)
    beside = f" and {len(files) - 1} files beside it" if len(files) > 1 else ""
    tell(f"wrote {files[-1]}{beside}")
    for method, reason in left_out.items():
        tell(f"{PROG}: {method} does not apply: {reason}")
    for run in failures:
        tell(f"{PROG}: failed: {run.method}, {run.seed}: {run.error}")
    return 1 if failures else 0


def report(words: Sequence[str]) -> int:
    """``latentroute report``: figures and page again from a file of results."""
    parser = Parser(
        prog=f"{PROG} report",
        description="Write summary.csv, the figures and report.html again from the "
        f"{COMPARISON_FILE} (or the {RUN_FILE} of a training) in a folder.",
        allow_abbrev=False,
    )
    parser.add_argument("folder", metavar="DIR", help="what --out named")
    parser.add_argument("--json", action="store_true", help="JSON in place of a table")
    options = parser.parse_args(words)
    folder = Path(options.folder).expanduser()
    found = [folder / n for n in (COMPARISON_FILE, RUN_FILE) if (folder / n).is_file()]
    if not found:
        raise UsageError(f"{folder} holds neither {COMPARISON_FILE} nor {RUN_FILE}")
    from .analysis import load
    from .analysis.report import write

    tree = load(found[0])
    return finish(tree, write(tree, writable_folder(str(folder))), as_json=options.json)
