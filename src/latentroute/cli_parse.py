"""Parsing a command line, and what is said of a wrong one."""

from __future__ import annotations

import re
from argparse import Action
from collections.abc import Sequence
from typing import NamedTuple

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from .cli import UsageError
from .cli_choice import Choice, guess

POSITIVE = {"PositiveInt": "a whole number", "PositiveFloat": "a number"}


NOT_SAVED = (
    "out",
    "json",
    "resume",
    "backend",
    "workers",
)  # of the one call, not of its result


class Parsed(NamedTuple):
    """A command line.

    Attributes:
        values: Every option's value.
        config: The same as YAML for ``--config``: defaults may change.
    """

    values: Namespace
    config: str


def parse(parser: ArgumentParser, words: Sequence[str], choice: Choice) -> Parsed:
    """Parse a command line.

    Raises:
        UsageError: With one line that names the option and what is accepted.
    """
    try:
        options = parser.parse_args(list(words))
    except ArgumentError as error:
        raise UsageError(_explain(parser, str(error), choice)) from error
    except (UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"--config: no YAML file in UTF-8: {reason}") from error
    if not choice.own_data and (options.target or options.missing):
        raise UsageError("--target and --missing need --data FILE")
    found = yaml.safe_load(parser.dump(options))
    saved = {name: value for name, value in found.items() if name not in NOT_SAVED}
    config = yaml.safe_dump(saved, sort_keys=False, allow_unicode=True)
    values = parser.instantiate(options)
    for name, value in vars(values).items():  # not PositiveInt: checkpoints refuse it
        if isinstance(value, int | float) and not isinstance(value, bool):
            values[name] = int(value) if isinstance(value, int) else float(value)
    return Parsed(values, config)


def _explain(parser: ArgumentParser, message: str, choice: Choice) -> str:
    """A message of jsonargparse in one line, with the option as it is typed."""
    line = " ".join(message.split())
    strange = re.match(r"unrecognized arguments: (--[^\s=]+)", line, re.IGNORECASE)
    strange = strange or re.match(r"Option '([^']+)' is not accepted", line)
    if strange:
        return _unknown(parser, strange[1].removeprefix("--"), choice)
    part = re.match(r'Parser key "([^"]+)": .*dot import path string: (\S+)', line)
    if part:
        action = _action(parser, part[1])
        accepted = f", expected one of {action.metavar}" if action else ""
        return f"{_flag(parser, part[1])}: got {part[2]!r}{accepted}"
    union = re.match(
        r'Parser key "([^"]+)": Does not validate.* Given value: (.*)', line
    )
    if union and (action := _action(parser, union[1])) and action.metavar:
        return f"{_flag(parser, union[1])}: got {union[2]!r}, expected {action.metavar}"
    line = re.sub(
        r'^Parser key "([^"]+)": ?', lambda m: f"{_flag(parser, m[1])}: ", line
    )
    line = re.sub(r"<class '(\w+)'>", r"\1", line)
    for kind, words in POSITIVE.items():
        line = line.replace(f"Not of type {kind}", f"expected {words} above 0")
    line = line.replace("Not of type Seed", "expected a whole number from 0 on")
    return line.replace("typing.", "")


def _unknown(parser: ArgumentParser, name: str, choice: Choice) -> str:
    """What to say of an option that there is not."""
    from .inference import METHODS
    from .inference.regularisers import REGULARISERS
    from .tasks import TASKS

    key = name.partition(".")[0]
    chosen = {choice.task, *choice.methods, *choice.regularisers}
    for flag, names in (
        ("--task", TASKS),
        ("--methods", METHODS),
        ("--regularisers", REGULARISERS),
    ):
        if key.replace("_", "-") in names and key.replace("_", "-") not in chosen:
            return f"--{name} belongs to {flag} {key}, which is not chosen"
    flags = [f for action in parser._actions for f in action.option_strings]
    same = [flag for flag in flags if flag.startswith(f"--{key}.")]
    listed = f"; accepted: {', '.join(same)}" if same else ""
    return f"unknown option --{name}{guess(f'--{name}', flags)}{listed}"


def _flag(parser: ArgumentParser, key: str) -> str:
    """The flag of a key of the configuration."""
    action = _action(parser, key)
    return action.option_strings[-1] if action else f"--{key}"


def _action(parser: ArgumentParser, key: str) -> Action | None:
    for action in parser._actions:
        if action.dest == key and action.option_strings:
            return action
    return None
