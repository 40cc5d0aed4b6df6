"""A user's file becomes a data frame, or one line that says what is wrong with it."""

import csv
import math
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from zipfile import is_zipfile

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..options import quoted

SUFFIXES = (".csv", ".parquet", ".npz")
LONGEST = 300  # characters of a library's message
PICKLES = (".pkl", ".pickle", ".joblib", ".pt", ".pth")


class RawTable(NamedTuple):
    """What a file holds.

    Attributes:
        frame: One row per example; column names are unique texts.
        default_target: The target's name where the file itself tells, else None.
        notes: What was left out while reading.
    """

    frame: pd.DataFrame
    default_target: str | None = None
    notes: tuple[str, ...] = ()


def read_table(path: Path, *, separator: str, na_values: Sequence[str]) -> RawTable:
    """Reads a CSV, Parquet or NPZ file; nothing in the file is ever executed.

    Args:
        path: The file.
        separator: What stands between the fields of a CSV file.
        na_values: Further texts that mean "missing" in a CSV file.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A directory, an unknown suffix, or a file that can't be used.
        ImportError: A Parquet file, and pyarrow isn't installed.
    """
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        raise ValueError(
            f"path must end in {quoted(SUFFIXES)}; got {str(path)!r}: pickles are "
            "refused, since opening one can run any code; save it as one of these"
        )
    if not path.exists():
        raise FileNotFoundError(f"path must be an existing file; got {str(path)!r}")
    if path.is_dir():
        raise ValueError(f"path must be a file; got the directory {str(path)!r}")
    if suffix not in SUFFIXES:
        raise ValueError(f"path must end in {quoted(SUFFIXES)}; got {str(path)!r}")
    if path.stat().st_size == 0:
        raise ValueError(f"path must be a file with data; {str(path)!r} is empty")
    if suffix == ".csv":
        table = _read_csv(path, separator, na_values)
    elif suffix == ".parquet":
        table = _read_parquet(path)
    else:
        table = _read_npz(path)
    if len(table.frame) == 0:
        raise ValueError(f"path must be a file with data; {str(path)!r} has no rows")
    return table


def _read_csv(path: Path, separator: str, na_values: Sequence[str]) -> RawTable:
    try:
        # utf-8-sig drops the mark that spreadsheets write before the first name
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=separator, skipinitialspace=True)
            header = next((row for row in reader if any(map(str.strip, row))), [])
        frame = pd.read_csv(
            path,
            sep=separator,
            encoding="utf-8-sig",
            skipinitialspace=True,
            na_values=list(na_values),
            dtype_backend="numpy_nullable",
            low_memory=False,
        )
    except UnicodeDecodeError as error:
        raise ValueError(
            f"path must be a CSV file in UTF-8; {str(path)!r} has the byte "
            f"0x{error.object[error.start]:02x} that isn't: save it as UTF-8"
        ) from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, csv.Error) as error:
        raise _unreadable(path, "a CSV", error) from error
    _refuse_duplicates(header, path)
    if not isinstance(frame.index, pd.RangeIndex):
        raise ValueError(
            f"path must be a CSV file with as many fields in a row as in the header; "
            f"{str(path)!r} has {len(header)} names and "
            f"{len(header) + frame.index.nlevels} fields in a row"
        )
    return _without_row_numbers(frame, header, path)


def _without_row_numbers(
    frame: pd.DataFrame, header: Sequence[str], path: Path
) -> RawTable:
    """Leaves out the nameless first column that pandas writes: the row numbers."""
    nameless = [i for i, name in enumerate(header) if not name.strip()]
    if not nameless:
        return RawTable(frame)
    first = frame.iloc[:, 0]
    if nameless == [0] and first.equals(pd.Series(range(len(first)), dtype="Int64")):
        note = "the first column has no name and counts the rows: left out"
        return RawTable(frame.iloc[:, 1:], notes=(note,))
    raise ValueError(
        f"path must be a CSV file whose columns all have names; {str(path)!r} has "
        f"none for column {nameless[0] + 1}"
    )


