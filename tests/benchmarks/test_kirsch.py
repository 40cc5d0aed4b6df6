"""The toy and the two-layer network at tiny sizes, and their table."""

import json

import pytest

from latentroute.benchmarks import kirsch
from latentroute.benchmarks.kirsch import METHODS, Case, cases, head, train
from latentroute.benchmarks.kirsch_tables import (
    LABELS,
    collapsed,
    markdown,
    write_tables,
)
from latentroute.benchmarks.measurements import begin


def line_of(method, seed, largest, accuracy=0.5):
    return {
        "case": ["digits", method, seed],
        "log_lik": -1.0 - seed,
        "accuracy": accuracy,
        "h_a": [0.1, 0.3],
        "h_b": [1.0, 2.0],
        "unused": [1, 2],
        "largest": largest,
        "cpu_seconds": 3.0,
        "curve": [[1, 2.0, 2.1], [10, 1.0, 2.0]],
    }


@pytest.mark.filterwarnings("ignore:collapsed")
@pytest.mark.parametrize("setting", ["toy", "digits"])
@pytest.mark.parametrize("method", METHODS)
def test_every_case_trains_and_is_measured(setting, method):
    line = train(Case(setting, method, 0), steps=2)
    assert json.loads(json.dumps(line)) == line
    layers, modules = (2, 18) if setting == "digits" else (1, 2)
    assert len(line["h_a"]) == len(line["largest"]) == layers
    assert sum(line["unused"]) < modules and line["curve"][-1][0] == 2
    assert ("accuracy" in line) == (setting == "digits")


def test_collapse_is_one_module_for_nearly_all_in_any_layer():
    lines = [
        line_of("exact", s, shares)
        for s, shares in enumerate(([0.5, 0.6], [0.2, 0.995], [1.0, 0.3], [0.98, 0.98]))
    ]
    assert collapsed(lines).startswith("2 of 4 (0.15 to 0.85)")


def test_the_table_has_means_and_intervals():
    lines = [line_of("exact", s, [0.5, 0.5]) for s in range(2)]
    header, _, row = markdown(lines)
    assert header.split(" | ")[2] == "test accuracy" and row.startswith("| exact |")
    # Student's 97.5% point with one degree of freedom times .5
    assert "| -1.50 ± 6.35 |" in row and "| 0.200 ± 0.000 |" in row
    assert "| 3.00 ± 0.00 |" in row  # three of 18 modules unused


def test_files_are_written_and_a_cut_line_is_dropped(tmp_path, monkeypatch):
    out = tmp_path / "kirsch.jsonl"
    begin(out, head())
    with out.open("a") as file:
        for method in LABELS:
            file.write(json.dumps(line_of(method, 0, [0.5, 0.5])) + "\n")
        file.write('{"case": ["toy", "ex')
    begin(out, head())
    assert len(out.read_text().splitlines()) == 1 + len(LABELS)
    write_tables(out)
    assert "| noisy top-k |" in out.with_suffix(".md").read_text()
    assert out.with_suffix(".png").stat().st_size > 10_000
    monkeypatch.setattr(kirsch, "METHODS", {})
    with pytest.raises(SystemExit, match="other settings or versions"):
        begin(out, head())


def test_every_method_has_a_label():
    assert list(METHODS) == list(LABELS)
    assert len(set(cases(2))) == 2 * 2 * len(METHODS)
