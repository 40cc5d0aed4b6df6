"""Sweeps: no run lost, none done twice, whoever dies and whatever is on the disk."""

import contextlib
import json
import warnings

import pytest
import torch

from latentroute import tasks
from latentroute.analysis import summary
from latentroute.inference import (
    ScoreFunction,
    Serial,
    compare,
    compare_tasks,
    default_network,
)
from latentroute.inference.backends.base import Backend, Ended, Pool, WorkerDiedError
from latentroute.inference.compare import _comparison
from latentroute.inference.compare_checks import chosen_methods
from latentroute.inference.sweep import train_all
from latentroute.inference.sweep_folder import SweepFolder, count_runs, read_events

FAST = {"steps": 3, "draws": 2, "batch_size": 8}
CLUSTERS = tasks.load("clusters", n_train=40, n_valid=10, n_test=10)
BROKEN = "2 is broken"


def comparison(methods=("exact", "hard-em"), seeds=(0, 1), model=None):
    options = {"network": None, "lr": 1e-2, "regularisers": (), "progress": False}
    return _comparison(
        "clusters", CLUSTERS, chosen_methods(methods), list(seeds), model=model, **FAST,
        **options,
    )  # fmt: skip


class Mortal(Backend):
    """Trains here, as two workers of which some die, by the order of submission."""

    def __init__(self, deaths, retries=2):
        self.deaths, self.retries = set(deaths), retries
        self.submitted, self.most = [], 0

    @contextlib.contextmanager
    def open(self, work, *, progress):
        yield MortalPool(self, work)


class MortalPool(Pool):
    n_workers = 2

    def __init__(self, backend, work):
        self.backend, self.work, self.jobs = backend, work, []

    def submit(self, job):
        self.jobs.append((len(self.backend.submitted), job))
        self.backend.submitted.append(job.name)
        self.backend.most = max(self.backend.most, len(self.jobs))

    def collect(self):
        number, job = self.jobs.pop()  # the last one first: order must not matter
        if number in self.backend.deaths:
            return Ended(job, WorkerDiedError("its worker died"))
        return Ended(job, self.work[job.task](job))


def table(tree):
    return summary(tree).drop(columns=["seconds", "seconds_se"])


@pytest.fixture(scope="module")
def undisturbed():
    part = comparison()
    return part, train_all({"clusters": part.training}, part.jobs(), Serial())


def test_a_run_whose_worker_died_is_begun_again_and_told(undisturbed):
    part, expected = undisturbed
    backend = Mortal(deaths=[0, 4])  # the first run, and its second attempt
    with pytest.warns(RuntimeWarning, match="exact, seed 0: its worker died; it is"):
        found = train_all({"clusters": part.training}, part.jobs(), backend)
    names = [job.name for job in part.jobs()]
    assert list(found) == names  # as asked for, not as they ended
    first = names[0]
    assert backend.submitted == [*names, first, first] and backend.most == 2
    assert found[first].attrs["deaths"] == 2
    assert all("deaths" not in found[name].attrs for name in names[1:])
    assert table(part.tree(found)).equals(table(part.tree(expected)))


def test_a_run_whose_worker_always_dies_costs_no_other(undisturbed, tmp_path):
    part, expected = undisturbed
    work, jobs = {"clusters": part.training}, part.jobs()
    with SweepFolder(tmp_path, resume=False) as folder:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = train_all(work, jobs, Mortal([1, 4], retries=1), folder=folder)
    assert [str(warning.message) for warning in told] == [
        "exact, seed 1: its worker died; it is begun again (1 of at most 1 times)",
        "exact, seed 1 failed: its worker died, 2 times",
    ]
    lost = found.pop("clusters/exact/seed_1")
    assert lost.attrs["error"] == "its worker died, 2 times"
    for name, run in found.items():
        values = run["training"]["loss"].values
        assert (values == expected[name]["training"]["loss"].values).all()
    kinds = [(e["event"], e["run"]) for e in read_events(tmp_path)]
    assert kinds.count(("died", "clusters/exact/seed_1")) == 2
    with SweepFolder(tmp_path, resume=True) as folder:  # it may have been the machine
        again = train_all(work, jobs, Serial(), folder=folder)
    assert table(part.tree(again)).equals(table(part.tree(expected)))
    kinds = [(e["event"], e["run"]) for e in read_events(tmp_path)]
    assert [kinds.count(("finished", job.name)) for job in jobs] == [1, 1, 1, 1]


