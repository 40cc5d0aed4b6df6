"""Checkpoints: killed, truncated, foreign, on a full disk; SIGTERM; metrics."""

import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import warnings

import pytest
import torch

from latentroute.benchmarks.kills import differences, kill_and_resume, train
from latentroute.inference import Stopped, fit
from latentroute.inference.checkpoint import (
    DAMAGED_NAME,
    FILE_NAME,
    PREVIOUS_NAME,
    load_checkpoint,
    save_checkpoint,
)
from latentroute.inference.metrics import FILE_NAME as METRICS_NAME
from tests.contracts.refusals import make_data, make_net, one_line

ALL = {"settings": {}, "ended": False, "seconds": 0.0, "history": {}}
ALL |= {"objective": {}, "optimiser": {}}


def run(folder, steps=6, **options):
    torch.manual_seed(0)
    settings = {"checkpoint": folder, "checkpoint_every": 2, "log_every": 2}
    return fit(make_net(), make_data(), "exact", steps=steps, **settings | options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder)


def same(result, other):
    return [r["loss"] for r in result.history] == [r["loss"] for r in other.history]


def test_a_killed_training_is_the_whole_one(tmp_path):
    """The command with 20 kills: docs/long-runs.md."""
    steps = 120
    train(tmp_path / "whole", steps)
    # Moments within .16 s of the first checkpoint: long before the end on any machine.
    left = kill_and_resume(tmp_path / "parts", steps, kills=2, seconds=0.2, seed=3)
    assert left, "not once was there something to resume"
    assert differences(tmp_path / "whole", tmp_path / "parts") == []
    train(tmp_path / "other", steps - 1)
    found = differences(tmp_path / "whole", tmp_path / "other")
    assert "checkpoint: objective" in found and METRICS_NAME in found


@pytest.mark.parametrize("moment", ["before", "between"])
def test_a_save_that_is_cut_short_leaves_a_good_checkpoint(
    tmp_path, monkeypatch, moment
):
    """Cut while the file is written, and between its two renamings."""
    save_checkpoint(tmp_path, {**ALL, "step": 1})
    name = FILE_NAME if moment == "between" else PREVIOUS_NAME
    replace = type(tmp_path).replace

    def die(self, target):
        if target.name == name:
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(type(tmp_path), "replace", die)
        save_checkpoint(tmp_path, {**ALL, "step": 2})
    assert load_checkpoint(tmp_path, {})["step"] == 1
    assert not list(tmp_path.glob("*.part")), "gone at the next start"


def truncate(path):
    path.write_bytes(path.read_bytes()[:-200])


def flip_a_bit(path):
    """In a weight: torch itself would read the file, and another number."""
    state = torch.load(path, weights_only=True)["objective"]
    weight = next(value for name, value in state.items() if name.endswith("weight"))
    content = bytearray(path.read_bytes())
    content[content.index(weight.numpy().tobytes()) + 5] ^= 1
    path.write_bytes(content)
    torch.load(path, weights_only=True)


def foreign(path):
    torch.save({"state_dict": {}}, path)


def pickled(path):
    path.write_bytes(pickle.dumps(print))


def code(path):
    torch.save({"version": 2, "run": os.system}, path)


DAMAGES = [truncate, flip_a_bit, foreign, pickled, code]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_a_damaged_checkpoint_gives_one_line_and_the_last_good_one_is_used(
    tmp_path, whole, damage
):
    run(tmp_path, steps=4)
    damage(tmp_path / FILE_NAME)
    with pytest.warns(UserWarning, match="cannot be read.*going on from.*step 2"):
        assert same(run(tmp_path, resume=True), whole[1])
    assert (tmp_path / DAMAGED_NAME).exists()
    torch.load(tmp_path / FILE_NAME, weights_only=True)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_where_no_good_one_is_left_nothing_is_touched(tmp_path, damage):
    run(tmp_path, steps=4)
    for name in (FILE_NAME, PREVIOUS_NAME):
        damage(tmp_path / name)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    one_line(lambda: run(tmp_path, resume=True), FILE_NAME, "cannot be read", "delete")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_checkpoint_of_another_version(tmp_path):
    torch.save({"version": 1, **ALL}, tmp_path / FILE_NAME)
    one_line(lambda: run(tmp_path, resume=True), "version 1, not 2", "another folder")


def test_a_run_that_begins_anew_replaces_one_that_ended_and_no_other(tmp_path, whole):
    save_checkpoint(tmp_path, {**ALL, "step": 1})
    one_line(lambda: run(tmp_path), "holds checkpoint.pt", "resume", "delete")
    save_checkpoint(tmp_path, {**ALL, "step": 1, "ended": True})
    assert same(run(tmp_path), whole[1])
    assert same(run(tmp_path), whole[1])
    measured = (tmp_path / METRICS_NAME).read_text().splitlines()
    assert len(measured) == len((whole[0] / METRICS_NAME).read_text().splitlines())
    (tmp_path / FILE_NAME).write_bytes(b"of somebody else")
    one_line(lambda: run(tmp_path), "holds checkpoint.pt", "did not end")


