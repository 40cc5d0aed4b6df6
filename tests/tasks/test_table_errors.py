"""Everything that can be wrong with a user's file gets one clear line."""

import io
import pickle
import zipfile
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from latentroute.tasks import load

ROWS = "".join(f"{i},{i % 2},{'pq'[i % 2]}\n" for i in range(30))
GOOD = "a,b,y\n" + ROWS


def fails(match: str, error: type[Exception] = ValueError, **options) -> None:
    with pytest.raises(error, match=match) as caught:
        load("table", **options)
    assert "\n" not in str(caught.value)
    assert type(caught.value) is error


def test_the_good_file_is_good(table):
    """Negative control of all the tests below."""
    assert load("table", path=table(GOOD), target="y").in_features == 2


CSV = {
    "empty": ("", r"^path must be a file with data; '.*data\.csv' is empty$"),
    "blank": ("\n\n", "path must be a CSV file; .* No columns"),
    "header only": ("a,b,y\n", r"data\.csv' has no rows"),
    "duplicate": ("a,a,y\n" + ROWS, r"column names differ; .* has 'a' more than once"),
    "not utf-8": (GOOD.encode() + b"1,2,\xff\n", r"CSV file in UTF-8; .*0xff.*save it"),
    "ragged": (GOOD + "1,2,p,4\n", "path must be a CSV file; .*Expected 3 fields"),
    "wide rows": ("a,y\n" + ROWS, "as many fields .* 2 names and 3 fields in a row"),
    "nameless": ("a,,y\n" + ROWS, "columns all have names; .*none for column 2"),
    "nameless first": (",b,y\n" + "5,5,p\n5,6,q\n", "none for column 1"),
    "quote": ('a,b,y\n"1,2,p\n', "path must be a CSV file"),
    "no target": (GOOD.replace("y", "z", 1), "^target must be a column .*'z'; got 'y'"),
    "separator": (GOOD.replace(",", ";"), "got 'y'; is the separator another one"),
    "target alone": ("y\n" + "p\nq\n" * 10, "no feature is left.*beside the target"),
    "constant": ("a,y\n" + "1,p\n1,q\n" * 10, "no feature is left: columns 'a'"),
    "one class": (GOOD.replace("q\n", "p\n"), "two different values; got only 'p'"),
    "few rows": ("a,y\n1,p\n2,q\n3,p\n4,q\n", None),
    "no rows for a split": (
        "a,y\n1,p\n2,q\n3,p\n",
        "no row for valid out of 3|too many",
    ),
    "ids as classes": (
        "a,y\n" + "".join(f"{i},n{i}\n" for i in range(30)),
        "target 'y' has 30 different values in 30 rows, too many for classes$",
    ),
    "marks in the target": (
        "a,y\n" + "".join(f"{i},{i if i else '?'}\n" for i in range(30)),
        r"too many for classes: '\?' among numbers; na_values=",
    ),
    "infinite": (
        GOOD + "inf,0,p\n-inf,0,q\n",
        r"^values must be finite.*'a' \(2\) \(how many\)",
    ),
    "too large": (GOOD + "1e39,0,p\n", r"at most 3\.4e38 in size.*'a' \(1\)"),
    "missing": (GOOD + ",0,p\n", r"refuses missing values; got 'a' \(1\) of 31 rows"),
    "missing target": (GOOD + "1,0,\n", r"refuses missing values; got 'y' \(1\)"),
}


@pytest.mark.parametrize(("content", "message"), CSV.values(), ids=CSV)
def test_csv(table, content, message):
    if message is None:
        options = {"fractions": (0.5, 0.25, 0.25)}
        assert load("table", path=table(content), target="y", **options)
        return
    fails(message, path=table(content), target="y")


def test_no_row_left(table):
    path = table("a,b,y\n" + "1,,p\n2,,q\n" * 10)
    fails(
        r"missing='drop' leaves no row: missing values in 'b' \(20\) of 20 rows",
        path=path,
        target="y",
        missing="drop",
    )


def test_infinity_in_the_target(table):
    frame = pd.DataFrame({"a": np.arange(30.0), "y": np.arange(30.0)})
    frame.loc[3, "y"] = np.inf
    for suffix in (".csv", ".parquet", ".npz"):
        fails(
            r"values must be finite.*'y' \(1\)", path=table(frame, suffix), target="y"
        )


