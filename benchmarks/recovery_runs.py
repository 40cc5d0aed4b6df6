"""Runs of the benchmark of recovery: which are there, and how the others are made."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import torch

from .measurements import drop_cut_line
from .recovery import identity, run
from .recovery_measure import Numbers


class Case(NamedTuple):
    """One training.

    Attributes:
        line: What is learned.
        method: How.
        seed: Of the task and of the weights.
        steps: In place of the line's own.
    """

    line: str
    method: str
    seed: int
    steps: int | None = None


def read(path: Path, cases: Sequence[Case]) -> dict[Case, Numbers]:
    """Those of the cases that a file holds, made with the settings of today.

    Of several lines of one run the last counts: a failed run may be tried again.
    """
    wanted = {_key(identity(*case)): case for case in cases}
    found: dict[Case, Numbers] = {}
    for row in rows_of(path):
        case = wanted.get(_key(row))
        if case is not None:
            found[case] = row
    return {case: found[case] for case in cases if case in found}


def rows_of(path: Path) -> list[Numbers]:
    """All rows of a file; a last one that a kill cut short is left out."""
    if not path.is_file():
        return []
    whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    return [json.loads(text) for text in whole.splitlines()]


def make(cases: Sequence[Case], path: Path, *, workers: int = 1) -> Iterator[Numbers]:
    """Train the cases, and add a line to the file as each ends.

    A case that fails is a line with an ``error``. Workers are new processes with one
    thread each; the file is written here alone.
    """
    drop_cut_line(path)
    done = map(attempt, cases) if workers == 1 else _in_parallel(cases, workers)
    for row in done:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        yield row


def attempt(case: Case) -> Numbers:
    """One run, or what went wrong in it."""
    try:
        return run(*case)
    except Exception as error:  # a failure is a result here: it is shown, not dropped
        said = " ".join(str(error).split())
        return {**identity(*case), "error": f"{type(error).__name__}: {said}"}


def _in_parallel(cases: Sequence[Case], workers: int) -> Iterator[Numbers]:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, torch.set_num_threads, (1,)) as pool:
        try:
            for ended in as_completed([pool.submit(attempt, case) for case in cases]):
                yield ended.result()
        except BaseException:  # Ctrl-C too: what has not begun never will
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _key(row: Numbers) -> str:
    """The identity of a run, as text."""
    names = ("line", "method", "seed", "steps", "task", "network", "settings")
    return json.dumps([row.get(name) for name in names], sort_keys=True)
