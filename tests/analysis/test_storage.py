"""netCDF or Zarr and back: everything is as it was."""

import contextlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from latentroute.analysis import load, save, summary, summary_dataset


def assert_same(left, right):
    """Groups in order, variables, coordinates, dtypes and attributes."""
    xr.testing.assert_identical(left, right)
    paths = [node.path for node in left.subtree]
    assert paths == [node.path for node in right.subtree]
    for path in paths:
        a, b = (tree if path == "/" else tree[path] for tree in (left, right))
        assert list(a.children) == list(b.children)
        assert {k: v.dtype for k, v in a.variables.items()} == {
            k: v.dtype for k, v in b.variables.items()
        }
        assert {k: type(v) for k, v in a.attrs.items()} == {
            k: type(v) for k, v in b.attrs.items()
        }


FORMATS = pytest.mark.parametrize("suffix", [".nc", ".zarr"])


@FORMATS
@pytest.mark.parametrize("classes", [4, None])
def test_run(run_tree, tmp_path, classes, suffix):
    tree = run_tree(classes=classes, outputs=2, n_choices=(3, 2))
    path = save(tree, tmp_path / f"run{suffix}")
    assert path == tmp_path / f"run{suffix}"
    assert_same(tree, load(path))


def test_comparison_with_a_failure(comparison_tree, tmp_path):
    tree = comparison_tree(("z-last", "exact"), (0, 2, 10), failed=[("exact", 2)])
    table = summary(tree)
    tree["summary"] = xr.DataTree(summary_dataset(table))
    loaded = load(save(tree, tmp_path / "comparison.nc"))
    assert_same(tree, loaded)
    assert list(loaded.children) == ["z-last", "exact", "summary"]
    assert loaded["exact/seed_2"].attrs["error"] == "ValueError: loss is NaN at step 3"
    xr.testing.assert_identical(
        summary_dataset(summary(loaded)), summary_dataset(table)
    )


DTYPES = ["bool", "int8", "int16", "uint8", "int64", "float32", "float64", "<U1"]


@FORMATS
@settings(max_examples=10, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), max_size=3),
    dtype=st.sampled_from(DTYPES),
    labels=st.sampled_from([None, "text", "int"]),
    seed=st.integers(0, 9),
)
def test_any_shape_type_and_coordinate(suffix, shape, dtype, labels, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2, shape).astype(dtype)
    if values.dtype.kind == "f" and values.size:
        values.flat[0] = np.nan
    dims = [f"dim_{i}" for i in range(len(shape))]
    coords = {}
    for dim, size in zip(dims, shape, strict=True):
        if labels == "text":
            coords[dim] = np.array([f"é{'x' * i}" for i in range(size)])
        elif labels == "int":
            coords[dim] = np.arange(size, dtype=np.int16)[::-1].copy()
    group = xr.Dataset({"v": (dims, values)}, coords, attrs={"seed": seed, "half": 0.5})
    tree = xr.DataTree.from_dict({"/": xr.Dataset(), "z": group, "a/b": group})
    tree.attrs = {"flag": 1, "text": "é", "number": -1.5}
    with tempfile.TemporaryDirectory() as folder:
        assert_same(tree, load(save(tree, Path(folder) / f"tree{suffix}")))


def test_the_check_sees_another_type(run_tree, tmp_path):
    tree = run_tree()
    loaded = load(save(tree, tmp_path / "run.nc"))
    wide = loaded["posterior"].to_dataset().astype({"route": np.int64})
    loaded["posterior"] = xr.DataTree(wide)
    with pytest.raises(AssertionError):
        assert_same(tree, loaded)


@FORMATS
def test_file_can_be_replaced_and_removed_after_loading(run_tree, tmp_path, suffix):
    path = tmp_path / "a" / f"run{suffix}"
    save(run_tree(), path)
    first = load(path)
    save(run_tree(seed=1), path)
    assert load(path).attrs["seed"] == 1
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert first["posterior/route"].values.shape == (1, 7, 60, 2)
    assert os.listdir(path.parent) == []


