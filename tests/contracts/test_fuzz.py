"""Damaged files are read or refused in one line: a few of each reader, always the same.

The long runs: ``python -m latentroute.benchmarks.fuzz`` (docs/errors.md). What they
found is in ``fuzz_inputs``, and stays refused.
"""

import itertools
import json
import warnings
from pathlib import Path

import pytest

from latentroute.benchmarks.fuzz_readers import READERS, problem
from latentroute.benchmarks.mutations import mutations

FOUND = sorted((Path(__file__).parent / "fuzz_inputs").iterdir())
COUNTS = {"csv": 60, "parquet": 60, "npz": 60, "checkpoint": 12, "netcdf": 10}
FEW = 6  # of the slow ones


def feed(name, folder, inputs):
    """What is wrong with how each input is read."""
    reader = READERS[name]
    path = folder / f"input{reader.suffix}"
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for data in inputs:
            reader.whole(path, data)
            found.append(problem(reader.read, path))
    return found


@pytest.mark.parametrize("name", READERS)
def test_good_files_are_read_and_damaged_ones_refused(name, tmp_path, capfd):
    seeds = READERS[name].seeds(tmp_path)
    assert feed(name, tmp_path, seeds) == [None] * len(seeds)
    n = COUNTS.get(name, FEW)
    assert feed(name, tmp_path, itertools.islice(mutations(seeds, 0), n)) == [None] * n
    assert not list(tmp_path.rglob("*.part"))
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.name)
def test_what_the_fuzzer_found_stays_refused(path, tmp_path, capfd):
    name, _, _ = path.name.partition("-")
    assert feed(name, tmp_path, [path.read_bytes()]) == [None]
    assert "Traceback" not in capfd.readouterr().err


def refuse(message):
    raise ValueError(message)


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (lambda path: json.loads("{"), "raised by a library"),
        (lambda path: {}["key"], "of another type: KeyError"),
        (lambda path: refuse("one\ntwo"), "by a library"),  # not from our package
    ],
)
def test_the_check_sees_what_is_not_refused_as_it_should_be(read, said, tmp_path):
    """Negative control."""
    assert said in problem(read, tmp_path)


def test_mutations_are_the_same_for_the_same_seed_and_differ():
    def some(seed):
        return list(itertools.islice(mutations([b"a,b\n1,2\n"], seed), 50))

    assert some(1) == some(1) != some(2)
    assert len(set(some(1))) > 30