@pytest.mark.parametrize("full_after", [0, 3000])
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch, full_after):
    """The file system takes some bytes and no more."""
    run(tmp_path, steps=4)
    before = (tmp_path / FILE_NAME).read_bytes()
    save = torch.save

    def fill(state, file):
        class Full:
            left = full_after

            def write(self, data):
                self.left -= len(data)
                if self.left < 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return file.write(data)

            def flush(self):
                pass

        save(state, Full())

    monkeypatch.setattr(torch, "save", fill)
    one_line(
        lambda: run(tmp_path, resume=True),
        "checkpoint.pt cannot be written: No space left on device",
        kind=OSError,
    )
    assert (tmp_path / FILE_NAME).read_bytes() == before
    assert not list(tmp_path.glob("*.part"))


FULL = """
import resource, sys
from latentroute.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
def test_a_file_that_may_not_grow_is_one_line_on_the_command_line(tmp_path):
    """The kernel refuses, not a double: whatever writes meets the limit."""
    words = ["train", "--task", "clusters", "--steps", "2", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-P", "-c", FULL, *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    line = done.stderr.splitlines()[-1]
    assert "cannot be written: File too large" in line
    assert {path.name for path in tmp_path.iterdir()} == {METRICS_NAME}


def test_sigterm_saves_and_the_rest_is_the_same(tmp_path, whole, monkeypatch):
    from latentroute.inference import run as module

    update = module.Run._update

    def update_and_be_asked(self, *args):
        update(self, *args)
        if self.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch, pytest.raises(Stopped) as stopped:
        patch.setattr(module.Run, "_update", update_and_be_asked)
        run(tmp_path, on_sigterm="save", checkpoint_every=100)
    assert stopped.value.code == 0
    assert "saved step 3 of 6" in stopped.value.message
    assert signal.getsignal(signal.SIGTERM) is before
    assert same(run(tmp_path, resume=True, on_sigterm="save"), whole[1])
    assert differences(whole[0], tmp_path) in ([], [f"left behind: {PREVIOUS_NAME}"])


def test_sigterm_where_it_cannot_be_had(tmp_path):
    one_line(lambda: run(None, on_sigterm="save"), "on_sigterm", "checkpoint=")
    one_line(lambda: run(tmp_path, on_sigterm="exit"), "on_sigterm must be", "save")
    said = []

    def elsewhere():
        said.append(one_line(lambda: run(tmp_path, on_sigterm="save"), "main thread"))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert said


def rows(folder):
    lines = (folder / METRICS_NAME).read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_metrics_are_the_measured_rows_and_come_once(tmp_path, whole):
    folder, result = whole
    assert rows(folder) == [row for row in result.history if "h_a" in row]
    run(tmp_path, steps=4)
    with (tmp_path / METRICS_NAME).open("a") as file:  # of steps after the checkpoint
        file.write('{"step": 6, "loss": 1.0}\n{"step": 8, "lo')
    run(tmp_path, resume=True)
    assert [row["step"] for row in rows(tmp_path)] == [2, 4, 6]
    assert [r["loss"] for r in rows(tmp_path)] == [r["loss"] for r in rows(folder)]


def test_metrics_hold_no_nan(tmp_path):
    from latentroute.inference.metrics import Metrics

    metrics = Metrics(tmp_path)
    metrics.begin(0)
    metrics.write({"step": 1, "loss": float("nan"), "h_a_layers": [float("inf"), 1.0]})
    metrics.close()
    assert rows(tmp_path) == [{"step": 1, "loss": None, "h_a_layers": [None, 1.0]}]


def test_tensorboard_has_the_measured_rows(tmp_path):
    with warnings.catch_warnings():  # its own use of NumPy and protobuf
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing import event_accumulator

        board = tmp_path / "board"
        result = run(tmp_path / "run", tensorboard=board)
        events = event_accumulator.EventAccumulator(str(board))
        events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("h_a_layers/1")]
    logged = [row for row in result.history if "h_a" in row]
    expected = [(row["step"], pytest.approx(row["h_a_layers"][1])) for row in logged]
    assert found == expected


def test_tensorboard_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    one_line(
        lambda: run(tmp_path, tensorboard=tmp_path / "board"),
        r"pip install 'latentroute\[tensorboard\]'",
        kind=ImportError,
    )
    assert list(tmp_path.iterdir()) == []


def test_what_is_refused_replaces_no_run_that_ended(tmp_path):
    run(tmp_path)
    before = (tmp_path / FILE_NAME).read_bytes()
    one_line(lambda: run(tmp_path, target="nope"), "target must be one of")
    one_line(lambda: run(tmp_path, n_samples=3), "no option 'n_samples'")
    assert (tmp_path / FILE_NAME).read_bytes() == before
