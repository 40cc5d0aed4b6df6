"""A public library in a process and an environment of its own, timed by line."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .timing import Elsewhere

SCRIPTS = Path(__file__).parent / "peers"


class Peer(Elsewhere):
    """A script of ``benchmarks/peers`` at work; see ``served.py`` there.

    Attributes:
        about: What the script says of itself: versions, the first step's seconds.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.about: dict[str, Any] = json.loads(self._line())

    def seconds(self, n: int) -> float:
        """Processor seconds of a step, the mean of n."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{n}\n")
        self._process.stdin.flush()
        return float(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"the peer {self._process.args!r} stopped: its own error stands above"
            )
        return line


@contextmanager
def peer(python: Path, script: str, setting: Mapping[str, int]) -> Iterator[Peer]:
    """A peer's script, started with a setting, ended with the block."""
    command = [str(python), str(SCRIPTS / script), json.dumps(dict(setting))]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    try:
        yield Peer(process)
    finally:
        process.stdin.close()  # type: ignore[union-attr]
        process.wait(timeout=60)
        process.stdout.close()  # type: ignore[union-attr]


def environment(folder: Path, name: str) -> Path:
    """The interpreter of a peer's environment, made in a folder where it is missing.

    Args:
        folder: Holds an environment for each peer.
        name: Of the file of requirements in ``benchmarks/peers``, without its ending.

    Raises:
        RuntimeError: If the installation fails.
    """
    wanted = (SCRIPTS / f"{name}.txt").read_text(encoding="utf-8")
    home = folder / name
    stamp = home / "installed"
    python = home / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    key = hashlib.sha256((wanted + sys.version).encode()).hexdigest()
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == key:
        return python
    venv.create(home, clear=True, with_pip=True)
    install = [str(python), "-m", "pip", "install", "--quiet", *wanted.split()]
    if subprocess.run(install, check=False).returncode:
        raise RuntimeError(f"the installation of the peer {name} into {home} failed")
    stamp.write_text(key, encoding="utf-8")
    return python
