"""Lengths in an HDF5 file that cannot be are refused before the library meets them."""

import struct
import tracemalloc

import h5py
import numpy as np
import pytest
import xarray as xr

from latentroute.analysis import load, save
from latentroute.analysis.hdf5 import check_lengths

HEAP = b"GCOL\x01\x00\x00\x00"


@pytest.fixture
def good(tmp_path):
    texts = xr.Dataset(coords={"site": np.array(["a", "bé", "c" * 40], dtype=object)})
    tree = xr.DataTree.from_dict({"data": texts})
    tree.attrs = {"task": "é" * 300, "seed": 3}
    return save(tree, tmp_path / "good.nc")


def changed(path, at, value):
    data = bytearray(path.read_bytes())
    data[at : at + len(value)] = value
    path.write_bytes(data)
    return path


def values_of(path):
    with h5py.File(path) as file:
        return file["data/site"].id.get_offset()


def test_good_files_pass(good, tmp_path):
    check_lengths(good)
    text = h5py.string_dtype()
    with h5py.File(tmp_path / "many.nc", "w") as file:
        file["texts"] = np.array(["x" * (i % 97) for i in range(5000)], dtype=object)
        file.create_dataset("empty", (0,), dtype=text)
        file.create_dataset("never_written", (7,), dtype=text)
        chunked = file.create_dataset("chunked", (10,), dtype=text, chunks=(4,))
        chunked[:] = "some text"
        packed = {"chunks": (4,), "compression": "gzip"}
        file.create_dataset("packed", (10,), dtype=text, **packed)[:] = "text"
        file.create_dataset("numbers", (2,), dtype=h5py.vlen_dtype(np.int32))[0] = [1]
        file["compact"] = "one text"
        file["fixed"] = np.array([b"a", b"GCOL"])
    check_lengths(tmp_path / "many.nc")


def test_a_heap_that_turns_in_a_circle_is_refused(good):
    """The rest of a heap with length 0: HDF5 2.0 reads it for ever."""
    at = good.read_bytes().index(HEAP) + 16
    changed(good, at, struct.pack("<HHIQ", 0, 0, 0, 0))
    with pytest.raises(ValueError, match=r"got no netCDF file .* heap at byte \d+ is"):
        load(good)


@pytest.mark.parametrize("length", [1, 2**40, 2**64 - 8])
def test_a_heap_whose_values_do_not_fit_is_refused(good, length):
    at = good.read_bytes().index(HEAP) + 16 + 8
    changed(good, at, struct.pack("<Q", length))
    with pytest.raises(ValueError, match="heap at byte"):
        check_lengths(good)


def test_a_heap_larger_than_the_file_is_refused(good):
    changed(good, good.read_bytes().index(HEAP) + 8, struct.pack("<Q", 2**62))
    with pytest.raises(ValueError, match="larger than the file"):
        check_lengths(good)


def test_a_text_longer_than_the_file_is_refused(good, tmp_path):
    """HDF5 would reserve 2 GB for it."""
    changed(good, values_of(good), struct.pack("<I", 2**31))
    with pytest.raises(ValueError, match="a value of /data/site is longer than"):
        load(good)
    path = tmp_path / "chunked.nc"
    with h5py.File(path, "w") as file:
        texts = file.create_dataset("t", (4,), dtype=h5py.string_dtype(), chunks=(2,))
        texts[:] = "text"
        at = texts.id.get_chunk_info(1).byte_offset
    changed(path, at + 16, struct.pack("<I", 2**31))
    with pytest.raises(ValueError, match="a value of /t is longer than the file"):
        check_lengths(path)


def test_a_large_file_is_not_copied(tmp_path):
    path = tmp_path / "large.nc"
    with h5py.File(path, "w") as file:
        file["numbers"] = np.zeros(2**22)  # 32 MiB
    tracemalloc.start()
    check_lengths(path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
