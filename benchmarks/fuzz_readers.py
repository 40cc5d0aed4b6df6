"""What the fuzzer reads: every reader of files, each with good files to begin from."""

from __future__ import annotations

import contextlib
import io
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

TABLE = "a,b,y\n" + "".join(f"{i},{i % 3},{'pq'[i % 2]}\n" for i in range(20))
NUMBERS = '\ufeffa;"b c";y\n' + "".join(f"{i / 7};é{i % 3};{i}\n" for i in range(20))
CONFIG = """\
task: clusters
methods: [exact, gumbel-softmax]
seeds: 2
steps: 50
lr: 1.0e-2
regularisers: tempering
tempering: {scale: 'Linear(0.1, 1, 40)'}
clusters: {n_train: 60, seed: 1}
network: {n_modules: 3}
"""
LONGEST = 2000  # characters of a message


class Reader(NamedTuple):
    """A reader of files.

    Attributes:
        suffix: Of the file.
        seeds: Makes good files' contents, in a folder of its own.
        read: Reads a file; raises what is to be judged.
        whole: Makes the file or folder at a path from fuzzed bytes.
    """

    suffix: str
    seeds: Callable[[Path], list[bytes]]
    read: Callable[[Path], object]
    whole: Callable[[Path, bytes], object] = Path.write_bytes


class Refused(ValueError):
    """A command line that was refused as it should be."""


def problem(read: Callable[[Path], object], path: Path) -> str | None:
    """What is wrong with how a file was read or refused; ``None`` where nothing is.

    It may be read. Or refused: by us, as a ``ValueError``, ``TypeError`` or
    ``FileNotFoundError`` of one line.
    """
    from ..cli import raised_here

    try:
        read(path)
    except (ValueError, TypeError, FileNotFoundError) as error:
        text = str(error).strip()
        if not raised_here(error.__traceback__):
            return _where("raised by a library", error)
        if not text or "\n" in text:
            return _where("not one line", error)
        if len(text) > LONGEST:
            return _where("too long", error)
        return None
    except Exception as error:
        return _where("of another type", error)
    return None


def _where(what: str, error: Exception) -> str:
    """Kind of problem, type of error, and the place that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(frame.filename).name}:{frame.name}"
    return f"{what}: {type(error).__name__} from {place}: {str(error)[:200]!r}"


def _table_seeds(_: Path) -> list[bytes]:
    return [TABLE.encode(), NUMBERS.encode(), b"y,z\n1,2\n"]


def _parquet_seeds(folder: Path) -> list[bytes]:
    import pandas as pd

    path = folder / "good.parquet"
    pd.read_csv(io.StringIO(TABLE)).to_parquet(path)
    return [path.read_bytes()]


def _npz_seeds(_: Path) -> list[bytes]:
    import numpy as np

    plain, packed = io.BytesIO(), io.BytesIO()
    x = np.arange(60.0).reshape(20, 3)
    np.savez(plain, x=x, y=np.arange(20) % 2)
    np.savez_compressed(packed, a=x[:, 0], y=np.array(["p", "q"] * 10))
    return [plain.getvalue(), packed.getvalue()]


def _read_table(path: Path) -> object:
    from ..tasks import load

    return load("table", path=path, target="y", missing="drop")


def _checkpoint_seeds(folder: Path) -> list[bytes]:
    return [(_trained(folder) / "checkpoint.pt").read_bytes()]


def _trained(folder: Path) -> Path:
    """A folder with the checkpoint of a tiny training."""
    _resume(folder, resume=False)
    return folder


def _resume(folder: Path, *, resume: bool) -> object:
    import torch

    from ..inference import fit
    from ..models import LayeredNetwork

    net = LayeredNetwork(
        1, 1, n_layers=1, n_modules=2, hidden_features=1, head="normal"
    )
    x = torch.linspace(-1, 1, 4).reshape(4, 1)
    return fit(net, (x, x[:, 0]), steps=1, checkpoint=folder, resume=resume)


def _read_checkpoint(path: Path) -> object:
    folder = path.with_suffix(".run")
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    path.replace(folder / "checkpoint.pt")
    return _resume(folder, resume=True)


def _tree_seed(folder: Path, suffix: str) -> Path:
    """The smallest tree with groups, attributes, texts and numbers."""
    import numpy as np
    import xarray as xr

    from ..analysis import save

    posterior = xr.Dataset({"route": (["chain", "draw"], np.zeros((1, 2), np.int16))})
    names = xr.Dataset(coords={"site": np.array(["a", "b"])})
    tree: xr.DataTree = xr.DataTree.from_dict({"posterior": posterior, "data": names})
    tree.attrs = {"task": "é", "seed": 3, "exact": 1}
    return save(tree, folder / f"good{suffix}")


def _netcdf_seeds(folder: Path) -> list[bytes]:
    return [_tree_seed(folder, ".nc").read_bytes()]


def _read_tree(path: Path) -> object:
    from ..analysis import load

    return load(path)


def _zarr_seeds(folder: Path) -> list[bytes]:
    """A byte that says which file of the folder, and its content."""
    tree = _tree_seed(folder, ".zarr")
    files = _files(tree)
    return [bytes([i]) + path.read_bytes() for i, path in enumerate(files)]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _zarr_whole(path: Path, data: bytes) -> None:
    """A good folder with one file replaced."""
    import shutil

    good = path.parent / "good.zarr"
    if not good.exists():
        _tree_seed(path.parent, ".zarr")
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(good, path)
    files = _files(path)
    files[(data[0] if data else 0) % len(files)].write_bytes(data[1:])


def _config_seeds(_: Path) -> list[bytes]:
    return [CONFIG.encode()]


def _read_config(path: Path) -> None:
    """What the command line does with it; raises where it is not done well."""
    from ..cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["compare", "--config", str(path), "--print_config"])
    said = err.getvalue()
    if code == 2 and said.count("\n") == 1:
        raise Refused(said.strip()[:LONGEST])
    if code != 0:
        raise RuntimeError(f"exit code {code}: {said}")


READERS = {
    "csv": Reader(".csv", _table_seeds, _read_table),
    "parquet": Reader(".parquet", _parquet_seeds, _read_table),
    "npz": Reader(".npz", _npz_seeds, _read_table),
    "checkpoint": Reader(".pt", _checkpoint_seeds, _read_checkpoint),
    "config": Reader(".yaml", _config_seeds, _read_config),
    "netcdf": Reader(".nc", _netcdf_seeds, _read_tree),
    "zarr": Reader(".zarr", _zarr_seeds, _read_tree, _zarr_whole),
}
