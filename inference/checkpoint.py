"""Checkpoints of a training run: atomic, free of pickled objects, the last one kept."""

from __future__ import annotations

import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

FILE_NAME = "checkpoint.pt"
PREVIOUS_NAME = "checkpoint.previous.pt"
DAMAGED_NAME = "checkpoint.damaged.pt"
_VERSION = 2
_HOLDS = ("settings", "step", "ended", "seconds", "history", "objective", "optimiser")


class _UnreadableError(ValueError):
    """A file that is no checkpoint; the message says what it is."""


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint and put it in the old one's place, which is kept beside it.

    Killed at any moment, one of the two is there and whole.

    Args:
        folder: Made if it is not there.
        state: Tensors and plain Python values.

    Raises:
        OSError: If it cannot be written; the checkpoints there were stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_whole(
        folder / FILE_NAME,
        {"version": _VERSION, **state},
        keep=folder / PREVIOUS_NAME,
    )


def save_whole(path: Path, state: dict[str, Any], *, keep: Path | None = None) -> None:
    """Save beside a file, then take its place.

    Args:
        path: The file.
        state: Tensors and plain Python values.
        keep: What the file that is there is renamed to; ``None``: it goes.

    Raises:
        OSError: If it cannot be written; no part of it is left.
    """
    part = part_of(path)
    try:
        with part.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch's own writer raises the latter
        part.unlink(missing_ok=True)
        cause = error if isinstance(error, OSError) else error.__context__
        reason = getattr(cause, "strerror", None) or str(error)
        raise OSError(f"{path} cannot be written: {reason}") from error
    if keep is not None and path.exists():
        path.replace(keep)
    part.replace(path)
    _sync(path.parent)


def part_of(path: Path) -> Path:
    """Where a file is written to before it takes its place."""
    return path.with_name(f"{path.name}.part")


def _sync(folder: Path) -> None:
    """Have a folder's new names on the disk, where the system can (not Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def has_checkpoint(folder: Path) -> bool:
    """Whether there is one, the one before the last included."""
    return bool(_files(folder))


def make_way(folder: Path) -> None:
    """Remove the checkpoints of a run that came to its end, and of no other.

    Raises:
        ValueError: If there is one to go on from; says how.
    """
    there = _files(folder)
    if there and not _has_ended(there[0]):
        raise ValueError(
            f"the folder {folder} holds {there[0].name} of a run that did not end: "
            "resume it (resume=True, --resume), choose another folder, or delete it"
        )
    for path in there:
        path.unlink(missing_ok=True)  # another process may have been faster


def _has_ended(path: Path) -> bool:
    try:
        return bool(_read(path).get("ended"))
    except ValueError:
        return False


def load_checkpoint(folder: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Read the last good checkpoint of a folder, if there is one.

    Warns where that is not the newest.

    Args:
        folder: Where it was saved.
        settings: What the run to go on with must agree in.

    Returns:
        The state, or ``None`` where there is no checkpoint.

    Raises:
        ValueError: If no file there is one of ours, or it is of a run with other
            settings or another version.
    """
    part_of(folder / FILE_NAME).unlink(missing_ok=True)
    problems = []
    for path in _files(folder):
        try:
            state = _read(path)
        except _UnreadableError as error:
            problems.append(f"checkpoint {path} cannot be read: it is {error}")
            continue
        _check_settings(path, state, settings)
        if problems:
            # Set aside: the next save would put it in the good one's place.
            (folder / FILE_NAME).replace(folder / DAMAGED_NAME)
            warnings.warn(
                f"{problems[0]}, and is now {DAMAGED_NAME}; going on from {path.name}, "
                f"step {state['step']}",
                stacklevel=2,
            )
        return state
    if problems:
        raise ValueError(f"{problems[0]}: delete it to begin anew")
    return None


def _files(folder: Path) -> list[Path]:
    """The checkpoints of a folder, newest first."""
    paths = (folder / FILE_NAME, folder / PREVIOUS_NAME)
    return [path for path in paths if path.exists()]


def _read(path: Path) -> dict[str, Any]:
    """A checkpoint of ours, whole; torch itself looks at no checksum."""
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
        state = None if damaged else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # whatever the bytes make zipfile or torch raise
        raise _UnreadableError("truncated, or none of ours") from error
    if damaged:
        raise _UnreadableError("damaged")
    if not isinstance(state, dict) or "version" not in state:
        raise _UnreadableError("none of ours")
    if state["version"] != _VERSION:
        raise ValueError(
            f"checkpoint {path} has version {state['version']!r}, not {_VERSION}: go "
            "on with the latentroute that wrote it, or begin anew in another folder"
        )
    if any(name not in state for name in _HOLDS):
        raise _UnreadableError("none of ours")
    return state


def _check_settings(
    path: Path, state: dict[str, Any], settings: dict[str, Any]
) -> None:
    for key, value in settings.items():
        saved = state["settings"].get(key)
        if saved != value:
            raise ValueError(
                f"checkpoint {path} is of a run with {key} = {saved!r}, got {value!r}: "
                "resume with the same settings, or choose another folder"
            )
