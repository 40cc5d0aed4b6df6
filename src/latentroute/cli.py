"""The command line ``latentroute``: a thin shell over the functions a user calls.

Exit codes: 0 done; 2 bad usage or input, one line on stderr; 1 anything else; 130
interrupted. Tables and JSON go to stdout, progress and messages to stderr.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from types import TracebackType
from typing import NamedTuple, NoReturn

from . import __version__
from .launched import n_processes

PROG = "latentroute"
TRACEBACK_VARIABLE = "LATENTROUTE_TRACEBACK"
MESSAGE_WIDTH = 600  # a library's message may hold a whole tensor
# New objects between collections. At Python's 700 a quarter of the time of imports goes
# to look for garbage that is not there; neither does a step of training leave any.
COLLECTED_AFTER = 10_000


class UsageError(ValueError):
    """The command line itself is wrong; the message says what would be right."""


# What our own checks raise for bad input; a library's own may be a fault of ours.
INPUT_ERRORS = (ValueError, TypeError, KeyError, ImportError)
# Bad input wherever it is raised.
PLAIN_ERRORS = (
    UsageError,
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)


class Command(NamedTuple):
    """A subcommand: one line for the overview, and the function that runs it."""

    summary: str
    module: str
    function: str

    def load(self) -> Callable[[list[str]], int]:
        """Import the function; its module's heavy imports wait until it is called."""
        run: Callable[[list[str]], int]
        run = getattr(import_module(self.module, __package__), self.function)
        return run


COMMANDS = {
    "compare": Command(
        "train by several methods and seeds; table, figures and report",
        ".cli_compare",
        "compare",
    ),
    "train": Command(
        "train by one method, with checkpoints to resume from", ".cli_train", "train"
    ),
    "gradients": Command(
        "bias, variance and time of methods' gradients, against brute force",
        ".cli_gradients",
        "gradients",
    ),
    "report": Command(
        "figures and report.html again, from a comparison.nc", ".cli_output", "report"
    ),
    "benchmark": Command(
        "speed, as ratios to the same mathematics in plain torch",
        ".cli_benchmark",
        "benchmark",
    ),
    "methods": Command("the inference methods there are", ".cli_list", "methods"),
    "tasks": Command("what data there is to train on", ".cli_list", "tasks"),
}


class OverviewParser(argparse.ArgumentParser):
    """Reads the command's name alone, so that the overview needs no torch."""

    def error(self, message: str) -> NoReturn:
        """Raise in place of printing the usage and leaving."""
        raise UsageError(f"{message} (see {PROG} --help)")


def overview() -> OverviewParser:
    """The parser of ``latentroute COMMAND ...``."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {c.summary}" for name, c in COMMANDS.items()]
    parser = OverviewParser(
        prog=PROG,
        usage=f"{PROG} [-h] [--version] COMMAND ...",
        description="Train modular networks with latent routing and compare methods.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(
            [
                "commands:",
                *lines,
                "",
                f"{PROG} COMMAND --help tells a command's options. An example:",
                f"  {PROG} compare --task digits --methods exact,score-function",
            ]
        ),
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROG} {__version__}")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def command(name: str | None) -> Command:
    """A command by its name."""
    if name not in COMMANDS:
        got = f"unknown command {name!r}" if name else "no command given"
        raise UsageError(f"{got}; there are {', '.join(COMMANDS)} (see {PROG} --help)")
    if name != "train" and n_processes() > 1:
        raise UsageError(f"{name} runs in one process: start it without torchrun")
    return COMMANDS[name]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The words after ``latentroute``; those of this process by default.

    Returns:
        The exit code.
    """
    if argv is None:  # the process is ours, and so is how it warns and collects
        warnings.formatwarning = warning_line
        gc.set_threshold(COLLECTED_AFTER)
    try:
        chosen = overview().parse_args(argv)
        code = command(chosen.command).load()(chosen.rest)
        sys.stdout.flush()
    except SystemExit as done:  # --help, --version, --print_config
        return done.code if isinstance(done.code, int) else 0
    except KeyboardInterrupt:
        print(f"{PROG}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a table has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return explain(error)
    return code


def warning_line(message: Warning | str, *_: object, **__: object) -> str:
    """A warning as one line, without the place in the code."""
    line = textwrap.shorten(str(message), MESSAGE_WIDTH, placeholder=" ...")
    return f"{PROG}: warning: {line}\n"


def explain(error: Exception) -> int:
    """Say on stderr what went wrong; the exit code."""
    if os.environ.get(TRACEBACK_VARIABLE):
        traceback.print_exception(error)
    said = error.args[0] if isinstance(error, KeyError) and error.args else error
    line = textwrap.shorten(str(said), MESSAGE_WIDTH, placeholder=" ...")
    if isinstance(error, PLAIN_ERRORS) or (
        isinstance(error, INPUT_ERRORS) and raised_here(error.__traceback__)
    ):
        print(f"{PROG}: error: {line}", file=sys.stderr)
        return 2
    hint = f"set {TRACEBACK_VARIABLE}=1 to see where"
    print(f"{PROG}: failed: {type(error).__name__}: {line} ({hint})", file=sys.stderr)
    return 1


def raised_here(trace: TracebackType | None) -> bool:
    """Whether our own code raised, which it does to refuse input, not a library's."""
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    module: str = trace.tb_frame.f_globals.get("__name__", "")
    return module.partition(".")[0] == __package__
