"""Options of the commands that train: the second pass over a command line.

The first pass (:mod:`.cli_choice`) has found task and methods; this one knows the
options of just these, from the fields of their dataclasses. So a YAML file and
``--print_config`` hold what matters, and an option of something else is refused.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import (
    PositiveFloat,
    PositiveInt,
    restricted_number_type,
)

from .cli import PROG
from .cli_choice import Choice, split_names
from .cli_parts import is_part, is_schedule, part_config, part_names, schedule_text

OWN_DATA = ("path", "target", "missing")  # fields of the table that have plain flags
NETWORK = "network"
Seed = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**63)])


class HelpFormatter(argparse.HelpFormatter):
    """Says an option's default where it has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        """The help text with the default behind it."""
        text, value = action.help or "", action.default
        if value in (None, (), argparse.SUPPRESS) or action.nargs == 0:
            return text
        if isinstance(value, Mapping | Namespace):  # a part
            value = str(value["class_path"]).rpartition(".")[2]
        shown = list(value) if isinstance(value, tuple) else value
        shown = ",".join(value) if isinstance(value, list) else str(shown)
        shown = shown.lower() if isinstance(value, bool) else shown
        return f"{text} (default: {shown})".replace("%", "%%")


class Option(NamedTuple):
    """One field of a task, a method or the network."""

    name: str
    hint: Any
    default: Any
    help: str


def base_parser(command: str, description: str, choice: Choice) -> ArgumentParser:
    """A parser with what compare and train have in common."""
    parser = ArgumentParser(
        prog=f"{PROG} {command}",
        usage=f"{PROG} {command} [options]",
        description=description,
        epilog=(
            "The dotted options are those of the chosen task and methods: give --task "
            f"or --{'method' if command == 'train' else 'methods'} before --help to "
            f"see others. `{PROG} tasks` and `{PROG} methods` list what there is."
        ),
        formatter_class=HelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", action="config", metavar="FILE", help="YAML file of options"
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--task",
        type=str | None,
        default=None if choice.own_data else choice.task,
        help="what to learn",
    )
    data.add_argument(
        "--data",
        type=str | None,
        metavar="FILE",
        help="your own CSV, Parquet or NPZ file in place of a task",
    )
    data.add_argument(
        "--target",
        type=str | None,
        metavar="COLUMN",
        help="what to predict in --data: classes or numbers, which is found out",
    )
    data.add_argument(
        "--missing",
        type=Literal["error", "drop", "impute"] | None,
        metavar="{error,drop,impute}",
        help="missing values in --data: refuse them (error, the default), drop rows, "
        "or impute",
    )
    return parser


def add_training(parser: ArgumentParser, choice: Choice) -> None:
    """Options of the training loop; ``compare`` has their defaults."""
    from .inference import compare
    from .inference.regularisers import REGULARISERS

    defaults = inspect.signature(compare).parameters
    group = parser.add_argument_group("training")
    for name, hint, text in (
        ("steps", PositiveInt, "optimiser steps of each run"),
        ("batch_size", PositiveInt, "examples a step"),
        ("lr", PositiveFloat, "learning rate of Adam"),
        ("draws", PositiveInt, "draws of routes and targets per test example"),
    ):
        flag = "--" + name.replace("_", "-")
        kind = "FLOAT" if hint is PositiveFloat else "INT"
        group.add_argument(
            flag, type=hint, default=defaults[name].default, metavar=kind, help=text
        )
    group.add_argument(
        "--regularisers",
        type=split_names,
        default=list(choice.regularisers),
        metavar="A,B",
        help=f"parts added to the loss: {', '.join(REGULARISERS)}",
    )
    group.add_argument(
        "--threads",
        type=PositiveInt,
        default=1,
        metavar="INT",
        help="threads of torch: more than one pays for large networks alone, and on a "
        "busy machine costs many times what it gains",
    )