@FORMATS
def test_a_failed_write_leaves_the_old_file(run_tree, tmp_path, suffix):
    tree = run_tree()
    path = save(tree, tmp_path / f"run{suffix}")
    broken = run_tree(seed=1)
    broken.attrs["bad"] = {"a": object()}
    with pytest.raises(TypeError):
        save(broken, path)
    assert_same(tree, load(path))
    assert os.listdir(tmp_path) == [f"run{suffix}"]


def test_another_folder_is_left_alone(run_tree, tmp_path):
    folder = tmp_path / "notes.zarr"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    for use in (lambda: save(run_tree(), folder), lambda: load(folder)):
        with pytest.raises(
            ValueError, match=r"notes\.zarr: got a folder that is no Zarr"
        ):
            use()
    assert os.listdir(folder) == ["notes.txt"]


def test_without_zarr(run_tree, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"latentroute\[zarr\]"):
        save(run_tree(), tmp_path / "run.zarr")


def test_routes_stay_small(run_tree, tmp_path):
    tree = run_tree(n=1000, draws=100, n_choices=(2, 2))
    path = save(tree, tmp_path / "run.nc")
    assert path.stat().st_size < 0.5 * sum(
        np.asarray(v.values).nbytes
        for node in tree.subtree
        for v in node.data_vars.values()
    )


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.nc: no such file"):
        load(tmp_path / "absent.nc")


def test_no_netcdf(tmp_path):
    path = tmp_path / "notes.nc"
    path.write_text("hello")
    with pytest.raises(ValueError, match=r"notes\.nc: got no netCDF file"):
        load(path)


class Evil:
    def __reduce__(self):
        return Path.touch, (Path(os.environ["MARK"]),)


@pytest.mark.parametrize("consolidated", [True, False])
def test_a_zarr_folder_that_asks_for_pickle_is_refused_unopened(
    tmp_path, monkeypatch, consolidated
):
    """An array of texts, packed by the codec `pickle` beside that of texts."""
    pickles = pytest.importorskip("numcodecs.pickles")
    monkeypatch.setattr(pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    mark = tmp_path / "mark"
    monkeypatch.setenv("MARK", str(mark))
    texts = xr.Dataset({"s": ("k", np.array(["a", "b"], dtype=object))})
    path = save(xr.DataTree.from_dict({"names": texts}), tmp_path / "evil.zarr")
    array, all_of_it = path / "names" / "s" / ".zarray", path / ".zmetadata"
    said = json.loads(array.read_text())
    said |= {"filters": [{"id": "vlen-utf8"}], "compressor": {"id": "pickle"}}
    array.write_text(json.dumps(said).replace("pickle", "p\\u0069ckle"))
    whole = json.loads(all_of_it.read_text())
    whole["metadata"]["names/s/.zarray"] = said
    if consolidated:
        all_of_it.write_text(json.dumps(whole))
    else:
        all_of_it.unlink()
    (path / "names" / "s" / "0").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="asks for pickle, refused") as error:
        load(path)
    assert "\n" not in str(error.value) and not mark.exists()
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        xr.open_datatree(path, engine="zarr").load()
    assert mark.exists(), "negative control: else it would have been run"


FULL = """
import resource, sys
import numpy as np, xarray as xr
from latentroute.analysis import save
tree = xr.DataTree.from_dict({"a": xr.Dataset({"v": ("n", np.random.rand(9999))})})
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    save(tree, sys.argv[1])
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
@FORMATS
def test_a_file_that_may_not_grow_is_one_line_and_leaves_nothing(tmp_path, suffix):
    """The kernel refuses. HDF5 itself ends the process then, by SIGSEGV."""
    path = tmp_path / f"tree{suffix}"
    words = [sys.executable, "-P", "-c", FULL, str(path), "4096"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1 and "File too large" in done.stdout
    assert f"{path} cannot be written" in done.stdout
    assert "Traceback" not in done.stderr and list(tmp_path.iterdir()) == []


def test_an_attribute_of_zarr_may_be_called_pickle(tmp_path):
    tree = xr.DataTree.from_dict({"/a": xr.Dataset({"v": ("n", [1.0, 2.0])})})
    tree.attrs["name"] = tree["a"].attrs["id"] = "pickle"
    save(tree, tmp_path / "t.zarr")
    assert load(tmp_path / "t.zarr").attrs["name"] == "pickle"
