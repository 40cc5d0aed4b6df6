"""A DataTree on disk: one netCDF file or one Zarr folder, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..files import cannot_write, write_whole
from .hdf5 import check_lengths

if TYPE_CHECKING:
    import xarray as xr

ENGINE: Final = "h5netcdf"
ZARR: Final = ".zarr"
_LONGEST: Final = 300  # of a library's message
_ZARR_SAYS: Final = (".zarray", ".zgroup", ".zmetadata", "zarr.json")
_ORDER: Final = "children_in_order"  # Zarr lists groups by name


def save(tree: xr.DataTree, path: str | os.PathLike[str]) -> Path:
    """Write a tree, replacing what was there only when all is written.

    As one netCDF file, or as a Zarr folder (format 2) where the path ends in `.zarr`:
    :func:`load` gives back the same tree, types and coordinates included. Missing
    folders are made.

    Args:
        tree: A run or a comparison.
        path: File or folder to write.

    Returns:
        The path.

    Raises:
        ValueError: The path ends in `.zarr` and is something else than a Zarr folder.
        ModuleNotFoundError: Zarr is not installed.
        OSError: It cannot be written; names the path. What was there stays.
    """
    path = Path(path)
    if path.suffix == ZARR:
        _check_zarr(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ZARR:
        _save_zarr(tree, path)
    else:
        # In memory first: where a disk fills, HDF5 itself ends the process.
        write_whole(path, tree.to_netcdf(engine=ENGINE, encoding=_encoding(tree)))
    return path


def _save_zarr(tree: xr.DataTree, path: Path) -> None:
    """Write a Zarr folder beside its place, and put it there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        _with_order(tree).to_zarr(temporary, mode="w", zarr_format=2)
        _replace_folder(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load(path: str | os.PathLike[str]) -> xr.DataTree:
    """Read a whole tree into memory and close the file.

    Raises:
        FileNotFoundError: There is no such file or folder.
        ValueError: It is no netCDF tree, or no Zarr tree.
        ModuleNotFoundError: It is a folder, and Zarr is not installed.
    """
    path = Path(path)
    if path.is_dir():
        _check_zarr(path)
        kind, read = "Zarr folder", _read_zarr
    else:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        kind, read = "netCDF file", _read_netcdf
    try:
        tree = read(path)
    except Exception as error:  # whatever damaged bytes make the libraries raise
        reason = " ".join(str(error).split())[:_LONGEST]
        raise ValueError(
            f"{path}: got no {kind} that can be read ({type(error).__name__}: "
            f"{reason}), expected one that latentroute.analysis.save wrote"
        ) from error
    for node in tree.subtree:  # 3 comes back as np.int64(3), which json refuses
        node.attrs = {
            name: value.item() if isinstance(value, np.generic) else value
            for name, value in node.attrs.items()
        }
    return tree


def _read_netcdf(path: Path) -> xr.DataTree:
    import h5py
    import xarray as xr

    check_lengths(path)
    # What h5netcdf does first: where it fails there, it prints a traceback beside.
    with h5py.File(path, "r") as file:
        file.attrs.get("_nc3_strict")
    with xr.open_datatree(path, engine=ENGINE) as opened:
        return opened.load()


def _read_zarr(path: Path) -> xr.DataTree:
    import xarray as xr

    for file in sorted(path.rglob("*")):
        if file.name in _ZARR_SAYS and _names_pickle(json.loads(file.read_bytes())):
            raise ValueError(
                f"{file.relative_to(path)} asks for pickle, refused, since reading it "
                "can run any code"
            )
    with xr.open_datatree(path, engine="zarr") as opened:
        return _in_order(opened.load())


def _names_pickle(said: Any) -> bool:
    """Whether metadata of Zarr name that codec, which some versions of it decode."""
    if isinstance(said, dict):
        own = (str(said.get(key)) for key in ("id", "name"))
        # Attributes are the user's, and name no codec.
        rest = [part for key, part in said.items() if not key.endswith(".zattrs")]
        return any("pickle" in name for name in own) or _names_pickle(rest)
    return isinstance(said, list) and any(map(_names_pickle, said))


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


def _check_zarr(path: Path) -> None:
    """Refuse a folder that is no Zarr group, and a machine without Zarr."""
    if path.exists() and not (path / ".zgroup").is_file():
        raise ValueError(
            f"{path}: got a {'folder' if path.is_dir() else 'file'} that is no Zarr "
            "group (format 2), expected one that latentroute.analysis.save wrote"
        )
    if util.find_spec("zarr") is None:
        raise ModuleNotFoundError(
            f"{path}: Zarr is not installed: pip install 'latentroute[zarr]', or save "
            "to a path that ends in .nc"
        )


def _with_order(tree: xr.DataTree) -> xr.DataTree:
    """A copy in which each node says the order of its groups."""
    copy: xr.DataTree = tree.copy()
    for node in copy.subtree:
        if node.children:
            node.attrs = {**node.attrs, _ORDER: json.dumps(list(node.children))}
    return copy


def _in_order(tree: xr.DataTree) -> xr.DataTree:
    """The tree with each node's groups in the order that it says."""
    names = json.loads(tree.attrs.pop(_ORDER, "[]")) or list(tree.children)
    tree.children = {name: _in_order(tree.children[name]) for name in names}
    return tree


def _replace_folder(new: Path, path: Path) -> None:
    """Put a folder in the place of another, which goes only once it is there."""
    if not path.exists():
        os.replace(new, path)
        return
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    os.replace(path, old)
    try:
        os.replace(new, path)
    except OSError:
        os.replace(old, path)
        raise
    shutil.rmtree(old)
