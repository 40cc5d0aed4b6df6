"""Small tables on disk, and a quick way to load every task."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from latentroute.tasks import TASKS


def make_frame(n: int = 120, seed: int = 0) -> pd.DataFrame:
    """Every kind of column: floats, whole numbers, texts, yes/no, a constant."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "width": 100 + 5 * rng.standard_normal(n),
            "count": rng.integers(0, 1000, n),
            "colour": rng.choice(["red", "green", "blue"], n),
            "ripe": rng.random(n) < 0.5,
            "same": np.full(n, 7),
            "price": 50 * rng.standard_normal(n) + 1000,
            "grade": rng.choice(["a", "b", "c"], n),
        }
    )


def write(frame: pd.DataFrame, path: Path) -> Path:
    """The frame as a file, in the format that the suffix tells."""
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        arrays = {name: frame[name].to_numpy() for name in frame}
        np.savez(
            path,
            **{k: a.astype(str) if a.dtype == object else a for k, a in arrays.items()},
        )
    return path


@pytest.fixture
def frame() -> pd.DataFrame:
    return make_frame()


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    """table(frame_or_text, suffix) writes a file and returns its path."""

    def make(content: pd.DataFrame | str | bytes, suffix: str = ".csv") -> Path:
        path = tmp_path / f"data{suffix}"
        if isinstance(content, pd.DataFrame):
            return write(content, path)
        data = content if isinstance(content, bytes) else content.encode()
        path.write_bytes(data)
        return path

    return make


@pytest.fixture(params=list(TASKS))
def named(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, Any]]:
    """The name of each task, and the options that it cannot do without."""
    if request.param == "table":
        path = write(make_frame(), tmp_path / "data.csv")
        return "table", {"path": path, "target": "grade"}
    return request.param, {}