def test_a_value_that_standardising_makes_infinite(table):
    frame = pd.DataFrame({"a": np.arange(30) * 1e-30, "y": np.arange(30.0)})
    frame["same"] = frame["a"]
    kept = load("table", path=table(frame), target="y", standardise="none").test
    row = int(frame["a"].sub(float(kept.x[0, 0])).abs().argmin())
    frame.loc[row, "a"] = 1e30
    fails("x of test of task 'table' must be finite", path=table(frame), target="y")


def test_constant_numbers_as_target(table):
    path = table("a,y\n" + "".join(f"{i},2.5\n" for i in range(30)))
    fails(r"two different values; got only '2\.5'", path=path, target="y")


def test_numbers_that_differ_in_no_training_row(table):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.standard_normal(30), "y": np.arange(30.0)})
    test = load("table", path=table(frame), target="y", standardise="none").test
    frame["y"] = (frame["y"] == float(test.y[0, 0])).astype(float)
    fails(
        "target 'y' must differ between training rows; got 0 in all 22",
        path=table(frame),
        target="y",
    )


def test_texts_as_numbers(table):
    fails(
        "target 'y' must hold numbers for kind='numbers'; got texts such as 'p', 'q'",
        path=table(GOOD),
        target="y",
        kind="numbers",
    )


def test_too_many_categories(table):
    rows = "".join(f"name{i},city{i},{i % 2}\n" for i in range(60))
    fails(
        r"at most max_categories=50 different values; got 'who' \(60 values\), "
        r"'where' \(60 values\): exclude=",
        path=table("who,where,y\n" + rows),
        target="y",
    )


# --- the path itself ---


def test_missing_file(tmp_path):
    fails("path must be an existing file", FileNotFoundError, path=tmp_path / "no.csv")


def test_directory(tmp_path):
    (tmp_path / "d.csv").mkdir()
    fails("path must be a file; got the directory", path=tmp_path / "d.csv")
    fails("path must be a file; got the directory", path=tmp_path)


@pytest.mark.parametrize("suffix", [".xlsx", ".txt", ""])
def test_unknown_suffix(table, suffix):
    fails(
        r"path must end in '\.csv', '\.parquet', '\.npz'; got", path=table(GOOD, suffix)
    )


@pytest.mark.parametrize("suffix", [".pkl", ".pickle", ".pt"])
def test_pickles_are_refused(table, suffix):
    fails("pickles are refused", path=table(pickle.dumps([1]), suffix), target="y")


@pytest.mark.parametrize("path", ["", " ", 3, None])
def test_no_path(path):
    fails("path must be the path of a file; got", path=path)


# --- options ---

OPTIONS = {
    "target none": ({}, "target must be a column of .*'a', 'b', 'y'; got None"),
    "target type": ({"target": 2}, "target must be a column name; got 2"),
    "target near": ({"target": "Y"}, "target must be a column"),
    "exclude unknown": ({"exclude": ("c",)}, "exclude must be a column of .*got 'c'"),
    "exclude target": (
        {"exclude": ("y",)},
        "exclude must not name the target; got 'y'",
    ),
    "exclude text": ({"exclude": "ab"}, "exclude must be a list of texts; got 'ab'"),
    "missing": ({"missing": "imput"}, "'error', 'drop', 'impute'; .*mean 'impute'"),
    "kind": ({"kind": "class"}, "kind must be one of 'auto', 'classes', 'numbers'"),
    "standardise": ({"standardise": True}, "standardise must be one of .*got True"),
    "separator": ({"separator": ";;"}, "separator must be one character; got ';;'"),
    "max": ({"max_categories": 1}, "max_categories must be a whole number 2 or more"),
    "fractions": ({"fractions": (0.9, 0.05)}, "fractions must be three"),
}


@pytest.mark.parametrize(("options", "message"), OPTIONS.values(), ids=OPTIONS)
def test_options(table, options, message):
    given = {"target": "y"} | options if options else {}
    fails(message, path=table(GOOD), **given)


# --- Parquet ---


