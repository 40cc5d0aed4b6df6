"""Real workers: processes and Ray give the table of one process, whoever is killed."""

import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings

import pytest
import torch

from latentroute import tasks
from latentroute.inference import (
    METHODS,
    Processes,
    RayCluster,
    compare,
    default_network,
)
from latentroute.inference.sweep_folder import count_runs, read_events
from tests.optional import need

DIGITS = {"task": "digits", "methods": ["exact", "score-function"], "seeds": 2}
FAST = {"steps": 10, "draws": 2}

# Where it is imported from, a worker that is killed once, and only a worker.
MORTAL = """
    import multiprocessing, os, pathlib, signal, warnings
    from latentroute.inference import default_network

    MARK = pathlib.Path(__file__).with_suffix(".killed")

    def is_worker():
        spawned = multiprocessing.parent_process() is not None
        return spawned or "RAY_JOB_ID" in os.environ

    def make(task):
        if is_worker() and not MARK.exists():
            MARK.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if is_worker():
            warnings.warn("odd", RuntimeWarning)
        return default_network(task, n_modules=3)
"""


@pytest.fixture(scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def expected(one_thread):
    return compare(**DIGITS, **FAST, model=sized)


def sized(task):
    return default_network(task, n_modules=3)


@pytest.fixture
def mortal(tmp_path, monkeypatch):
    """A factory in a module of its own, which workers can import."""
    name = f"mortal_{os.getpid()}_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(MORTAL))
    monkeypatch.syspath_prepend(tmp_path)
    return __import__(name).make


def assert_same(tree, expected):
    """Every number but the seconds, to the last bit."""
    assert [n.path for n in tree.subtree] == [n.path for n in expected.subtree]
    for node in expected.subtree:
        seconds = [name for name in node.data_vars if "seconds" in str(name)]
        one, two = (n.to_dataset().drop_vars(seconds) for n in (node, tree[node.path]))
        assert set(one.data_vars) == set(two.data_vars), node.path
        apart = [name for name in one.data_vars if not one[name].equals(two[name])]
        assert not apart, (node.path, apart, one[apart[0]].values, two[apart[0]].values)


_start = RayCluster._start


def start_or_skip(self, ray):
    try:
        _start(self, ray)
    except Exception as error:  # whatever a sandbox without sockets or memory raises
        pytest.skip(f"Ray does not start on this machine: {error}")


@pytest.mark.parametrize("name", ["process", "ray"])
def test_the_table_is_that_of_one_process_with_a_worker_killed(
    name, expected, mortal, tmp_path, capfd, monkeypatch
):
    """Two workers on real data, one start each; one is killed in its first run."""
    if name == "ray":
        need("ray")
        monkeypatch.setattr(RayCluster, "_start", start_or_skip)
    with warnings.catch_warnings(record=True) as told:
        warnings.filterwarnings("always", category=RuntimeWarning)
        tree = compare(
            **DIGITS, **FAST, model=mortal, backend=name, workers=2,
            folder=tmp_path / "out",
        )  # fmt: skip
    captured = capfd.readouterr()
    assert captured.out == ""  # it is for results
    assert "odd" not in captured.err  # said by the worker itself
    odd, line = sorted((str(w.message) for w in told), key=len)
    assert odd.startswith("odd (in ")  # once, of the first run that ended
    assert "its worker" in line and "it is begun again (1 of at most 2 times)" in line
    assert_same(tree, expected)
    runs = [run for m in DIGITS["methods"] for run in tree[m].children.values()]
    deaths = [run.attrs.get("deaths") for run in runs]
    assert sorted(deaths, key=str) == [1, None, None, None]
    ends = [e["run"] for e in read_events(tmp_path / "out") if e["event"] == "finished"]
    assert len(ends) == len(set(ends)) == 4


SCRIPT = """
    import multiprocessing, sys, time
    from latentroute.inference import compare, default_network

    made = []

    def make(task):
        made.append(task)
        if multiprocessing.parent_process() is not None and len(made) > 1:
            time.sleep(600)  # under way when the sweep is killed
        return default_network(task, n_modules=3)

    if __name__ == "__main__":
        compare("digits", ["exact", "score-function"], 2, steps=10, draws=2, model=make,
                backend="process", workers=1, folder=sys.argv[1])
"""


def children(pid):
    listed = f"/proc/{pid}/task/{pid}/children"
    with open(listed) as file:
        return [int(word) for word in file.read().split()]


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


@pytest.mark.skipif(
    not os.path.exists(f"/proc/{os.getpid()}/task/{os.getpid()}/children"),
    reason="reads /proc",
)
def test_a_killed_sweep_leaves_no_worker_and_goes_on(expected, tmp_path):
    script, folder = tmp_path / "sweep.py", tmp_path / "out"
    script.write_text(textwrap.dedent(SCRIPT))
    sweep = subprocess.Popen(
        [sys.executable, "-P", str(script), str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        wait_for(lambda: sweep.poll() is not None or (count_runs(folder) or (0, 0))[0])
        workers = children(sweep.pid)
    finally:
        sweep.send_signal(signal.SIGKILL)
        sweep.wait()
    assert sweep.returncode == -signal.SIGKILL and workers
    wait_for(lambda: not any(map(is_alive, workers)), seconds=60)
    done = count_runs(folder)[0]
    assert done == 1
    tree = compare(**DIGITS, **FAST, model=sized, folder=folder, resume=True)
    assert_same(tree, expected)
    events = [(e["event"], e["run"]) for e in read_events(folder)]
    ends = [run for event, run in events if event == "finished"]
    assert len(ends) == len(set(ends)) == 4
    assert sum(event == "taken up" for event, _ in events) == done


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"model": lambda task: sized(task)}, "model="),
        ({"methods": {"mine": METHODS["exact"]}}, "method 'mine'"),
    ],
)
def test_what_cannot_be_sent_is_named_in_one_line(options, part, monkeypatch):
    clusters = tasks.load("clusters", n_train=20, n_valid=8, n_test=8)
    if "methods" in options:
        monkeypatch.setattr(type(METHODS["exact"]), "__reduce__", refuse, raising=False)
    settings = {"task": clusters, "methods": ["exact"], "seeds": 1, **FAST}
    with pytest.raises(TypeError, match=f"{part} cannot be sent to workers") as error:
        compare(**{**settings, **options}, backend=Processes(workers=1))
    assert "\n" not in str(error.value)


def refuse(self):
    raise TypeError("not to be written")


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'latentroute\[ray\]'"):
        with RayCluster().open({}, progress=False):
            pass


@pytest.mark.parametrize("kind", [Processes, RayCluster])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"workers": 0}, "workers must be a whole number >= 1, got 0"),
        ({"threads": 1.5}, "threads must be a whole number >= 1, got 1.5"),
        ({"retries": -1}, "retries must be a whole number >= 0, got -1"),
    ],
)
def test_counts_that_are_none_are_refused(kind, options, says):
    with pytest.raises(ValueError, match=says):
        kind(**options)
