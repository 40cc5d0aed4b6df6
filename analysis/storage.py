"""A DataTree on disk: one netCDF file, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

ENGINE: Final = "h5netcdf"


def save(tree: xr.DataTree, path: str | os.PathLike[str]) -> Path:
    """Write a tree as one netCDF file, replacing what was there in one step.

    An interrupted or failed write leaves the old file as it was. Missing folders are
    made.

    Args:
        tree: A run or a comparison.
        path: File to write.

    Returns:
        The path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        tree.to_netcdf(temporary, engine=ENGINE, encoding=_encoding(tree))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def load(path: str | os.PathLike[str]) -> xr.DataTree:
    """Read a whole tree into memory and close the file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no netCDF tree.
    """
    import xarray as xr

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with xr.open_datatree(path, engine=ENGINE) as opened:
            tree = opened.load()
    except OSError as error:
        raise ValueError(f"{path}: got no netCDF file ({error})") from error
    for node in tree.subtree:  # 3 comes back as np.int64(3), which json refuses
        node.attrs = {
            name: value.item() if isinstance(value, np.generic) else value
            for name, value in node.attrs.items()
        }
    return tree


def _encoding(tree: xr.DataTree) -> dict[str, dict[str, Any]]:
    """Compression for every array of numbers, group by group."""
    numbers = {"zlib": True, "complevel": 4, "shuffle": True}
    return {
        node.path: {
            str(name): numbers
            for name, variable in node.data_vars.items()
            if variable.ndim and variable.dtype.kind in "iufb"
        }
        for node in tree.subtree
    }
