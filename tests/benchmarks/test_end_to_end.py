"""The benchmark of a whole comparison: it runs what dev.py runs, and divides right."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from latentroute import tasks
from latentroute.benchmarks import end_to_end
from latentroute.benchmarks.end_to_end import Spent
from latentroute.inference import default_network, fit

ROOT = Path(__file__).parents[2]


def test_it_runs_what_dev_py_runs(monkeypatch):
    ran = []

    def run(command, **options):
        ran.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(end_to_end.subprocess, "run", run)
    end_to_end.comparison(4)
    command, *words = ran[0][3:]
    given = dict(zip(words[::2], words[1::2], strict=True))
    defaults = runpy.run_path(str(ROOT / "dev.py"))["COMPARE_DEFAULTS"]
    assert command == "compare" and set(given) == set(defaults)
    assert given | {"--out": defaults["--out"]} == defaults


def test_ratios_are_of_the_loops_before_and_after(monkeypatch, capsys):
    loops = iter([Spent(8.0, 8.0), Spent(12.0, 12.0)])
    monkeypatch.setattr(end_to_end, "bare_loops", lambda seeds: next(loops))
    monkeypatch.setattr(end_to_end, "comparison", lambda seeds: Spent(11.0, 15.0))
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    monkeypatch.setattr(sys, "argv", ["end_to_end"])
    end_to_end.main()
    wall, processor = capsys.readouterr().out.splitlines()
    assert "wall time" in wall and "wanted: 1.3" in wall
    assert "11.0 s, 1.10 (0.92 to 1.38)" in wall
    assert "15.0 s, 1.50 (1.25 to 1.88)" in processor and "wanted" not in processor


@pytest.mark.parametrize("method", end_to_end.METHODS)
def test_the_bare_loop_trains_as_fit_does(method, monkeypatch):
    """The same steps from the same weights: nothing is left out of the loop."""
    monkeypatch.setattr(end_to_end, "STEPS", 3)
    made = []

    def make(task):
        made.append(default_network(task))
        return made[-1]

    monkeypatch.setattr(end_to_end, "default_network", make)
    task = tasks.load("digits")
    assert end_to_end.bare_loop(task, method, 1).processor > 0
    torch.manual_seed(1)
    net = default_network(task)
    fit(net, task, method, steps=3, seed=1)
    for bare, whole in zip(made[0].parameters(), net.parameters(), strict=True):
        assert torch.equal(bare, whole)