class BreaksForOne:
    """A factory: the training of seed 1 raises, trying the methods out does not."""

    def __init__(self):
        self.tried = False

    def __call__(self, task):
        net = default_network(task)
        if torch.initial_seed() == 1 and self.tried:
            net.check = raise_broken
        self.tried = True
        return net


def raise_broken(x, y):
    raise ValueError(BROKEN)


def test_a_run_that_raises_is_a_node_with_its_error_and_tried_by_a_restart(tmp_path):
    options = {"model": BreaksForOne(), "folder": tmp_path, **FAST}
    with pytest.warns(RuntimeWarning, match="exact, seed 1 failed: ValueError: 2 is"):
        tree = compare(CLUSTERS, ["exact"], 3, **options)
    assert tree["exact/seed_1"].attrs["error"] == f"ValueError: {BROKEN}"
    assert tree["summary"]["failed"].values.tolist() == [1]
    assert count_runs(tmp_path) == (2, 3)
    (failed,) = [e for e in read_events(tmp_path) if e["event"] == "failed"]
    assert "raise_broken" in failed["traceback"]
    with pytest.warns(RuntimeWarning, match="exact, seed 1 failed"):
        compare(CLUSTERS, ["exact"], 3, resume=True, **options)
    begun = [e["run"][-6:] for e in read_events(tmp_path) if e["event"] == "started"]
    assert begun == ["seed_0", "seed_1", "seed_2", "seed_1"]


def test_an_error_of_every_run_is_raised():
    with pytest.warns(RuntimeWarning), pytest.raises(ValueError, match=BROKEN):
        compare(CLUSTERS, ["exact"], [1], model=BreaksForOne(), **FAST)


def test_a_folder_gives_what_memory_does_and_more_may_join(undisturbed, tmp_path):
    part, expected = undisturbed
    whole = part.tree(expected)
    options = {"folder": tmp_path, **FAST}
    compare(CLUSTERS, ["exact"], 1, **options)
    tree = compare(CLUSTERS, ["exact", "hard-em"], 2, resume=True, **options)
    assert table(tree).equals(table(whole))
    for node in whole.subtree:
        if node.name not in ("training", "summary"):  # these hold seconds
            assert tree[node.path].to_dataset().equals(node.to_dataset())
    events = [e["event"] for e in read_events(tmp_path)]
    assert events.count("finished") == 4 and events.count("taken up") == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"resume": False}, "holds a sweep already: resume it"),
        ({"steps": 4}, "steps = 3, got 4"),
        ({"lr": 0.5}, "lr = 0.01, got 0.5"),
        ({"draws": 3}, "draws = 2, got 3"),
        ({"network": {"n_modules": 3}}, "with clusters: model = "),
        ({"methods": {"s": ScoreFunction(n_samples=9)}}, "with clusters: method s = "),
        ({"task": tasks.load("clusters", n_train=41, n_valid=9)}, "clusters: data = "),
    ],
)
def test_a_folder_of_another_sweep_is_refused_in_one_line(tmp_path, change, says):
    settings = {"methods": {"s": ScoreFunction(n_samples=2)}, "seeds": 1, **FAST}
    sweep = {"task": CLUSTERS, **settings, "folder": tmp_path}
    compare(**sweep)
    with pytest.raises(ValueError, match=says) as error:
        compare(**{**sweep, "resume": True, **change})
    assert "\n" not in str(error.value) and "choose another folder" in str(error.value)


def test_what_a_kill_or_a_disk_leaves_is_done_again(tmp_path):
    options = {"folder": tmp_path, "seeds": 2, **FAST}
    first = compare(CLUSTERS, ["exact"], **options)
    runs = tmp_path / "runs" / "clusters" / "exact"
    file = runs / "seed_1.nc"
    file.write_bytes(file.read_bytes()[:2000])
    half = runs / ".seed_0.nc.77.part"
    half.write_bytes(b"half of a file")
    with (tmp_path / "events.jsonl").open("a") as events:
        events.write('{"time": "2026-')
    again = compare(CLUSTERS, ["exact"], resume=True, **options)
    assert table(again).equals(table(first))
    assert not half.exists()
    kinds = [(e["event"], e["run"][-1]) for e in read_events(tmp_path)]
    assert kinds[-4:] == [
        ("taken up", "0"), ("unreadable", "1"), ("started", "1"), ("finished", "1"),
    ]  # fmt: skip


