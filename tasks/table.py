"""The user's own CSV, Parquet or NPZ file with a target column."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from .base import Split, Task, TaskSpec
from .options import (
    choice,
    did_you_mean,
    quoted,
    seed_in_range,
    texts,
    three_fractions,
    whole,
)
from .splitting import SPLITS, split_rows
from .tabular.columns import as_columns, without_missing
from .tabular.encode import Features, encode
from .tabular.read import RawTable, read_table
from .tabular.target import Target, Y, as_target, as_y

Missing = Literal["error", "drop", "impute"]
Kind = Literal["auto", "classes", "numbers"]
Standardise = Literal["all", "features", "none"]


@dataclass(frozen=True)
class Table(TaskSpec):
    """A table of one's own, from a CSV, Parquet or NPZ file, with a target column.

    CSV: UTF-8, names in the first row. Parquet: needs pyarrow
    (`pip install 'latentroute[data]'`). NPZ: an array `x` of shape (N, columns) (more
    dimensions are flattened) with a target `y` of shape (N,) beside it, or one array of
    shape (N,) per column. Pickles, also inside an NPZ file, are refused.

    The target: texts, categories and true/false values are classes; floats are numbers;
    whole numbers are classes where at most 20 different ones occur, with 5 rows each on
    average (two different ones are always classes). Classes get a categorical head and
    a stratified split; numbers a normal head with one output. The features: numbers are
    standardised by the training rows, true/false values become 1 and 0, texts are
    one-hot encoded, columns that are the same in all training rows are left out. Every
    such step stands in the task's `notes`.

    With `standardise="all"` a target of numbers is standardised too, and log densities
    are those of the standardised target; the task's `target_mean` and `target_scale`
    lead back. Infinities are refused, and missing values unless `missing` says what to
    do about them. A target is never filled in: "impute" leaves out rows without one.

    Args:
        path: The file: .csv, .parquet or .npz.
        target: Name of the target column; only an NPZ file with arrays x and y needs
            none.
        missing: "error" refuses missing values, "drop" leaves out rows that have one,
            "impute" fills in the training rows' median (numbers) or most frequent value
            (texts and true/false values).
        kind: What the target is: "classes", "numbers", or "auto" by the rule above.
        standardise: "all" numbers, those of the "features", or "none".
        exclude: Columns to leave out.
        na_values: Further texts that mean "missing" in a CSV file, such as "?".
        separator: What stands between the fields of a CSV file, one character.
        max_categories: More different texts than this in a feature are refused.
        fractions: Shares of train, valid and test, sum 1.
        seed: Fixes the split.
    """

    summary: ClassVar[str] = "your own CSV, Parquet or NPZ file with a target column"

    path: str | Path
    target: str | None = None
    missing: Missing = "error"
    kind: Kind = "auto"
    standardise: Standardise = "all"
    exclude: tuple[str, ...] = ()
    na_values: tuple[str, ...] = ()
    separator: str = ","
    max_categories: int = 50
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks every value."""
        if not isinstance(self.path, str | Path) or not str(self.path).strip():
            raise ValueError(f"path must be the path of a file; got {self.path!r}")
        if self.target is not None and not isinstance(self.target, str):
            raise ValueError(f"target must be a column name; got {self.target!r}")
        choice("missing", self.missing, get_args(Missing))
        choice("kind", self.kind, get_args(Kind))
        choice("standardise", self.standardise, get_args(Standardise))
        texts("exclude", self.exclude)
        texts("na_values", self.na_values)
        if not isinstance(self.separator, str) or len(self.separator) != 1:
            raise ValueError(f"separator must be one character; got {self.separator!r}")
        whole("max_categories", self.max_categories, 2)
        three_fractions(self.fractions)
        seed_in_range(self.seed)

    def load(self) -> Task:
        """Reads the file, encodes it and splits it.

        Raises:
            FileNotFoundError: No such file.
            ValueError: The file or the target can't be used; one line says why.
            ImportError: A Parquet file, and pyarrow isn't installed.
        """
        path = Path(self.path).expanduser()
        raw = read_table(path, separator=self.separator, na_values=self.na_values)
        name = self._target_name(raw)
        frame = raw.frame.drop(columns=list(self.exclude))
        columns, row_notes = without_missing(as_columns(frame), name, self.missing)
        target = as_target(next(c for c in columns if c.name == name), self.kind)
        rows = split_rows(
            len(target.values), self.fractions, seed=self.seed, classes=target.strata
        )
        features = encode(
            [c for c in columns if c.name != name],
            rows[0],
            standardise=self.standardise != "none",
            max_categories=self.max_categories,
        )
        y = as_y(target, rows[0], standardise=self.standardise == "all")
        sizes = zip(SPLITS, map(len, rows), strict=True)
        how = "stratified by class" if target.class_names else "at random"
        rows_note = f"rows: {', '.join(f'{k} {n}' for k, n in sizes)}, split {how}"
        notes = (*raw.notes, *row_notes, rows_note, target.note, *y.notes)
        return self._task(path, target, features, y, rows, (*notes, *features.notes))

    def _task(
        self,
        path: Path,
        target: Target,
        features: Features,
        y: Y,
        rows: tuple[NDArray[np.int64], ...],
        notes: tuple[str, ...],
    ) -> Task:
        inputs = torch.from_numpy(features.x)
        targets = torch.from_numpy(y.values)
        train, valid, test = (Split(inputs[part], targets[part]) for part in rows)
        return Task(
            name="table",
            train=train,
            valid=valid,
            test=test,
            head="categorical" if target.class_names else "normal",
            out_features=len(target.class_names) or 1,
            description=f"column {target.name!r} of {path.name!r}, from the others",
            notes=notes,
            network={"n_layers": 2, "n_modules": 4, "hidden_features": 32},
            class_names=target.class_names,
            feature_names=features.names,
            target_mean=y.mean,
            target_scale=y.scale,
        )

    def _target_name(self, raw: RawTable) -> str:
        """The target's name, once it and `exclude` are known to be columns."""
        names = [str(name) for name in raw.frame.columns]
        target = raw.default_target if self.target is None else self.target
        asked = [("target", target), *(("exclude", name) for name in self.exclude)]
        for argument, name in asked:
            if name not in names:
                hint = did_you_mean(name, names)
                if len(names) == 1 and not hint:
                    hint = "; is the separator another one? separator=';'"
                raise ValueError(
                    f"{argument} must be a column of {str(self.path)!r}: "
                    f"{quoted(names, limit=20)}; got {name!r}{hint}"
                )
        if target is None or target in self.exclude:
            raise ValueError(f"exclude must not name the target; got {target!r}")
        return target
