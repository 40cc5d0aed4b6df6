"""Tables that are strange and right: any writing, and very many rows."""

import numpy as np
import pandas as pd
import pytest

from latentroute.tasks import load

WRITINGS = ["Größe", "温度", "درجة", "🌡️", "e\u0301", "a\u200bb", "x\u2028y", "</b>"]


@pytest.mark.parametrize("name", WRITINGS)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_names_and_texts_in_any_writing(table, name, suffix):
    frame = pd.DataFrame({name: [1.0, 2.0, 3.0] * 10, "y": [f"{name}!", "b"] * 15})
    task = load("table", path=table(frame, suffix), target="y")
    assert task.feature_names == (name,)
    assert set(task.class_names) == {f"{name}!", "b"}


def test_a_file_whose_own_name_is_in_another_writing(tmp_path):
    path = tmp_path / "数据 é '.csv"
    pd.DataFrame({"a": range(30), "y": [0, 1] * 15}).to_csv(path, index=False)
    assert load("table", path=path, target="y").in_features == 1


def test_many_rows(table):
    n = 200_000
    values = np.random.default_rng(0).integers(0, 1000, n)
    frame = pd.DataFrame({"a": values, "y": values % 2})
    task = load("table", path=table(frame), target="y")
    assert len(task.train.x) + len(task.valid.x) + len(task.test.x) == n


def test_many_columns(table):
    frame = pd.DataFrame(np.arange(30 * 1500).reshape(30, 1500)).rename(columns=str)
    task = load("table", path=table(frame.assign(y=[0, 1] * 15)), target="y")
    assert task.in_features == 1500


@pytest.mark.parametrize("text", ["a" * 200_000 + ",y\n1,2\n", "\x00" * 100_000])
def test_a_cell_without_end_is_one_line(table, text):
    with pytest.raises(ValueError) as caught:
        load("table", path=table(text), target="y")
    said = str(caught.value)
    assert "\n" not in said and len(said) < 1000
