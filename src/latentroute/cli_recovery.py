"""``latentroute benchmark recovery``: are the true modules found?"""

from __future__ import annotations

import fnmatch
import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from shutil import get_terminal_size
from typing import TYPE_CHECKING

from .cli import PROG, UsageError
from .cli_choice import known, split_names
from .cli_output import (
    PLAIN_WIDTH,
    Parser,
    print_json,
    print_table,
    tell,
    writable_folder,
)

if TYPE_CHECKING:
    from .benchmarks.recovery_measure import Numbers
    from .benchmarks.recovery_runs import Case

FILE = "recovery.jsonl"
COMPARED = "recover,exact,given"


def recovery(words: Sequence[str]) -> int:
    """Whether methods find the modules that generated the data."""
    parser = Parser(prog=f"{PROG} benchmark recovery", description=recovery.__doc__)
    add = parser.add_argument
    add("--tasks", help="all lines of these tasks, comma-separated (default: all)")
    add("--lines", help="lines, comma-separated; * stands for anything: 'rules-*'")
    add("--methods", default=COMPARED, help=f"comma-separated (default: {COMPARED})")
    add("--seeds", type=int, default=10, help="how many (default: 10)")
    add("--first", type=int, default=0, help="the first seed (default: 0)")
    add("--steps", type=int, help="in place of each line's own")
    add("--workers", type=int, default=1, help="trainings at once (default: 1)")
    add("--out", default="runs/recovery", help=f"folder of {FILE}, a line a training")
    add("--table", action="store_true", help="train nothing: the runs that are there")
    add("--list", action="store_true", help="name the lines and the methods")
    add("--json", action="store_true", help="print JSON")
    options = parser.parse_args(list(words))
    if options.list:
        return _tell_names()
    for name in ("seeds", "workers", "steps"):
        given = getattr(options, name)
        if given is not None and given < 1:
            raise UsageError(f"--{name}: got {given}, expected >= 1")
    return _run(options)


def _run(options: Namespace) -> int:
    """Train what is missing; print the table."""
    from .benchmarks.recovery_runs import make, read

    cases = _cases(options)
    path = writable_folder(options.out) / FILE
    done = read(path, cases)
    missing = [case for case in cases if "error" in done.get(case, {"error": ""})]
    if options.table:
        missing = []
    tell(f"{len(done)} of {len(cases)} trainings are in {path}, {len(missing)} to do")
    for i, row in enumerate(make(missing, path, workers=options.workers), 1):
        tell(f"{i} of {len(missing)}: {_said(row)}")
    rows = list(read(path, cases).values())
    _show(rows, as_json=options.json)
    return 1 if any("error" in row for row in rows) else 0


def _cases(options: Namespace) -> list[Case]:
    """The trainings that are asked for, seed by seed within a line and a method."""
    from .benchmarks.recovery import LINES, METHODS, applies
    from .benchmarks.recovery_runs import Case

    lines = list(LINES)
    if options.tasks:
        asked = split_names(options.tasks)
        for name in asked:
            known("--tasks", name, dict.fromkeys(each.task for each in LINES.values()))
        lines = [name for name in lines if LINES[name].task in asked]
    if options.lines:
        patterns = split_names(options.lines)
        for pattern in patterns:
            if not fnmatch.filter(lines, pattern):
                known("--lines", pattern, lines)
        lines = [n for n in lines if any(fnmatch.fnmatchcase(n, p) for p in patterns)]
    methods = split_names(options.methods)
    for name in methods:
        known("--methods", name, METHODS)
    seeds = range(options.first, options.first + options.seeds)
    return [
        Case(line, method, seed, options.steps)
        for line in lines
        for method in methods
        if applies(line, method)
        for seed in seeds
    ]


def _said(row: Numbers) -> str:
    """One training's outcome in a line."""
    name = f"{row['line']}, {row['method']}, seed {row['seed']}"
    if "error" in row:
        return f"{name}: failed: {row['error']}"
    parts = [f"{row['seconds']:.0f} s"]
    if "accuracy" in row:
        found = "recovered" if row["recovered"] else "not recovered"
        parts += [found, f"accuracy {min(row['accuracy']):.3f}"]
    if "ood_error" in row:
        parts.append(f"out of distribution {row['ood_error']:.3g}")
    return f"{name}: {', '.join(parts)}"


def _show(rows: Iterable[Numbers], *, as_json: bool) -> None:
    """The table on stdout, in as many parts as the terminal's width asks for."""
    from .analysis.report import blocks
    from .benchmarks.recovery_table import HEADINGS, NOTES, shown, table

    found = table(rows)
    if as_json:
        print_json(found)
        return
    width = get_terminal_size().columns if sys.stdout.isatty() else PLAIN_WIDTH
    for part in blocks(HEADINGS, [shown(row) for row in found], width):
        print_table(*part)
    for note in NOTES:
        tell(note)


def _tell_names() -> int:
    from .benchmarks.recovery import LINES, METHODS

    rows = [(name, line.task, f"{line.steps:,}") for name, line in LINES.items()]
    print_table(("line", "task", "steps"), rows)
    print_table(("method", "settings"), [(n, repr(m)) for n, m in METHODS.items()])
    return 0
