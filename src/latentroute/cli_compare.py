"""``latentroute compare``."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt

from .cli import PROG, UsageError
from .cli_choice import Choice, choose
from .cli_given import (
    add_methods,
    add_output,
    load_task,
    make_method,
    make_regularisers,
    network_options,
    result_name,
    use_threads,
)
from .cli_options import add_chosen, add_training, base_parser
from .cli_output import COMPARISON_FILE, OPTIONS_FILE, finish, tell, writable_folder
from .cli_parse import parse
from .files import write_whole

if TYPE_CHECKING:
    from .inference.backends.base import Backend

SWEEP_FOLDER = "sweep"


def compare(words: Sequence[str]) -> int:
    """``latentroute compare``: methods x seeds, a table, figures and a report."""
    choice = choose(words, "methods")
    options, config = parse(_compare_parser(choice), words, choice)
    methods = {name: make_method(name, options) for name in choice.methods}
    parts = make_regularisers(choice, options)
    trained_by = _backend(options)
    out = writable_folder(options.out or f"runs/{result_name(choice, options)}")
    task = load_task(choice, options)
    _put_back(out / SWEEP_FOLDER)
    _check_ended(out / SWEEP_FOLDER, resume=options.resume)
    use_threads(options.threads)
    from .analysis import save
    from .analysis.report import write
    from .inference import compare as run
    from .inference.sweep_folder import failed_runs

    with nullcontext() if options.resume else _aside(out / SWEEP_FOLDER):
        tree = run(
            task,
            methods,
            options.seeds,
            network=network_options(options),
            steps=options.steps,
            batch_size=options.batch_size,
            lr=options.lr,
            draws=options.draws,
            regularisers=parts,
            progress=True,
            backend=trained_by,
            folder=out / SWEEP_FOLDER,
            resume=options.resume,
        )
    write_whole(out / OPTIONS_FILE, config)
    tree.attrs["description"] = task.description
    tree.attrs["command"] = shlex.join([PROG, "compare", *words])
    saved = save(tree, out / COMPARISON_FILE)
    code = finish(tree, [saved, *write(tree, out)], as_json=options.json)
    if failed := len(failed_runs(out / SWEEP_FOLDER)):
        tell(
            f"{PROG}: --resume trains again what raised an error ({failed} of them), "
            "and keeps the others"
        )
    return code


def _backend(options: Namespace) -> Backend:
    """Who trains, on the threads that the command has."""
    from .inference import Serial
    from .inference.backends.table import get_backend

    backend = get_backend(options.backend, options.workers)
    if isinstance(backend, Serial):
        return backend
    return dataclasses.replace(backend, threads=options.threads)  # type: ignore[type-var]


def _check_ended(folder: Path, *, resume: bool) -> None:
    """Refuse to replace the runs of a comparison that did not end."""
    from .inference.sweep_folder import count_runs, failed_runs

    counted = count_runs(folder)
    if resume and counted is None:
        tell(f"no runs in {folder}: the comparison begins with the first one")
    done, wanted = counted or (0, 0)
    if resume or not done:  # of one that came to nothing the new one takes the place
        return
    if done < wanted:
        failed = list(failed_runs(folder).items())
        what = "a comparison that did not end: --resume takes them up"
        if done + len(failed) == wanted:
            (run, why), *others = failed
            more = f" and {len(others)} more" if others else ""
            what = (
                f"a comparison, and errors of the others: {run} ({why}){more}: "
                "--resume trains these again, and keeps the rest"
            )
        raise UsageError(
            f"--out: {folder} has {done} of {wanted} runs of {what}; or choose another "
            "folder, or delete this one to train all of them anew"
        )


@contextmanager
def _aside(folder: Path) -> Iterator[None]:
    """Put a comparison that ended aside; it goes once another one has begun.

    What is wrong with the other is mostly found before, and costs nothing then.
    """
    from .inference.sweep_folder import SETTINGS_FILE

    if (folder / SETTINGS_FILE).exists():
        folder.rename(_old(folder))
    try:
        yield
    finally:
        _put_back(folder)


def _put_back(folder: Path) -> None:
    """Put back what is aside if no other comparison has begun; else remove it.

    A kill, too, can leave it aside.
    """
    from .inference.sweep_folder import SETTINGS_FILE

    old = _old(folder)
    if not old.exists():
        return
    if (folder / SETTINGS_FILE).exists():
        shutil.rmtree(old)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        old.rename(folder)


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _compare_parser(choice: Choice) -> ArgumentParser:
    parser = base_parser(
        "compare",
        "Train by several methods and seeds. Writes comparison.nc, summary.csv, the "
        "figures, report.html, the options (config.yaml) and each training as soon as "
        "it is finished (sweep/) under --out, and prints the table. Exit codes: 0 "
        "done, 2 bad usage or input, 1 anything else, such as a training that failed "
        "(the others are there all the same).",
        choice,
    )
    group = parser.add_argument_group("comparison")
    add_methods(group, choice)
    group.add_argument(
        "--seeds",
        type=PositiveInt,
        default=4,
        metavar="INT",
        help="trainings of each method, from seeds 0, 1 and so on",
    )
    add_output(group, "runs/TASK")
    group.add_argument(
        "--backend",
        type=Literal["serial", "process", "ray"],
        default="serial",
        metavar="{serial,process,ray}",
        help="who trains: this process, worker processes, or a Ray cluster (that of "
        "RAY_ADDRESS, or one started here); the numbers are the same",
    )
    group.add_argument(
        "--workers",
        type=PositiveInt | None,
        metavar="INT",
        help="trainings under way at once, where --backend has workers (default: one a "
        "processor)",
    )
    group.add_argument(
        "--resume",
        action="store_true",
        help="take up the finished trainings under --out, if there are any; more "
        "methods and seeds may join",
    )
    add_training(parser, choice)
    add_chosen(parser, choice)
    return parser
