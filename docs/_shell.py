"""Runs command lines for the page on the command line and prints them as a terminal."""

from __future__ import annotations

import subprocess
import tempfile

FOLDER = tempfile.TemporaryDirectory()


def shell(line: str, *, code: int = 0, stderr: bool = False, hide: str = "") -> None:
    """Run a line in a folder of its own and print it with what it wrote.

    Args:
        line: The command line.
        code: The exit code that it must have.
        stderr: Whether messages and progress are shown too.
        hide: Lines that begin with this are left out.

    Raises:
        RuntimeError: If the exit code is another one.
    """
    done = subprocess.run(
        line,
        shell=True,
        cwd=FOLDER.name,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if stderr else subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != code:
        raise RuntimeError(
            f"{line}: exit code {done.returncode}, not {code}\n{done.stdout}\n"
            f"{done.stderr}"
        )
    shown = [s for s in done.stdout.splitlines() if not hide or not s.startswith(hide)]
    print("\n".join([f"$ {line}", *shown]))
