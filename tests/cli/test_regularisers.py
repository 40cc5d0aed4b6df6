"""Regularisers and schedules as options: what reaches the library, what is refused."""

import functools

import pytest
import yaml

import latentroute.inference
from latentroute.cli import main
from latentroute.cli_parts import read_schedule, schedule_text
from latentroute.inference import METHODS
from latentroute.inference.regularisers import (
    REGULARISERS,
    MutualInformation,
    Regulariser,
    Tempering,
)
from latentroute.inference.schedules import Constant, Exponential, Linear

CLUSTERS = ("--task", "clusters", "--clusters.n_train", "30", "--clusters.n_test", "20")
BOTH = (
    *("--regularisers", "mutual-information,tempering"),
    *("--mutual-information.weight", "0.25"),
    *("--tempering.scale", "Exponential(0.1, 1, steps=50)"),
)
VALUES = (MutualInformation(Constant(0.25)), Tempering(Exponential(0.1, 1, 50)))


class Reached(Exception):
    """Everything was read: training would begin."""


@pytest.fixture
def reached(monkeypatch, tmp_path):
    """Runs a command up to the call of the library; gives its options."""

    def arguments(command, *words):
        calls = []
        function = {"compare": "compare", "train": "fit"}[command]

        @functools.wraps(getattr(latentroute.inference, function))
        def record(*args, **options):
            calls.append((args, options))
            raise Reached

        with monkeypatch.context() as patch:
            patch.setattr(latentroute.inference, function, record)
            assert main([command, "--out", str(tmp_path / "out"), *words]) == 1
        return calls[0]

    return arguments


@pytest.mark.parametrize("command", ["compare", "train"])
def test_regularisers_reach_the_library(reached, command):
    _, options = reached(command, *CLUSTERS, *BOTH)
    assert options["regularisers"] == VALUES
    _, options = reached(command, *CLUSTERS)
    assert options["regularisers"] == ()


@pytest.mark.parametrize("command", ["compare", "train"])
def test_the_printed_config_gives_the_same(reached, command, capsys, tmp_path):
    assert main([command, *CLUSTERS, *BOTH, "--print_config"]) == 0
    file = tmp_path / "config.yaml"
    file.write_text(capsys.readouterr().out)
    assert yaml.safe_load(file.read_text())["mutual_information"] == {"weight": 0.25}
    assert reached(command, "--config", str(file))[1]["regularisers"] == VALUES
    fewer = reached(command, "--config", str(file), "--regularisers", "tempering")
    assert fewer[1]["regularisers"] == VALUES[1:]


def test_every_regulariser_has_a_name():
    assert {type(part) for part in REGULARISERS.values()} == set(
        Regulariser.__subclasses__()
    )


def test_a_regulariser_changes_the_training(tmp_path):
    """The history's loss differs with it, and with it alone."""
    from latentroute import analysis

    first = {}
    for name, words in {
        "none": (),
        "again": (),
        "with": ("--regularisers", "tempering", "--tempering.scale", "0.5"),
    }.items():
        out = tmp_path / name
        line = ("train", *CLUSTERS, "--steps", "1", "--draws", "2", *words)
        assert main([*line, "--out", str(out)]) == 0
        history = analysis.load(out / "run.nc")["training"]["loss"]
        first[name] = float(history.values.ravel()[0])
    assert first["none"] == first["again"] != first["with"]


def test_schedules_of_methods_are_written_alike(reached):
    words = ("--methods", "gumbel-softmax", "--gumbel-softmax.temperature")
    for text, value in {
        "0.7": Constant(0.7),
        "2": Constant(2.0),
        "Linear(2, 0.5, 100)": Linear(2, 0.5, 100),
    }.items():
        (_, methods, *_), _ = reached("compare", *CLUSTERS, *words, text)
        assert methods["gumbel-softmax"].temperature == value
    (_, methods, *_), _ = reached("compare", *CLUSTERS, "--methods", "gumbel-softmax")
    assert methods["gumbel-softmax"] == METHODS["gumbel-softmax"]


@pytest.mark.parametrize(
    "value", [Constant(0.5), Linear(0, 1, 10), Exponential(2.0, 0.5, 3)], ids=repr
)
def test_a_schedule_is_read_as_it_is_written(value):
    assert read_schedule(schedule_text(value)) == value


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--regularisers", "mutual-info"], ["--regularisers", "mutual-information"]),
        (["--regularisers", "tempering,tempering"], ["--regularisers", "twice"]),
        (["--tempering.scale", "1"], ["--tempering.scale", "--regularisers tempering"]),
        (["--regularisers", "tempering", "--tempering.weight", "1"], [".scale"]),
        (["--regularisers", "tempering", "--tempering.scale", "x"], ["'x'", "Linear("]),
        (
            ["--regularisers", "tempering", "--tempering.scale", "Linear(1, 2)"],
            ["--tempering", "Linear(start, end, steps)"],
        ),
        (
            ["--regularisers", "tempering", "--tempering.scale", "Linear(0, 1, 0)"],
            ["--tempering", "steps must be at least 1"],
        ),
        (["--regularisers", "tempering", "--tempering.scale", "nan"], ["'nan'"]),
        (
            [
                "--regularisers",
                "tempering",
                "--tempering.scale",
                "Linear(exit(), 1, 2)",
            ],
            ["expected a number"],
        ),
    ],
    ids=" ".join,
)
def test_what_is_wrong_is_said_in_one_line(capsys, tmp_path, words, parts):
    assert main(["train", *CLUSTERS, *words, "--out", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith("latentroute: error: ")
    for part in parts:
        assert part in err


def test_all_methods_are_asked_for_by_one_word(reached, capsys):
    (_, methods, *_), _ = reached("compare", *CLUSTERS, "--methods", "all")
    assert methods == dict(METHODS)
    assert main(["train", *CLUSTERS, "--method", "all"]) == 2
    assert "unknown name 'all'" in capsys.readouterr().err


def test_a_method_that_does_not_apply_is_a_row_and_no_failure(tmp_path, capsys):
    line = (
        *("compare", *CLUSTERS, "--methods", "relax,exact", "--network.routing"),
        *("static", "--seeds", "1", "--steps", "1", "--draws", "2"),
    )
    assert main([*line, "--out", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert [row.split()[0] for row in out.splitlines()[1:]] == ["relax", "exact"]
    said = [row for row in err.splitlines() if "does not apply" in row]
    assert len(said) == 2 and all("relax" in row for row in said)
    line = [word.replace("relax,exact", "relax") for word in line]
    assert main([*line, "--out", str(tmp_path)]) == 2
    assert "static" in capsys.readouterr().err
