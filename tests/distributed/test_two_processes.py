"""Two processes under torchrun, on real digits: what they train is what one does.

One start for all of it: ``worker.py`` starts the checks, here is what they must find. A
check named ``CHECK`` is judged by ``expect_CHECK`` from what both found.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.optional import need
from tests.statistics import assert_mean

ROOT = Path(__file__).parents[2]
START = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
RIGHT, WRONG = 1e-5, 1e-4  # relative errors, of float32 and of a broken reduction
BUFFERS = 1e-4  # log-probabilities after some steps


def same_as_one_process(found):
    for rank in found:
        assert max(rank["gradient"], rank["weights"], rank["losses"]) < RIGHT, rank
        assert rank["buffers"] < BUFFERS


def refused(found, error, *words):
    """Both processes say so, at once, and none stays in the group."""
    for rank in found:
        assert rank["type"] == error, rank
        assert all(word in rank["text"] for word in words) and "\n" not in rank["text"]
        assert rank["closed"] and rank["seconds"] < 60


expect_exact = same_as_one_process
expect_regularised = same_as_one_process
expect_table_of_examples = same_as_one_process
expect_whole_buffer = same_as_one_process


def expect_mapped_buffer(found):
    same_as_one_process(found)
    assert all(rank["left"] == 0 for rank in found), "the files have no name"


def expect_captured(found):
    assert all(rank["losses"] < RIGHT for rank in found)


def expect_broken_split(found):
    assert all(rank["weights"] > WRONG for rank in found)


def expect_without_the_others(found):
    assert all(rank["gradient"] > WRONG for rank in found)


def expect_plain_ddp(found):
    """The trap: no error, no warning, and the gradient of one's own part."""
    assert all(rank["error"] > 0.1 for rank in found)


def expect_score_function(found):
    draws = [torch.tensor(rank["draws"]) for rank in found]
    assert torch.equal(*draws), "an averaged gradient is the same everywhere"
    assert_mean(draws[0], torch.tensor(found[0]["truth"]))


def expect_score_function_on_the_same_rows(found):
    with pytest.raises(AssertionError, match="z ="):
        expect_score_function(found)


def expect_hard_em(found):
    for rank in found:
        assert max(rank["gradient"], rank["weights"]) < RIGHT, rank
        assert rank["routes_differ"] == 0 < rank["routes_differed_before"]
    assert found[0]["routes"] == found[1]["routes"]


def expect_unused_parameters(found):
    for rank in found:
        assert sorted(rank["in_parts"]) == [False, True], "one process has none"
        assert max(rank["seldom"], rank["all"], rank["weights"]) < RIGHT, rank
        assert rank["never"], "Adam would move what has a gradient of zero"


def expect_late_parameters(found):
    refused(found, "ValueError", "9 parameters", "8 when training began")


def expect_static_site(found):
    refused(found, "ValueError", "'route_0' is static", "without torchrun")


def expect_sampler(found):
    refused(found, "ValueError", "one process", "without torchrun")


def expect_one_process_fails(found):
    refused(found[1:], "KeyError", "no such thing")
    refused(found[:1], "RuntimeError", "process 0 lost another process")


def expect_infinite_in_one_part(found):
    refused(found, "Diverged", "at step 3 of Exact")
    assert "diverged.1.pt" in found[1]["text"]
    assert "diverged" not in found[0]["text"]


def expect_folder_of_its_own(found):
    refused(found, "ValueError", "one that all of them see")


def expect_resumed(found):
    for rank in found:
        assert rank["same"] and rank["losses"]
        assert rank["steps"] == list(range(1, 13)), "written once, by one"
        assert rank["streams"] == 2
        assert not [name for name in rank["files"] if name.endswith("part")]


def expect_another_number_of_processes(found):
    for rank in found:
        assert rank["two_after_one"] < RIGHT
    assert found[0]["one_after_two"] < RIGHT


def expect_stopped_by_sigterm(found):
    assert found[0]["code"] == found[1]["code"] == 0
    assert found[0]["message"] == found[1]["message"]
    assert "SIGTERM: saved step" in found[0]["message"]


def expect_every_method(found):
    one, other = ({k: v for k, v in r.items() if k != "took"} for r in found)
    assert one == other, [name for name in one if one[name] != other[name]]
    lines = {name: line for name, line in one.items() if isinstance(line, str)}
    assert list(lines) == ["nuts", "recover"]


def expect_collapsed(found):
    assert [rank["told"] for rank in found] == [1, 0], "told once in all"


def expect_command_line(found):
    for rank in found:
        assert rank["code"] == 0 and rank["refused"] == 2 and rank["closed"]


def expect_fabric(found):
    if "missing" in found[0]:
        need("lightning_fabric")
    for rank in found:
        assert max(rank["weights"], rank["losses"]) < RIGHT, rank
        assert "ddp_find_unused_parameters_true" in rank["refusal"]["text"]


def test_two_processes_train_as_one(tmp_path):
    words = [sys.executable, *START, "-m", "tests.distributed.worker", str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    start = subprocess.Popen(words, cwd=ROOT, **pipes)
    try:
        out, err = start.communicate(timeout=250)
    finally:
        if start.poll() is None:
            start.terminate()  # it ends its own processes then
            start.wait(40)
    assert start.returncode == 0, err[-4000:]
    found = [json.loads((tmp_path / f"rank_{r}.json").read_text()) for r in range(2)]
    wrong = []
    for name in found[0]:
        ranks = [rank[name] for rank in found]
        try:
            failures = [rank["traceback"] for rank in ranks if "traceback" in rank]
            assert not failures, failures
            globals()[f"expect_{name}"](ranks)
        except AssertionError as error:
            wrong.append(f"{name}: {error}")
    assert not wrong, "\n\n".join(wrong)
    shown = [line for line in err.splitlines() if line.startswith("fit 4/4")]
    assert len(shown) == 1, "progress is shown once"
    assert out.count("exact") == 1, "and so is the table"
    assert (tmp_path / "train" / "run.nc").exists()
