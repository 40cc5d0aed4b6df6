"""What a command line gives: methods, tasks and networks of its options."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from .cli import UsageError
from .cli_choice import Choice, split_names
from .cli_options import NETWORK
from .cli_output import tell
from .cli_parts import with_schedules

MOST_THREADS = 1024

if TYPE_CHECKING:
    from .inference import Method
    from .inference.regularisers import Regulariser
    from .tasks import Task


def use_threads(threads: int) -> None:
    """Have torch compute on so many threads.

    Raises:
        UsageError: If they are more than any machine has processors.
    """
    import torch

    if threads > MOST_THREADS:
        raise UsageError(f"--threads must be at most {MOST_THREADS}, got {threads}")
    torch.set_num_threads(threads)


def add_output(group: Any, default: str) -> None:
    """The options ``--out`` and ``--json``."""
    group.add_argument(
        "--out",
        type=str | None,
        metavar="DIR",
        help=f"folder to write to, made if it is missing (default: {default})",
    )
    group.add_argument("--json", action="store_true", help="JSON in place of a table")


def make_method(name: str, options: Namespace) -> Method:
    """A method with the options given to it."""
    from .inference import METHODS, get_method

    try:
        values = with_schedules(METHODS[name], _values(options, name))
        return get_method(name, **values)
    except ValueError as error:
        raise UsageError(f"--{name}: {error}") from error


def make_regularisers(choice: Choice, options: Namespace) -> tuple[Regulariser, ...]:
    """The regularisers with the options given to them."""
    from .inference.regularisers import REGULARISERS

    found = []
    for name in choice.regularisers:
        part = REGULARISERS[name]
        try:
            values = with_schedules(part, _values(options, name))
        except ValueError as error:
            raise UsageError(f"--{name}: {error}") from error
        found.append(dataclasses.replace(part, **values))  # type: ignore[type-var]
    return tuple(found)


def result_name(choice: Choice, options: Namespace) -> str:
    """What results are called: the task, or the file of one's own."""
    return Path(options.data).stem if choice.own_data else choice.task


def load_task(choice: Choice, options: Namespace) -> Task:
    """The task with the options given to it; says what loading did."""
    from .tasks import load

    given = _values(options, choice.task)
    if choice.own_data:
        given |= {"path": Path(options.data), "target": options.target}
        given |= {"missing": options.missing} if options.missing else {}
    flag = "--data" if choice.own_data else f"--{choice.task}"
    try:
        task = load(choice.task, **given)
    except (ValueError, OSError) as error:
        raise UsageError(f"{flag}: {error}") from error
    for note in task.notes:
        tell(f"data: {note}")
    return task


def network_options(options: Namespace) -> dict[str, Any]:
    """Options of the network that were given; the others are the task's."""
    values = _values(options, NETWORK)
    return {name: value for name, value in values.items() if value is not None}


def _values(options: Namespace, key: str) -> dict[str, Any]:
    """The dotted options of one task, method or of the network."""
    found = options.get(key.replace("-", "_"))
    return {} if found is None else vars(found)


def add_methods(group: Any, choice: Choice) -> None:
    """The option ``--methods``."""
    group.add_argument(
        "--methods",
        type=split_names,
        default=list(choice.methods),
        metavar="A,B",
        help="inference methods, with commas between them; `all` for every one",
    )
