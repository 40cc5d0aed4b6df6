"""What the long commands say of what they saw; they themselves are run by hand."""

import json
import sys

import pandas as pd
import pytest

from latentroute.benchmarks import soak
from latentroute.benchmarks.fuzz import Fuzzer, died
from latentroute.benchmarks.fuzz_readers import Reader


def looks(growth):
    steps = range(soak.BLOCK, 30 * soak.BLOCK + 1, soak.BLOCK)
    rows = [(step, 300 + growth * step / 1000, 1.0) for step in steps]
    return pd.DataFrame(rows, columns=soak.Look._fields)


@pytest.mark.parametrize(("growth", "said"), [(0.0, "+0.00%"), (0.31, "+2.05%")])
def test_the_soak_says_growth_after_the_first_steps_and_the_ratio(growth, said):
    times = pd.DataFrame({"old": [1.1, 2.2, 9.0], "fresh": [1.0, 2.0, 3.0]})
    text = soak.report(looks(growth), times)
    assert said in text and "ratio of 3 pairs of 1000 steps: 1.100" in text


def test_the_soak_refuses_too_few_steps(capsys):
    with pytest.raises(SystemExit):
        soak.main(["--steps", "1000"])
    assert "--steps must be at least 31000" in capsys.readouterr().err


def test_a_fuzzer_keeps_one_input_of_each_kind_of_problem(tmp_path, capsys):
    out = tmp_path / "out"

    def read(path):
        data = path.read_bytes()
        if data != b"good":
            raise RuntimeError("long" if len(data) > 5 else "short")

    reader = Reader(".x", lambda folder: [b"good"], read)
    fuzzer = Fuzzer(reader, "x", tmp_path, out)
    for data in (b"good", b"bad", b"worse", b"much worse", b"good"):
        fuzzer(data)
    assert fuzzer.count == 5
    assert {path.read_bytes() for path in out.iterdir()} == {b"bad", b"much worse"}
    tally = json.loads((tmp_path / "tally.json").read_text())
    assert tally["problems"] == 2
    assert "of another type: RuntimeError" in capsys.readouterr().out


def test_a_fuzzer_does_not_begin_where_good_files_are_not_read(tmp_path):
    def read(path):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="a good x file is not read"):
        Fuzzer(Reader(".x", lambda folder: [b"good"], read), "x", tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("pass", None),
        ("raise SystemExit(3)", "died (exit code 3)"),
        ("import os; os.abort()", "died (exit code -6)"),
        ("import time; time.sleep(60)", "hung for 0.5 s"),
    ],
)
def test_a_process_that_dies_or_hangs_is_told(code, how, tmp_path):
    beat = tmp_path / "bytes"
    beat.write_bytes(b"what it was fed last")
    assert died([sys.executable, "-S", "-c", code], beat, patience=0.5) == how


def test_a_process_that_goes_on_is_left_alone(tmp_path):
    beat = tmp_path / "bytes"
    code = """
import pathlib, sys, time
for _ in range(12):
    pathlib.Path(sys.argv[1]).write_bytes(b"fed")
    time.sleep(0.1)
"""
    assert (
        died([sys.executable, "-S", "-c", code, str(beat)], beat, patience=0.6) is None
    )
