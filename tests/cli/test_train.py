"""`latentroute train`: checkpoints, resuming, the file of the run."""

import json
import os
import signal

import pytest
import torch

from latentroute import analysis, cli_train
from latentroute.cli import main

SMALL = (
    *("--task", "clusters", "--clusters.n_train", "60", "--clusters.n_valid", "20"),
    *("--clusters.n_test", "30", "--method", "topk-buffer", "--draws", "5"),
)


def train(out, *words):
    return main(["train", *SMALL, "--out", str(out), *words])


def loss(out):
    return analysis.load(out / "run.nc")["training"]["loss"].values.tolist()


def test_a_resumed_training_is_the_whole_one(tmp_path, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(whole, "--steps", "6", "--seed", "3") == 0
    assert train(parts, "--steps", "4", "--seed", "3") == 0
    capsys.readouterr()
    assert train(parts, "--steps", "6", "--seed", "3", "--resume", "--json") == 0
    stdout, stderr = capsys.readouterr()
    assert loss(parts) == loss(whole)
    assert json.loads(stdout)["summary"][0]["method"] == "topk-buffer"
    assert "no checkpoint" not in stderr


def test_a_checkpoint_holds_tensors_and_plain_values(tmp_path, capsys):
    assert train(tmp_path, "--steps", "2", "--checkpoint-every", "1") == 0
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["step"] == 2
    assert "latentroute report" in capsys.readouterr().err


def test_resuming_another_run_is_refused(tmp_path, capsys):
    assert train(tmp_path, "--steps", "2") == 0
    capsys.readouterr()
    assert train(tmp_path, "--steps", "4", "--seed", "1", "--resume") == 2
    assert "seed" in capsys.readouterr().err


def test_resuming_from_nothing_is_told(tmp_path, capsys):
    assert train(tmp_path, "--steps", "2", "--resume") == 0
    assert "no checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("moment", ["load_task", "_fit"])
def test_sigterm_outside_the_steps_leaves_too(tmp_path, capsys, monkeypatch, moment):
    """While data are loaded, and after the last step."""
    function = getattr(cli_train, moment)

    def ask_after(*args):
        found = function(*args)
        os.kill(os.getpid(), signal.SIGTERM)
        return found

    words = ("--steps", "2", "--on-sigterm", "save")
    with monkeypatch.context() as patch:
        patch.setattr(cli_train, moment, ask_after)
        assert train(tmp_path, *words) == 0
    assert "SIGTERM: what was trained is saved" in capsys.readouterr().err
    assert (tmp_path / "checkpoint.pt").exists() is (moment == "_fit")
    assert train(tmp_path, *words, "--resume") == 0
    assert (tmp_path / "run.nc").exists()


def test_a_run_that_did_not_end_is_not_overwritten(tmp_path, capsys):
    assert train(tmp_path, "--steps", "2") == 0
    assert train(tmp_path, "--steps", "3") == 0  # the one that ended is
    assert len(loss(tmp_path)[0]) == 3
    (file,) = tmp_path.rglob("checkpoint.pt")
    state = torch.load(file, weights_only=True)
    torch.save({**state, "ended": False}, file)
    assert train(tmp_path, "--steps", "2") == 2
    assert "--resume" in capsys.readouterr().err


def test_report_takes_a_run(tmp_path, capsys):
    assert train(tmp_path, "--steps", "2") == 0
    run = analysis.load(tmp_path / "run.nc")
    assert run.attrs["method"] == "topk-buffer"
    assert run.attrs["steps"] == 2
    assert main(["report", str(tmp_path)]) == 0
    assert "1 inference method on clusters" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("content", [b"", b"no tree"])
def test_report_refuses_what_is_no_tree(tmp_path, capsys, content):
    (tmp_path / "run.nc").write_bytes(content)
    assert main(["report", str(tmp_path)]) == 2
    assert "run.nc" in capsys.readouterr().err
