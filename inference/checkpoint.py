"""Checkpoints of a training run: atomic, and free of pickled objects."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

FILE_NAME = "checkpoint.pt"
_VERSION = 1


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint beside the old one, then put it in its place.

    Args:
        folder: Made if it is not there.
        state: Tensors and plain Python values.
    """
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{FILE_NAME}.part"
    with part.open("wb") as file:
        torch.save({"version": _VERSION, **state}, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(folder / FILE_NAME)


def load_checkpoint(folder: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Read the checkpoint of a folder, if there is one.

    Args:
        folder: Where it was saved.
        settings: What the run to go on with must agree in.

    Returns:
        The state, or ``None`` where there is no checkpoint.

    Raises:
        ValueError: If the file is none of ours, or of a run with other settings.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
        version = state["version"]
    except Exception as error:
        raise ValueError(
            f"checkpoint {path} cannot be read: it is none of ours"
        ) from error
    if version != _VERSION:
        raise ValueError(f"checkpoint {path} has version {version}, not {_VERSION}")
    for key, value in settings.items():
        saved = state["settings"].get(key)
        if saved != value:
            raise ValueError(
                f"checkpoint {path} is of a run with {key} = {saved!r}, got {value!r}: "
                "resume with the same settings, or choose another folder"
            )
    return state
