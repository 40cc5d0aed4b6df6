"""netCDF and back: everything is as it was."""

import os

import numpy as np
import pytest
import xarray as xr

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


@pytest.mark.parametrize("classes", [4, None])
def test_run(run_tree, tmp_path, classes):
    tree = run_tree(classes=classes, outputs=2, n_choices=(3, 2))
    path = save(tree, tmp_path / "run.nc")
    assert path == tmp_path / "run.nc"
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


def test_file_can_be_replaced_and_removed_after_loading(run_tree, tmp_path):
    path = tmp_path / "a" / "run.nc"
    save(run_tree(), path)
    first = load(path)
    save(run_tree(seed=1), path)
    assert load(path).attrs["seed"] == 1
    path.unlink()
    assert first["posterior/route"].values.shape == (1, 7, 60, 2)
    assert os.listdir(path.parent) == []


def test_a_failed_write_leaves_the_old_file(run_tree, tmp_path):
    path = save(run_tree(), tmp_path / "run.nc")
    before = path.read_bytes()
    broken = run_tree(seed=1)
    broken.attrs["bad"] = {"a": object()}
    with pytest.raises(TypeError):
        save(broken, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["run.nc"]


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
