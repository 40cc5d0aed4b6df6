"""Tensors in a file in place of RAM."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor


def empty(shape: Sequence[int], dtype: torch.dtype, path: str | Path | None) -> Tensor:
    """A new tensor, of any content: in RAM, or mapped to a file in a folder.

    The file has no name, so nothing is left of it once the tensor is gone, nor after a
    crash. What is written goes to it as the system sees fit.

    Args:
        shape: Of the tensor.
        dtype: Of its elements.
        path: The folder; ``None``: RAM.

    Raises:
        ValueError: If there is no such folder.
    """
    if path is None:
        return torch.empty(*shape, dtype=dtype)
    if not Path(path).is_dir():
        raise ValueError(f"path must be a folder for the buffer's file, got {path!s}")
    size = math.prod(shape)
    handle, name = tempfile.mkstemp(prefix="routes-", dir=path)
    try:
        os.truncate(handle, size * dtype.itemsize)
        mapped = torch.from_file(name, shared=True, size=size, dtype=dtype)
    finally:
        os.close(handle)
        with contextlib.suppress(PermissionError):  # Windows keeps what is mapped
            os.unlink(name)
    return mapped.reshape(*shape)