def test_a_folder_is_held_by_one_sweep_at_a_time(tmp_path):
    with SweepFolder(tmp_path, resume=False):
        with pytest.raises(ValueError, match="is held by another sweep"):
            with SweepFolder(tmp_path, resume=True):
                pass
    with SweepFolder(tmp_path, resume=True):
        pass


def test_a_foreign_settings_file_is_refused(tmp_path):
    for text in ("{", "[]", "{}", json.dumps({"version": 7, "settings": {}})):
        (tmp_path / "sweep.json").write_text(text)
        with pytest.raises(ValueError, match=r"sweep\.json (cannot be r|has v)"):
            compare(CLUSTERS, ["exact"], 1, folder=tmp_path, resume=True, **FAST)


def test_runs_of_unknown_settings_are_not_taken_up(tmp_path):
    options = {"folder": tmp_path, **FAST}
    compare(CLUSTERS, ["exact"], 1, **options)
    (tmp_path / "sweep.json").unlink()
    for resume in (False, True):
        with pytest.raises(ValueError, match=r"holds runs and no sweep\.json"):
            compare(CLUSTERS, ["exact"], 1, resume=resume, **options)


def test_labels_of_any_characters_have_files_of_their_own(tmp_path):
    labels = [".a", "a b", "ä:?*", "%2Ea"]
    methods = {label: ScoreFunction(n_samples=2) for label in labels}
    compare(CLUSTERS, methods, 1, folder=tmp_path, **FAST)
    files = list((tmp_path / "runs" / "clusters").glob("*/seed_0.nc"))
    assert len(files) == 4 and count_runs(tmp_path) == (4, 4)
    tree = compare(CLUSTERS, methods, 1, folder=tmp_path, resume=True, **FAST)
    assert set(labels) <= set(tree.children)
    events = [e["event"] for e in read_events(tmp_path)]
    assert events.count("finished") == events.count("taken up") == 4


def test_tasks_share_one_list_of_work(undisturbed, tmp_path):
    part, expected = undisturbed
    rules = tasks.load("rules", n_train=30, n_valid=8, n_test=8)
    trees = compare_tasks(
        [CLUSTERS, rules], ["exact", "hard-em"], 2, folder=tmp_path, **FAST
    )
    assert list(trees) == ["clusters", "rules"]
    assert table(trees["clusters"]).equals(table(part.tree(expected)))
    assert trees["rules"].attrs["task"] == "rules"
    assert count_runs(tmp_path) == (8, 8)
    named = compare_tasks({"a": CLUSTERS, "b": CLUSTERS}, ["exact"], 1, **FAST)
    assert table(named["a"]).equals(table(named["b"]))


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"backend": "threads"}, ValueError, "backend must be one of serial, process"),
        ({"backend": 3}, TypeError, "backend must be a name or a Backend, got 3"),
        ({"workers": 2}, ValueError, "backend 'serial' is one worker, got workers=2"),
        ({"backend": "process", "workers": 0}, ValueError, "workers must be a whole"),
        ({"resume": True}, ValueError, "resume=True needs folder="),
        ({"seeds": [1, 1]}, ValueError, "seeds must differ from each other"),
        ({"steeps": 3}, TypeError, "compare_tasks has no option 'steeps'; it takes"),
        ({"tasks": []}, ValueError, "tasks must be at least one"),
        ({"tasks": "digits"}, TypeError, "tasks must be a sequence or a mapping"),
        ({"tasks": [CLUSTERS] * 2}, ValueError, "different names, got 'clusters' twi"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(options, error, says):
    with pytest.raises(error, match=says) as raised:
        compare_tasks(**{"tasks": [CLUSTERS], "methods": ["exact"], **options})
    assert "\n" not in str(raised.value)


def test_nothing_is_told_of_a_sweep_that_went_well():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare(CLUSTERS, ["exact"], 1, **FAST)
