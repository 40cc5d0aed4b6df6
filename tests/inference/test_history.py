"""The history of a run: rows as of a list of dicts, in a few bytes each."""

import io
import sys
import tracemalloc

import pandas as pd
import pytest
import torch

from latentroute.inference import history as module
from latentroute.inference.history import History


def make(n=5):
    history, rows = History(), []
    for step in range(1, n + 1):
        history.append(step / 2)
        rows.append({"step": step, "loss": step / 2})
        if step % 2 == 0:
            history.measure({"h_a": float(step)})
            rows[-1]["h_a"] = float(step)
    return history, rows


def test_it_reads_as_a_list_of_dicts():
    history, rows = make()
    assert list(history) == rows and len(history) == 5
    assert history[0] == rows[0] and history[-1] == rows[-1]
    assert history[1:4] == rows[1:4] and history[::-2] == rows[::-2]
    assert list(reversed(history)) == rows[::-1]
    pd.testing.assert_frame_equal(pd.DataFrame(history), pd.DataFrame(rows))
    for place in (5, -6):
        with pytest.raises(IndexError, match="5 rows"):
            history[place]


def test_a_short_one_is_handed_out_as_a_list(monkeypatch):
    history, rows = make()
    assert history.rows() == rows and type(history.rows()) is list
    monkeypatch.setattr(module, "_LISTED", 4)
    assert history.rows() is history


@pytest.mark.parametrize("n", [0, 1, 7])
def test_a_checkpoint_holds_it_as_tensors_and_plain_values(n):
    history, rows = make(n)
    file = io.BytesIO()
    torch.save(history.state(), file)
    file.seek(0)
    other = History()
    other.restore(torch.load(file, weights_only=True))
    assert list(other) == rows
    other.append(1.0)
    assert other[-1] == {"step": n + 1, "loss": 1.0}
    assert len(history) == n


def test_no_memory_is_taken_while_training_goes_on():
    history = History()
    history.reserve(10_000)
    tracemalloc.start()
    try:
        for _ in range(10_000):
            history.append(0.5)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 10 * sys.getsizeof({})