def test_parquet_without_its_package(table, monkeypatch):
    monkeypatch.setattr(
        "latentroute.tasks.tabular.read.find_spec",
        lambda name: None if name == "pyarrow" else find_spec(name),
    )
    fails(
        r"a Parquet file needs the package pyarrow: .*latentroute\[data\]",
        ImportError,
        path=table(GOOD, ".parquet"),
        target="y",
    )


def test_broken_parquet(table):
    fails("path must be a Parquet file; .* is not:", path=table(GOOD, ".parquet"))


def test_parquet_with_two_columns_of_one_name(tmp_path):
    path = tmp_path / "d.parquet"
    column = pa.array(range(9))
    pa.parquet.write_table(pa.table([column, column], names=["a", "a"]), path)
    fails("column names differ; .* has 'a' more than once", path=path, target="a")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pd.date_range("2020-01-01", periods=30), "datetime64"),
        ([[i] for i in range(30)], "mixed"),
        ([b"x"] * 30, "bytes"),
    ],
    ids=["dates", "lists", "bytes"],
)
def test_parquet_with_columns_of_other_kinds(table, values, kind):
    frame = pd.DataFrame({"a": range(30), "odd": values, "y": [0, 1] * 15})
    path = table(frame, ".parquet")
    fails(
        rf"columns must hold numbers, .*'odd' \({kind}\).*exclude=",
        path=path,
        target="y",
    )
    assert load("table", path=path, target="y", exclude=("odd",)).in_features == 1


# --- NPZ ---

x = np.arange(60.0).reshape(30, 2)
y = np.arange(30) % 2
NPZ = {
    "objects": (
        {"x": x, "y": y.astype(object)},
        r"Python objects \(pickles\), refused",
    ),
    "lengths": ({"x": x, "y": y[:9]}, r"one entry per row; .*'x': 30, 'y': 9"),
    "column lengths": ({"a": y, "y": y[:9]}, r"one entry per row; .*'a': 30, 'y': 9"),
    "scalar": ({"x": x, "y": y, "n": np.array(3)}, "has single values: 'n'"),
    "wide target": ({"x": x, "y": x}, r"'y' .*\(N,\) or \(N, 1\); got \(30, 2\)"),
    "no x": ({"z": x, "y": y}, r"an array 'x' .* has \{'z': \(30, 2\)\}"),
    "no target": ({"x": x, "label": y}, "target must be a column .*'label'; got None"),
    "complex": ({"x": x * 1j, "y": y}, r"'x0' \(complex\)"),
    "bytes": ({"a": y, "b": y.astype("S"), "y": y}, r"'b' \(bytes\)"),
    "nan": ({"x": np.where(x == 4, np.nan, x), "y": y}, r"got 'x0' \(1\) of 30 rows"),
    "nothing": ({}, "of arrays alone; .* has nothing"),
    "no rows": ({"x": x[:0], "y": y[:0]}, "has no rows"),
    "same name": ({"x": x, "x1": y, "y": y}, "has 'x1' more than once"),
}


@pytest.mark.parametrize(("arrays", "message"), NPZ.values(), ids=NPZ)
def test_npz(tmp_path, arrays, message):
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    options = {} if "None" in message else {"target": "y"}
    fails(message, path=path, **options)


def as_bytes(**arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def test_damaged_npz(table):
    data = bytearray(as_bytes(x=x, y=y))
    data[200] ^= 255
    path = table(bytes(data), ".npz")
    fails("path must be an NPZ file; .* is not: Bad CRC", path=path, target="y")


def test_npz_with_a_member_that_is_no_array(table):
    path = table(as_bytes(x=x, y=y), ".npz")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("read.me", "hello")
    fails("NPZ file of arrays alone; .* has 'read.me'", path=path, target="y")


@pytest.mark.parametrize(
    "data",
    [b"PK\x03\x04 nothing", b"\x93NUMPY nothing", GOOD.encode(), pickle.dumps([1])],
    ids=["cut", "npy", "text", "pickle"],
)
def test_no_npz(table, data):
    fails(
        "path must be an NPZ file, as numpy.savez writes; .* is none",
        path=table(data, ".npz"),
        target="y",
    )
