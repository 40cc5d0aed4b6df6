"""Warnings of runs that workers train: issued where the user is, of the right run."""

import pickle
import warnings
from pathlib import Path

import pytest
import torch

from latentroute import tasks
from latentroute.inference import compare, default_network
from latentroute.inference.backends.base import Ended, attempt_silently
from latentroute.inference.backends.sending import sendable
from latentroute.inference.backends.told import keeping_warnings
from latentroute.inference.training_job import Job

FAST = {"steps": 2, "draws": 2, "batch_size": 8}
CLUSTERS = tasks.load("clusters", n_train=40, n_valid=10, n_test=10)
JOB = Job("clusters", "exact", 1, {})


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Workers import this file by its name, wherever the tests were begun."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2])


class OddWarning(UserWarning):
    pass


class TwoPartsWarning(OddWarning):
    """Cannot be made of a text alone."""

    def __init__(self, one, two):
        super().__init__(f"{one}, {two}")


def make(task):
    if torch.initial_seed() > 0:  # methods are tried out with 0
        for _ in range(2):
            warnings.warn("all the same", UserWarning, stacklevel=1)
    if torch.initial_seed() == 1:
        warnings.warn("only one is odd", OddWarning, stacklevel=1)
    return default_network(task)


def compared(odd, **options):
    """The tree, and what was warned of."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        warnings.filterwarnings(odd, "only one", OddWarning, __name__)
        tree = compare(CLUSTERS, ["exact"], 3, model=make, **FAST, **options)
    return tree, found


def test_warnings_come_back_with_their_run_once(capfd):
    """And filters of this process hold for them, by text, class and module."""
    _, found = compared("always", backend="process", workers=1)
    told = [str(one.message) for one in found]
    assert told == [
        "all the same (in exact, seed 1)",
        "only one is odd (in exact, seed 1)",
    ]
    assert found[1].category is OddWarning and found[1].filename == __file__
    assert "all the same" not in capfd.readouterr().err, "printed by the worker"


def test_an_error_made_of_a_warning_is_the_runs_as_in_one_process():
    trees = [compared("error", **how)[0] for how in ({}, {"backend": "process"})]
    errors = [
        [run.attrs.get("error") for run in t["exact"].children.values()] for t in trees
    ]
    assert errors == [[None, "OddWarning: only one is odd", None]] * 2


@pytest.mark.parametrize("action", ["ignore", "error", "always"])
def test_each_places_words_are_kept_once_whatever_the_filters(action):
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        with keeping_warnings() as told:
            for i in range(6):
                warnings.warn(f"number {i % 2}", OddWarning, stacklevel=1)
            warnings.warn(TwoPartsWarning(1, 2), stacklevel=1)
    assert [one.text for one in told] == ["number 0", "number 1", "1, 2"]
    assert [one.category for one in told] == [OddWarning] * 3
    assert {one.module for one in told} == {__name__}
    assert pickle.loads(pickle.dumps(told)) == told


def test_what_cannot_be_sent_is_warned_of_as_its_base():
    class Local(OddWarning):
        pass

    with keeping_warnings() as told:
        warnings.warn("local", Local, stacklevel=1)
    assert told[0].category is OddWarning


def test_a_run_that_raises_brings_its_warnings_too():
    def train(job, *, progress):
        warnings.warn("before", OddWarning, stacklevel=1)
        raise ValueError("then this")

    ended = attempt_silently({"clusters": train}, JOB)
    again = pickle.loads(sendable(ended))
    assert isinstance(again, Ended) and again.job == JOB
    assert str(again.result) == "then this" and again.told == ended.told
    assert [one.text for one in again.told] == ["before"]
