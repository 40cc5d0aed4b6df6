"""What the HDF5 library takes on trust in a file, looked at before it does.

It reads damaged headers as errors, by their checksums. Texts and other values of any
length have none: a wrong length there makes it reserve gigabytes, or turn in a circle,
in C, where Python cannot stop it.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

_HEAP: Final = re.compile(rb"GCOL\x01\x00\x00\x00")  # where values of any length are
_HEAP_HEADER: Final = 16  # bytes: signature, version, size
_OBJECT: Final = struct.Struct("<HHIQ")  # index, references, nothing, size
_VALUE: Final = np.dtype([("length", "<u4"), ("heap", "<u8"), ("index", "<u4")])


def check_lengths(path: Path) -> None:
    """Refuse a file whose values of any length cannot be as they say.

    Looks at the heaps that hold them, and at datasets whose bytes are plain in the
    file; not at compressed ones. Cost: the file is read once, nothing is copied.

    Raises:
        ValueError: Where one is damaged.
        OSError: If it is no HDF5 file.

    References:
        HDF5 File Format Specification 3.0, III.E (global heap).
    """
    import h5py

    with h5py.File(path, "r") as file:
        if file.id.get_create_plist().get_sizes() != (8, 8):
            return
        texts: list[Any] = []
        file.visititems(lambda _, item: texts.append(item) if _varies(item) else None)
        with (
            path.open("rb") as opened,
            mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            for found in _HEAP.finditer(data):
                _check_heap(data, found.start())
            for text in texts:
                _check_values(data, text)


def _varies(item: Any) -> bool:
    """Whether it is a dataset of values of any length."""
    import h5py

    if not isinstance(item, h5py.Dataset):
        return False
    string = h5py.check_string_dtype(item.dtype)
    if string is not None:
        return string.length is None
    return h5py.check_vlen_dtype(item.dtype) is not None


def _check_heap(data: mmap.mmap, start: int) -> None:
    """Go from value to value to the end of a heap."""
    (size,) = struct.unpack_from("<Q", data, start + _HEAP_HEADER - 8)
    at, end = start + _HEAP_HEADER, start + size
    if end > len(data):
        raise ValueError(f"the heap at byte {start} is larger than the file")
    while end - at >= _OBJECT.size:
        index, _, _, length = _OBJECT.unpack_from(data, at)
        # The rest of a heap has index 0 and a length that counts its own header.
        step = _OBJECT.size + -(-length // 8) * 8 if index else length
        if not _OBJECT.size <= step <= end - at:
            raise ValueError(f"the heap at byte {start} is damaged at byte {at}")
        at += step


def _check_values(data: mmap.mmap, dataset: Any) -> None:
    """See that no value is longer than the file."""
    for start, size in _places(dataset):
        if start + size > len(data):
            continue  # HDF5 sees that itself
        values = np.frombuffer(data[start : start + size - size % 16], _VALUE)
        if (values["length"] > len(data)).any():
            raise ValueError(f"a value of {dataset.name} is longer than the file")


def _places(dataset: Any) -> Iterator[tuple[int, int]]:
    """Where a dataset's bytes are in the file, as they are: offset and size."""
    own = dataset.id
    offset = own.get_offset()
    if offset is not None:
        yield offset, own.get_storage_size()
    elif dataset.chunks and not own.get_create_plist().get_nfilters():
        for i in range(own.get_num_chunks()):
            chunk = own.get_chunk_info(i)
            yield chunk.byte_offset, chunk.size
