"""The user's own file: formats, target, encoding, missing values."""

import decimal

import numpy as np
import pandas as pd
import pytest
import torch

from latentroute.tasks import load

SUFFIXES = [".csv", ".parquet", ".npz"]


def notes(task) -> str:
    return "\n".join(task.notes)


# --- formats ---


@pytest.mark.parametrize("target", ["grade", "price", "count", "ripe"])
def test_every_format_gives_the_same_task(frame, table, target):
    first, *others = (
        load("table", path=table(frame, suffix), target=target) for suffix in SUFFIXES
    )
    for other in others:
        for a, b in zip(first.splits.values(), other.splits.values(), strict=True):
            assert torch.equal(a.x, b.x)
            assert torch.equal(a.y, b.y)
        assert other.notes == first.notes
        assert other.feature_names == first.feature_names
        assert other.class_names == first.class_names
        assert other.target_scale == first.target_scale


def test_npz_matrix_with_its_target(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((60, 4)), rng.integers(0, 3, 60)
    np.savez(tmp_path / "a.npz", x=x, y=y)
    task = load("table", path=tmp_path / "a.npz", standardise="none", seed=1)
    assert task.feature_names == ("x0", "x1", "x2", "x3")
    known = {row.tobytes(): label for row, label in zip(x.astype("f4"), y, strict=True)}
    for split in task.splits.values():
        assert [known[row.tobytes()] for row in split.x.numpy()] == split.y.tolist()


def test_npz_images_are_flattened_and_other_arrays_left_out(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, (40, 3, 2)).astype(np.uint8)
    label = rng.integers(0, 2, (40, 1))
    np.savez(tmp_path / "a.npz", x=x, label=label, mask=np.zeros((2, 2)))
    task = load("table", path=tmp_path / "a.npz", target="label")
    assert task.in_features == 6
    assert "array 'x' of shape (40, 3, 2) flattened" in notes(task)
    assert "'mask'" in notes(task)


def test_csv_from_a_spreadsheet(table):
    rows = "".join(f"{i % 7};x{i % 2};{i % 3}\r\n" for i in range(30))
    data = b"\xef\xbb\xbfa;b;c\r\n" + rows.encode()
    task = load("table", path=table(data), target="c", separator=";")
    assert task.feature_names == ("a", "b=x0", "b=x1")


def test_row_numbers_without_a_name_are_left_out(frame, table):
    task = load("table", path=table(frame.to_csv()), target="grade")
    plain = load("table", path=table(frame), target="grade")
    assert torch.equal(task.train.x, plain.train.x)
    assert "first column has no name and counts the rows: left out" in notes(task)


def test_parquet_index_is_no_feature(frame, table):
    indexed = frame.set_index("count")
    task = load("table", path=table(indexed, ".parquet"), target="grade")
    assert "count" not in task.feature_names


def test_parquet_categories_and_decimals(frame, table):
    frame["colour"] = frame["colour"].astype("category")
    frame["cost"] = [decimal.Decimal(i) / 4 for i in range(len(frame))]
    task = load("table", path=table(frame, ".parquet"), target="colour")
    assert task.class_names == ("blue", "green", "red")
    assert "cost" in task.feature_names


def test_upper_case_suffix(frame, table):
    assert load("table", path=str(table(frame.to_csv(), ".CSV")), target="grade")


# --- target ---


@pytest.mark.parametrize(
    ("column", "head", "names"),
    [
        (["no", "yes"] * 30, "categorical", ("no", "yes")),
        ([True, False] * 30, "categorical", ("False", "True")),
        ([3, 1, 2] * 20, "categorical", ("1", "2", "3")),
        ([10, 9, 100] * 20, "categorical", ("9", "10", "100")),
        (list(range(60)), "normal", ()),
        (list(range(20)) * 3, "normal", ()),
        (list(range(20)) * 5, "categorical", tuple(map(str, range(20)))),
        (list(range(21)) * 5, "normal", ()),
        ([0.0, 1.0] * 30, "normal", ()),
        ([0.5, 1.5] * 30, "normal", ()),
    ],
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_classes_or_numbers(table, column, head, names, suffix):
    frame = pd.DataFrame({"a": np.arange(len(column)) ** 2, "y": column})
    task = load("table", path=table(frame, suffix), target="y")
    assert task.head == head
    assert task.class_names == names
    assert task.out_features == max(1, len(names))
    assert "target 'y' taken as" in notes(task)


def test_kind_overrides(frame, table):
    path = table(frame)
    numbers = load("table", path=path, target="ripe", kind="numbers")
    assert numbers.head == "normal"
    frame["half"] = [0.5, 1.5] * 60
    classes = load("table", path=table(frame), target="half", kind="classes")
    assert classes.class_names == ("0.5", "1.5")


def test_the_cure_is_said(frame, table):
    path = table(frame)
    assert "kind='classes' overrides" in notes(load("table", path=path, target="price"))
    assert "kind='numbers' overrides" in notes(load("table", path=path, target="ripe"))
    assert "overrides" not in notes(load("table", path=path, target="grade"))


def test_numbers_lead_back_to_the_file(frame, table):
    task = load("table", path=table(frame), target="price")
    y = torch.cat([split.y for split in task.splits.values()]).double()
    back = y * task.target_scale[0] + task.target_mean[0]
    expected = np.sort(frame["price"].to_numpy())
    np.testing.assert_allclose(np.sort(back[:, 0].numpy()), expected, rtol=1e-6)
    assert abs(task.train.y.mean()) < 1e-5
    assert abs(task.train.y.std(correction=0) - 1) < 1e-5
    assert "log densities are of the standardised target" in notes(task)


@pytest.mark.parametrize("standardise", ["features", "none"])
def test_target_as_it_is(frame, table, standardise):
    task = load("table", path=table(frame), target="price", standardise=standardise)
    assert task.target_mean == task.target_scale == ()
    assert task.train.y.mean() > 900


# --- features ---


def test_encoding(frame, table):
    task = load("table", path=table(frame), target="grade")
    assert task.feature_names == (
        "width",
        "count",
        "colour=blue",
        "colour=green",
        "colour=red",
        "ripe",
        "price",
    )
    x = task.train.x
    numbers = x[:, [0, 1, 6]]
    torch.testing.assert_close(numbers.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(numbers.std(0, correction=0), torch.ones(3))
    assert torch.equal(x[:, 2:5].sum(1), torch.ones(len(x)))
    assert set(x[:, 5].tolist()) == {0.0, 1.0}
    for part in (
        "texts, one-hot encoded: 'colour' (3 values)",
        "yes/no values as 1 and 0: 'ripe'",
        "left out, the same in all training rows: 'same'",
        "standardised by the training rows: 'width', 'count', 'price'",
        "train 84, valid 18, test 18, split stratified by class",
    ):
        assert part in notes(task)


def test_nothing_is_learned_from_the_test_rows(table):
    """The training rows' encoding stays when values of other rows change."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.standard_normal(60), "y": rng.standard_normal(60)})
    before = load("table", path=table(frame), target="y", standardise="none")
    is_train = frame["a"].astype("f4").isin(before.train.x[:, 0].tolist())
    first = load("table", path=table(frame), target="y")
    frame.loc[~is_train, "a"] += 1000
    frame.loc[~is_train, "y"] -= 1000
    second = load("table", path=table(frame), target="y")
    assert torch.equal(first.train.x, second.train.x)
    assert torch.equal(first.train.y, second.train.y)
    assert second.test.x.min() > 100


def test_a_text_that_no_training_row_has(table):
    rows = [{"a": i, "b": "known" if i % 2 else "other", "y": i / 3} for i in range(40)]
    probe = load(
        "table", path=table(pd.DataFrame(rows)), target="y", standardise="none"
    )
    row = int(probe.test.x[0, 0])
    rows[row]["b"] = "new"
    task = load("table", path=table(pd.DataFrame(rows)), target="y")
    assert task.feature_names == ("a", "b=known", "b=other")
    assert task.test.x[0, 1:].tolist() == [0.0, 0.0]
    assert "zeros for texts that no training row has: 'b'" in notes(task)


def test_a_class_that_only_the_test_rows_have(table, monkeypatch):
    """It keeps its place among the classes, and is said."""
    frame = pd.DataFrame({"a": np.arange(40.0), "y": ["p", "q"] * 20})
    frame.loc[7, "y"] = "z"
    path = table(frame)
    rest = np.array([i for i in range(40) if i != 7])
    parts = (rest[:25], rest[25:30], np.append(rest[30:], 7))
    monkeypatch.setattr("latentroute.tasks.table.split_rows", lambda *_, **__: parts)
    task = load("table", path=path, target="y")
    assert task.class_names == ("p", "q", "z")
    assert task.test.y.max() == 2
    assert task.train.y.max() == 1
    assert "classes without a training row" in notes(task)


@pytest.mark.parametrize("seed", range(5))
def test_a_class_of_one_row_goes_to_train(table, seed):
    frame = pd.DataFrame({"a": np.arange(40.0), "y": ["p", "q"] * 20})
    frame.loc[7, "y"] = "z"
    task = load("table", path=table(frame), target="y", seed=seed)
    assert 2 in task.train.y


def test_exclude(frame, table):
    task = load("table", path=table(frame), target="grade", exclude=("count", "colour"))
    assert task.feature_names == ("width", "ripe", "price")


def test_large_numbers_keep_their_differences(table):
    """Float32 has no room for 1.6e9 seconds; standardising first keeps them apart."""
    seconds = 1_600_000_000 + np.arange(60)
    frame = pd.DataFrame({"t": seconds, "y": np.arange(60.0)})
    task = load("table", path=table(frame), target="y")
    assert len(task.train.x.unique()) == len(task.train.x)


# --- missing values ---


@pytest.fixture
def holes(frame):
    frame = frame.astype({"count": "Int64", "ripe": "boolean"})
    frame.loc[[0, 1, 2], "width"] = np.nan
    frame.loc[[2, 3], "colour"] = None
    frame.loc[[4], "count"] = pd.NA
    frame.loc[[5], "ripe"] = pd.NA
    return frame


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_missing_values_are_refused_by_default(holes, table, suffix):
    message = (
        r"missing='error' refuses missing values; got 'width' \(3\), 'count' \(1\), "
        r"'colour' \(2\), 'ripe' \(1\) of 120 rows: missing='drop' .*missing='impute'"
    )
    with pytest.raises(ValueError, match=message):
        load("table", path=table(holes, suffix), target="grade")


def test_drop(holes, table):
    task = load("table", path=table(holes), target="grade", missing="drop")
    assert sum(len(split.y) for split in task.splits.values()) == 114
    assert "6 of 120 rows left out: a missing value" in notes(task)
    kept = holes.dropna()
    twin = load("table", path=table(kept, ".parquet"), target="grade")
    assert torch.equal(task.train.x, twin.train.x)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_impute(holes, table, suffix):
    path = table(holes, suffix)
    task = load(
        "table", path=path, target="grade", missing="impute", standardise="none"
    )
    assert sum(len(split.y) for split in task.splits.values()) == 120
    assert "missing values filled in from the training rows" in notes(task)
    width = torch.cat([split.x[:, 0] for split in task.splits.values()]).numpy()
    known = holes["width"].dropna().to_numpy().astype("f4")
    filled = [value for value in width if value not in known]
    assert len(filled) in (0, 3)
    if filled:
        in_train = [v for v in task.train.x[:, 0].numpy() if v in known]
        assert filled == pytest.approx([np.median(in_train)] * 3)


def test_the_target_is_never_filled_in(holes, table):
    holes.loc[[10, 11], "grade"] = None
    task = load("table", path=table(holes), target="grade", missing="impute")
    assert sum(len(split.y) for split in task.splits.values()) == 118
    assert "2 of 120 rows left out: no target 'grade'" in notes(task)


def test_whole_numbers_with_gaps_stay_whole(table):
    frame = pd.DataFrame({"a": np.arange(60.0), "y": [0, 1, 2] * 20}, dtype="Int64")
    frame.loc[4, "y"] = pd.NA
    task = load("table", path=table(frame), target="y", missing="drop")
    assert task.class_names == ("0", "1", "2")


def test_a_column_without_any_value_is_left_out_when_imputing(frame, table):
    frame["empty"] = np.nan
    task = load("table", path=table(frame), target="grade", missing="impute")
    assert "empty" not in task.feature_names


def test_na_values(frame, table):
    frame["w"] = frame["width"].round(3).astype(str)
    frame.loc[::10, "w"] = "?"
    path = table(frame)
    with pytest.raises(
        ValueError, match=r"'w' \(\d+ values, numbers but for '\?'\).*na_values="
    ):
        load("table", path=path, target="grade")
    task = load("table", path=path, target="grade", na_values=("?",), missing="drop")
    assert "w" in task.feature_names


def test_marks_among_few_numbers_are_said(frame, table):
    frame["w"] = np.resize(["0", "1", "2", "?"], len(frame))
    task = load("table", path=table(frame), target="grade")
    assert "texts because of a few values among numbers" in notes(task)
    assert "'w' ('?')" in notes(task)
