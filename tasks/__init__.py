"""Tasks: data, how the target is distributed, and the true routes where known.

Add a task: its file here, a frozen dataclass of options with `summary` and `load()`,
one line in `TASKS`; the contract tests find it by themselves.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from .base import Head, Split, Task, TaskSpec
from .clusters import Clusters
from .composition import Composition
from .digits import Digits
from .mnist import Mnist
from .options import did_you_mean, quoted
from .own import from_tensors
from .rules import Rules
from .table import Table
from .text import Text, TextTask

__all__ = [
    "TASKS",
    "Clusters",
    "Composition",
    "Digits",
    "Head",
    "Mnist",
    "Rules",
    "Split",
    "Table",
    "Task",
    "TaskSpec",
    "Text",
    "TextTask",
    "from_tensors",
    "load",
]

TASKS: Mapping[str, type[TaskSpec]] = {
    "clusters": Clusters,
    "composition": Composition,
    "rules": Rules,
    "digits": Digits,
    "mnist": Mnist,
    "table": Table,
}


def load(name: str, /, **options: Any) -> Task:
    """The task of that name, with its data.

    Args:
        name: A key of `TASKS`.
        **options: The fields of its options, such as `seed`; see `help(TASKS[name])`.

    Raises:
        ValueError: Unknown task or option, or a value that isn't accepted.
        FileNotFoundError: The user's own file doesn't exist.
        ImportError: The task needs a package that isn't installed.

    Example:
        >>> load("rules", n_rules=2, n_train=100)
        Task('rules': 4 -> normal 1; train 100, valid 1000, test 1000, ood 1000)
    """
    if name not in TASKS:
        raise ValueError(
            f"task must be one of {quoted(TASKS)}; got {name!r}"
            f"{did_you_mean(name, TASKS)}"
        )
    spec = TASKS[name]
    known = {f.name: f.default is MISSING for f in fields(spec)}
    for option in options:
        if option not in known:
            raise ValueError(
                f"task {name!r} has no option {option!r}; accepted: "
                f"{quoted(known, limit=20)}{did_you_mean(option, known)}"
            )
    for option, needed in known.items():
        if needed and option not in options:
            raise ValueError(
                f"task {name!r} needs the option {option!r}; it is not given"
            )
    return spec(**options).load()
