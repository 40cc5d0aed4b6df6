"""Which task and methods a command line asks for: the first pass over its words."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import yaml

from .cli import UsageError

DEFAULT_TASK = "digits"
DEFAULT_METHODS = ("exact", "score-function", "hard-em", "topk-buffer")
OWN_DATA_TASK = "table"
ALL_METHODS = "all"
LARGEST = 2**18  # bytes of a YAML file


class Choice(NamedTuple):
    """What the other options depend on.

    Attributes:
        task: The task's name.
        methods: The methods' names.
        own_data: Whether the task is a table of the user's own.
        spare: Other tasks, methods and regularisers that a YAML file has options of:
            one file may serve several runs.
        regularisers: The regularisers' names.
    """

    task: str
    methods: tuple[str, ...]
    own_data: bool
    spare: tuple[str, ...] = ()
    regularisers: tuple[str, ...] = ()


class _Scan(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


class _ScanConfig(argparse.Action):
    """Takes the keys of a YAML file in its place among the flags: the last one wins."""

    def __call__(self, _: Any, namespace: Any, values: Any, __: Any = None) -> None:
        path = Path(values)
        if not path.is_file():  # what is a device has no end
            return  # the second pass says it
        if path.stat().st_size > LARGEST:
            raise UsageError(f"--config: {path} is larger than {LARGEST} bytes")
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeError, RecursionError, yaml.YAMLError):
            return  # the second pass says it
        if _is_endless(content):
            raise UsageError(f"--config: {path} has aliases of aliases without end")
        if isinstance(content, dict):
            for key in vars(namespace).keys() & content.keys():
                setattr(namespace, key, content[key])
            namespace.sections |= {str(key).replace("_", "-") for key in content}


def _is_endless(content: Any) -> bool:
    """Whether aliases make more of a file than it could hold without."""
    try:
        return _count(content, LARGEST) >= LARGEST
    except RecursionError:
        return True


def _count(value: Any, most: int) -> int:
    """How many values there are, aliases written out; no more than ``most``."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if not isinstance(value, list):
        return 1
    found = 1
    for each in value:
        found += _count(each, most - found)
        if found >= most:
            break
    return found


def choose(words: Sequence[str], methods_flag: str) -> Choice:
    """Find the task and the methods that a command line asks for.

    Args:
        words: The words after the command.
        methods_flag: ``"methods"`` where several are accepted, or ``"method"``.

    Raises:
        UsageError: If one of them does not exist.
    """
    from .inference import METHODS
    from .inference.regularisers import REGULARISERS
    from .tasks import TASKS

    scan = _Scan(add_help=False, allow_abbrev=False)
    for flag in ("task", "data", "regularisers", methods_flag):
        scan.add_argument(f"--{flag}")
    scan.add_argument("--config", action=_ScanConfig)
    scan.set_defaults(sections=set())
    found = vars(scan.parse_known_args(list(words))[0])
    if found["task"] and found["data"]:
        raise UsageError("--task and --data exclude each other; give one of them")
    task = str(found["task"] or DEFAULT_TASK)
    own_data = bool(found["data"])
    if not own_data:
        known("--task", task, [name for name in TASKS if name != OWN_DATA_TASK])
    default = DEFAULT_METHODS if methods_flag == "methods" else DEFAULT_METHODS[:1]
    asked = found[methods_flag]
    methods = (
        list(default) if asked in (None, []) else _split(f"--{methods_flag}", asked)
    )
    if methods_flag == "methods" and ALL_METHODS in methods:
        if len(methods) > 1:
            raise UsageError(f"--methods: {ALL_METHODS} stands alone: leave out others")
        methods = list(METHODS)
    _check_names(f"--{methods_flag}", methods, METHODS)
    asked = found["regularisers"]
    parts = [] if asked is None else _split("--regularisers", asked)
    _check_names("--regularisers", parts, REGULARISERS)
    task = OWN_DATA_TASK if own_data else task
    known_sections = {*TASKS, *METHODS, *REGULARISERS}
    spare = sorted(found["sections"] & known_sections - {task, *methods, *parts})
    return Choice(task, tuple(methods), own_data, tuple(spare), tuple(parts))


def _check_names(flag: str, names: Sequence[str], accepted: Iterable[str]) -> None:
    """Refuse an unknown name, and one that is there twice."""
    for name in names:
        known(flag, name, accepted)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"{flag}: {', '.join(twice)} is there twice")


def _split(flag: str, value: Any) -> list[str]:
    try:
        return split_names(value)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from error


def split_names(value: Any) -> list[str]:
    """Names from ``a,b``, or from a list such as YAML gives."""
    words = value.split(",") if isinstance(value, str) else list(value)
    names = [str(word).strip() for word in words]
    if not all(names):
        raise ValueError(f"expected names with commas between them, got {value!r}")
    return names


def known(flag: str, name: str, accepted: Iterable[str]) -> None:
    """Refuse a name that is not among those accepted."""
    names = list(accepted)
    if name not in names:
        raise UsageError(
            f"{flag}: unknown name {name!r}{guess(name, names)}; "
            f"accepted: {', '.join(names)}"
        )


def guess(name: str, names: Iterable[str]) -> str:
    """``", did you mean 'x'?"`` where one is close."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f", did you mean {close[0]!r}?" if close else ""
