"""What was measured during training, on disk as it comes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from .checkpoint import part_of

FILE_NAME = "metrics.jsonl"


class Metrics:
    """Writes rows of the history to ``metrics.jsonl``, and to TensorBoard if asked.

    Args:
        folder: Of the file; ``None`` for no file.
        tensorboard: Folder for TensorBoard; ``None`` for none.
    """

    def __init__(self, folder: Path | None, tensorboard: Path | None = None) -> None:
        self._folder, self._board_folder = folder, tensorboard
        self._file: TextIO | None = None
        self._board: Any = None

    def begin(self, step: int) -> None:
        """Open the files, and forget rows after a step: they will come again."""
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / FILE_NAME
            _keep(path, step)
            self._file = path.open("a", encoding="utf-8")
        if self._board_folder is not None:
            writer, folder = summary_writer(), str(self._board_folder)
            self._board = writer(folder, purge_step=step + 1 if step else None)

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a row; NaN and infinity become ``null`` in the file.

        Raises:
            OSError: If it cannot be written; names the file.
        """
        if self._file is not None:
            try:
                self._file.write(_line(row))
                self._file.flush()
            except OSError as error:
                reason = f"{self._file.name} cannot be written: {error.strerror}"
                raise OSError(reason) from error
        if self._board is not None:
            for name, value in _scalars(row):
                self._board.add_scalar(name, value, row["step"])

    def sync(self) -> None:
        """Have what was written on the disk: before a checkpoint that counts on it."""
        if self._file is not None:
            os.fsync(self._file.fileno())
        if self._board is not None:
            self._board.flush()

    def close(self) -> None:
        """Close the files."""
        for opened in (self._file, self._board):
            if opened is not None:
                opened.close()
        self._file = self._board = None


def summary_writer() -> Any:
    """TensorBoard's class.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "tensorboard= needs TensorBoard: pip install 'latentroute[tensorboard]'"
        ) from error
    return SummaryWriter


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps({name: _plain(value) for name, value in row.items()}) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _scalars(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Numbers of a row by name; of a list one a layer."""
    for name, value in row.items():
        if isinstance(value, list):
            yield from ((f"{name}/{i}", each) for i, each in enumerate(value))
        elif name != "step":
            yield name, value


def _keep(path: Path, step: int) -> None:
    """Leave the rows up to a step; a line that a crash cut short goes."""
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    kept = [line for line in text.splitlines() if 0 < _step(line) <= step]
    part = part_of(path)
    part.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    part.replace(path)


def _step(line: str) -> int:
    """The step of a line; 0 where it is none of ours."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return 0
