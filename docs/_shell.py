"""Runs command lines for the page on the command line and prints them as a terminal.

``latentroute`` runs inside this process, through the function that the installed
command calls: a dozen processes would import torch a dozen times.
"""

from __future__ import annotations

import contextlib
import io
import shlex
import subprocess
import tempfile
from pathlib import Path

from latentroute.cli import main

_kept = tempfile.TemporaryDirectory()
FOLDER = Path(_kept.name)
WIDTH = 92


def shell(line: str, *, code: int = 0, stderr: bool = False, hide: str = "") -> None:
    """Run a line in a folder of its own and print it with what it wrote.

    Args:
        line: The command line; ``> FILE`` at its end writes stdout there.
        code: The exit code that it must have.
        stderr: Whether messages and progress are shown too.
        hide: Lines that begin with this are left out.

    Raises:
        RuntimeError: If the exit code is another one.
    """
    words = shlex.split(line)
    file = FOLDER / words.pop() if ">" in words else None
    if file is not None:
        words.remove(">")
    run = _ours if words[0] == "latentroute" else _others
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(FOLDER):
        got = run(words, out, out if stderr else err)
    if got != code:
        raise RuntimeError(f"{line}: exit code {got}, not {code}\n{err.getvalue()}")
    text = out.getvalue()
    if file is not None:
        file.write_text(text, encoding="utf-8")
        text = ""
    shown = [s for s in text.splitlines() if not hide or not s.startswith(hide)]
    print("\n".join([f"$ {_wrapped(line)}", *shown]))


def _wrapped(line: str) -> str:
    """A long line broken before options, as one would type it."""
    rows = [""]
    for part in line.split(" --"):
        part = part if rows == [""] else f" --{part}"
        if len(rows[-1]) + len(part) > WIDTH:
            rows.append("   ")
        rows[-1] += part
    return " \\\n".join(rows)


def _ours(words: list[str], out: io.StringIO, err: io.StringIO) -> int:
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        return main(words[1:])


def _others(words: list[str], out: io.StringIO, err: io.StringIO) -> int:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    out.write(done.stdout)
    err.write(done.stderr)
    return done.returncode