def add_chosen(parser: ArgumentParser, choice: Choice) -> None:
    """The dotted options of the chosen task and methods and of the network."""
    from .inference import METHODS
    from .inference.regularisers import REGULARISERS
    from .models import LayeredNetwork
    from .tasks import TASKS

    task = TASKS[choice.task]
    own = [
        option
        for option in options_of(task)
        if not (choice.own_data and option.name in OWN_DATA)
    ]
    _add_group(parser, choice.task, f"task {choice.task}: {task.summary}", own)
    _add_group(
        parser,
        NETWORK,
        "network (where not given, as the task suggests)",
        network_options(LayeredNetwork),
    )
    for name in choice.methods:
        method = METHODS[name]
        title = f"method {name}: {method.summary}"
        _add_group(parser, name, title, options_of(method))
    for name in choice.regularisers:
        part = REGULARISERS[name]
        title = f"regulariser {name}: {summary_of(part)}"
        _add_group(parser, name, title, options_of(part))
    for name in choice.spare:
        spec = METHODS.get(name) or REGULARISERS.get(name) or TASKS[name]
        _add_group(parser, name, f"{name}: not chosen", options_of(spec))


def options_of(spec: Any) -> Iterator[Option]:
    """Fields of a frozen dataclass, or of a value of one, that a flag can hold."""
    kind = spec if isinstance(spec, type) else type(spec)
    hints, texts = get_type_hints(kind), _help_texts(kind)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if field.init and (is_plain(hint) or is_part(hint)):
            default = getattr(spec, field.name, None)
            if is_schedule(hint):
                hint, default = float | str, schedule_text(default)
            yield Option(field.name, hint, default, texts.get(field.name, ""))


def network_options(network: type) -> Iterator[Option]:
    """Keyword options of a network that a flag can hold, unset."""
    texts = _help_texts(network)
    signature = inspect.signature(network, eval_str=True)
    for name, parameter in signature.parameters.items():
        hint = parameter.annotation
        keyword = parameter.kind is parameter.KEYWORD_ONLY
        if keyword and name != "head" and is_plain(hint):
            yield Option(name, hint | None, None, texts.get(name, ""))


def is_plain(hint: Any) -> bool:
    """Whether a word on the command line can be a value of this type."""
    if hint in (int, float, str, bool, NoneType, Ellipsis):
        return True
    origin = get_origin(hint)
    if origin is Literal:
        return True
    return origin in (Union, UnionType, tuple, list, Sequence) and all(
        map(is_plain, get_args(hint))
    )


def _add_group(
    parser: ArgumentParser, key: str, title: str, options: Iterable[Option]
) -> None:
    group = parser.add_argument_group(title)
    for option in options:
        group.add_argument(
            f"--{key}.{option.name}",
            type=option.hint,
            default=part_config(option.default),
            help=option.help,
            metavar=_metavar(option.hint),
        )


def _metavar(hint: Any) -> str:
    """What stands for a value in the help: the accepted words, or its kind."""
    if is_part(hint):
        return _braced(part_names(hint))
    if get_origin(hint) is Literal:
        return _braced(get_args(hint))
    if get_origin(hint) in (Union, UnionType):
        kinds = [part for part in get_args(hint) if part is not NoneType]
        return "|".join(map(_metavar, kinds))
    if get_origin(hint) is not None:
        return "LIST"
    return "{true,false}" if hint is bool else str(hint.__name__).upper()


def _braced(words: Iterable[object]) -> str:
    return f"{{{','.join(map(str, words))}}}"


def summary_of(spec: Any) -> str:
    """The first line of a part's docstring, without its full stop."""
    first = (inspect.getdoc(type(spec)) or "").partition("\n")[0]
    return _plain_text(first).removesuffix(".")


def _help_texts(kind: type) -> dict[str, str]:
    """Each argument's line in a docstring."""
    found = parse_docstring(inspect.getdoc(kind) or "").params
    return {p.arg_name: _plain_text(p.description or "") for p in found}


def _plain_text(markup: str) -> str:
    """A docstring's words without its marks, as argparse wants them."""
    return " ".join(re.sub(r":\w+:`~?|`", "", markup).split())