def _read_parquet(path: Path) -> RawTable:
    if find_spec("pyarrow") is None:
        raise ImportError(
            "a Parquet file needs the package pyarrow: pip install 'latentroute[data]'"
        )
    try:
        frame = pd.read_parquet(path, engine="pyarrow", dtype_backend="numpy_nullable")
        for _, column in frame.items():
            if not pd.api.types.is_numeric_dtype(column.dtype):
                column.tolist()  # pyarrow decodes texts only when they are looked at
    except Exception as error:  # whatever damaged bytes make pyarrow and pandas raise
        # pyarrow meets two columns of one name with a message about its internals
        if "Multiple matches" in str(error):
            name = str(error).split("(", 1)[-1].split(")", 1)[0]
            _refuse_duplicates([name, name], path)
        raise _unreadable(path, "a Parquet", error) from error
    frame = frame.reset_index(drop=True)
    frame.columns = pd.Index([str(name) for name in frame.columns])
    _refuse_duplicates(list(frame.columns), path)
    return RawTable(frame)


def _read_npz(path: Path) -> RawTable:
    if not is_zipfile(path):
        raise ValueError(
            f"path must be an NPZ file, as numpy.savez writes; {str(path)!r} is none "
            "(one bare array and pickles are refused)"
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            members = {name: archive[name] for name in archive.files}
    except Exception as error:  # whatever damaged bytes make numpy and zipfile raise
        if "allow_pickle" in str(error):
            raise ValueError(
                f"path must be an NPZ file of numbers or texts; {str(path)!r} holds "
                "Python objects (pickles), refused, since opening them can run any code"
            ) from error
        raise _unreadable(path, "an NPZ", error) from error
    # numpy gives the bytes of a member that is no array
    arrays = {k: a for k, a in members.items() if isinstance(a, np.ndarray)}
    if len(arrays) < len(members) or not arrays:
        raise ValueError(
            f"path must be an NPZ file of arrays alone; {str(path)!r} has "
            f"{quoted(set(members) - set(arrays)) or 'nothing'}"
        )
    scalars = [name for name, array in arrays.items() if array.ndim == 0]
    if scalars:
        raise ValueError(
            f"path must be an NPZ file of arrays with one entry per row; {str(path)!r} "
            f"has single values: {quoted(scalars)}"
        )
    if "x" in arrays and arrays["x"].ndim > 1:
        return _matrix(arrays, path)
    wide = {name: a.shape for name, a in arrays.items() if a.ndim > 1}
    if wide:
        raise ValueError(
            "path must be an NPZ file with an array 'x' of shape (N, columns) and a "
            f"target, or with one array per column; {str(path)!r} has {wide}"
        )
    _refuse_lengths(arrays, path)
    default = "y" if {"x", "y"} <= set(arrays) else None
    return RawTable(pd.DataFrame(arrays), default)


def _matrix(arrays: dict[str, NDArray[np.generic]], path: Path) -> RawTable:
    """An array x of inputs, and beside it every array that could be a target."""
    x = arrays["x"]
    columns = {k: a.reshape(-1) for k, a in arrays.items() if a.size == len(a)}
    columns.pop("x", None)
    _refuse_lengths({"x": x, **columns}, path)
    if "y" in arrays and "y" not in columns:
        raise ValueError(
            f"array 'y' of {str(path)!r} must have shape (N,) or (N, 1); got "
            f"{arrays['y'].shape}"
        )
    flat = x.reshape(len(x), math.prod(x.shape[1:]))
    frame = pd.DataFrame(flat, columns=[f"x{i}" for i in range(flat.shape[1])])
    _refuse_duplicates([*frame.columns, *columns], path)
    beside = pd.DataFrame(columns, index=frame.index)
    notes = [f"array 'x' of shape {x.shape} flattened to rows"] if x.ndim > 2 else []
    ignored = sorted(set(arrays) - set(columns) - {"x"})
    if ignored:
        notes.append(f"arrays {quoted(ignored)}: not one value per row, left out")
    frame = pd.concat([frame, beside], axis=1)
    return RawTable(frame, "y" if "y" in columns else None, tuple(notes))


def _refuse_lengths(arrays: dict[str, NDArray[np.generic]], path: Path) -> None:
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"path must be an NPZ file whose arrays have one entry per row; "
            f"{str(path)!r} has lengths {lengths}"
        )


def _refuse_duplicates(names: Sequence[str], path: Path) -> None:
    twice = [name for name, n in Counter(names).items() if n > 1 and name.strip()]
    if twice:
        raise ValueError(
            f"path must be a file whose column names differ; {str(path)!r} has "
            f"{quoted(twice)} more than once"
        )


def _unreadable(path: Path, kind: str, error: Exception) -> ValueError:
    lines = str(error).strip().splitlines()
    reason = lines[0][:LONGEST] if lines else type(error).__name__
    return ValueError(f"path must be {kind} file; {str(path)!r} is not: {reason}")
