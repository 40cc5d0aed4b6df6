"""``latentroute methods`` and ``latentroute tasks``: what there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .cli import PROG
from .cli_choice import OWN_DATA_TASK
from .cli_options import options_of
from .cli_output import Parser, print_json, print_table


def methods(words: Sequence[str]) -> int:
    """``latentroute methods``: the inference methods."""
    as_json = _read("methods", "List the inference methods with their options.", words)
    from .inference import METHODS

    found = {
        name: {
            "summary": method.summary,
            "wiring": method.wiring,
            "unbiased_for": method.unbiased_for,
            "options": _defaults(method),
        }
        for name, method in METHODS.items()
    }
    if as_json:
        print_json(found)
        return 0
    rows = [
        [name, m.unbiased_for or "nothing", m.summary, _spelt(_defaults(m))]
        for name, m in METHODS.items()
    ]
    print_table(["method", "gradient unbiased for", "what it is", "options"], rows)
    return 0


def tasks(words: Sequence[str]) -> int:
    """``latentroute tasks``: the data to train on."""
    as_json = _read("tasks", "List the tasks with their options.", words)
    from .tasks import TASKS

    found = {
        name: {"summary": task.summary, "options": _defaults(task)}
        for name, task in TASKS.items()
    }
    if as_json:
        print_json(found)
        return 0
    rows = [
        [
            "--data FILE" if name == OWN_DATA_TASK else name,
            task.summary,
            _spelt(_defaults(task)),
        ]
        for name, task in TASKS.items()
    ]
    print_table(["task", "what it is", "options"], rows)
    return 0


def _read(command: str, description: str, words: Sequence[str]) -> bool:
    """Whether JSON is wanted, the one option of these commands."""
    parser = Parser(
        prog=f"{PROG} {command}", description=description, allow_abbrev=False
    )
    parser.add_argument("--json", action="store_true", help="JSON in place of a table")
    as_json: bool = parser.parse_args(words).json
    return as_json


def _defaults(spec: Any) -> dict[str, Any]:
    """Options with their defaults; None where there is none."""
    return {option.name: option.default for option in options_of(spec)}


def _spelt(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())
