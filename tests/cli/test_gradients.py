"""`latentroute gradients`: table, CSV and figure, and the exit code."""

import csv
import json
from dataclasses import dataclass

import pytest

from latentroute.cli import main
from latentroute.inference import METHODS, Exact, ScoreFunction

SMALL = (
    *("--task", "clusters", "--clusters.n_train", "60", "--clusters.n_valid", "20"),
    *("--clusters.n_test", "30", "--examples", "3", "--draws", "30"),
)


def gradients(out, *words):
    return main(["gradients", *SMALL, "--out", str(out), *words])


def test_a_table_a_file_and_a_figure(tmp_path, capsys):
    assert gradients(tmp_path, "--methods", "exact,score-function") == 0
    stdout, stderr = capsys.readouterr()
    assert "unbiased" in stdout and "score-function" in stdout
    assert "gradients.csv" in stderr
    with (tmp_path / "gradients.csv").open() as lines:
        rows = {row["method"]: row for row in csv.DictReader(lines)}
    assert set(rows) == {"exact", "score-function"}
    assert float(rows["exact"]["bias"]) < 1e-10
    assert float(rows["score-function"]["variance"]) > 0
    assert (tmp_path / "gradients.png").stat().st_size > 5000
    assert (tmp_path / "config.yaml").is_file()


def test_json_and_a_methods_options(tmp_path, capsys):
    words = ("--methods", "score-function", "--score-function.n_samples", "3")
    assert gradients(tmp_path, *words, "--network.n_modules", "2", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["task"] == "clusters" and found["n_routes"] == 4
    assert found["gradients"][0]["method"] == "score-function"
    assert found["gradients"][0]["time"] > 0 and found["refuted"] == []


@dataclass(frozen=True)
class Wrong(ScoreFunction):
    """Claims to be unbiased for the marginal, which it is not."""

    unbiased_for = "marginal"


@pytest.mark.parametrize("as_json", [False, True])
def test_a_claim_that_is_refuted_is_a_failure(tmp_path, capsys, monkeypatch, as_json):
    monkeypatch.setitem(METHODS, "score-function", Wrong())
    words = ("--methods", "score-function,exact", "--draws", "1000")
    assert gradients(tmp_path, *words, *["--json"] * as_json) == 1
    assert "score-function claims no bias, and has one" in capsys.readouterr().err


def test_what_does_not_apply_is_said(tmp_path, capsys, monkeypatch):
    def refuse(self, *args, **options):
        raise ValueError("it takes a moon")

    monkeypatch.setattr(Exact, "__call__", refuse)
    assert gradients(tmp_path, "--methods", "exact,score-function") == 0
    assert "exact does not apply: it takes a moon" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--methods", "exac"), "did you mean 'exact'?"),
        (("--draws", "0"), "--draws"),
        (("--examples", "x"), "--examples"),
        (("--network.n_layers", "9"), "brute force"),
    ],
)
def test_bad_usage_is_one_line(tmp_path, capsys, words, said):
    assert gradients(tmp_path, *words) == 2
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err
