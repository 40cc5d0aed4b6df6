"""A sweep that is killed again and again ends with the table of one that was not.

``python -m latentroute.benchmarks.sweep_kills`` trains 6 methods from 4 seeds on digits
in one process, and again in worker processes, where at random moments a worker is ended
by SIGKILL and then the sweep itself, five times; each time it is begun again with
``resume``. It prints what was seen, and its exit code is 1 where a run was lost or done
twice or a number differs in any bit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
import xarray as xr

from latentroute.inference import compare
from latentroute.inference.sweep_folder import count_runs, read_events

METHODS = (
    "exact",
    "score-function",
    "topk-buffer",
    "gumbel-softmax",
    "importance",
    "mean-field",
)
SEEDS, STEPS, DRAWS = 4, 200, 10
N_RUNS = len(METHODS) * SEEDS


def trained(folder: Path | None, backend: str, workers: int | None) -> xr.DataTree:
    """The comparison, begun or taken up."""
    return compare(
        "digits",
        METHODS,
        SEEDS,
        steps=STEPS,
        draws=DRAWS,
        backend=backend,
        workers=workers,
        folder=folder,
        resume=folder is not None,
        progress=True,
    )


class Killed(NamedTuple):
    """One kill of the sweep: runs that were there then, and its workers."""

    done: int
    workers: int
    worker_first: bool


def begin(folder: Path, backend: str, workers: int) -> subprocess.Popen[bytes]:
    """The sweep as a process of its own."""
    words = ["--sweep", str(folder), "--backend", backend, "--workers", str(workers)]
    module = "latentroute.benchmarks.sweep_kills"
    command = [sys.executable, "-P", "-m", module, *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    log = (folder.parent / "log.txt").open("ab")
    with log:
        return subprocess.Popen(command, env=environment, stderr=log)


def kill(sweep: subprocess.Popen[bytes], folder: Path, rng: random.Random) -> Killed:
    """Wait for a random moment, end a worker, wait again, end the sweep."""
    target = done(folder) + rng.randrange(0, 4)
    while done(folder) < target and sweep.poll() is None:
        time.sleep(0.05)
    time.sleep(rng.uniform(0, 1.5))
    workers = training(sweep.pid)
    if workers:
        os.kill(rng.choice(workers), signal.SIGKILL)
        time.sleep(rng.uniform(0, 1.5))
    left = training(sweep.pid)
    sweep.kill()
    sweep.wait()
    wait_for_end(left)
    return Killed(done(folder), len(left), bool(workers))


def done(folder: Path) -> int:
    """Runs that are there."""
    counted = count_runs(folder)
    return 0 if counted is None else counted[0]


def training(pid: int) -> list[int]:
    """The worker processes below a process (Linux)."""
    try:
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    found = []
    for child in map(int, words):
        try:
            line = Path(f"/proc/{child}/cmdline").read_bytes()
        except FileNotFoundError:
            continue
        if b"spawn_main" in line or line.startswith(b"ray::"):  # no helper of either
            found.append(child)
        found += training(child)
    return found


def wait_for_end(pids: list[int]) -> None:
    """Wait until orphans have ended, as they must.

    Raises:
        RuntimeError: If one goes on.
    """
    end = time.monotonic() + 120
    while any(Path(f"/proc/{pid}/exe").exists() for pid in pids):
        if time.monotonic() > end:
            raise RuntimeError(f"workers {pids} go on after the sweep was killed")
        time.sleep(0.1)


def apart(one: xr.DataTree, two: xr.DataTree) -> list[str]:
    """Variables that differ in any bit, seconds aside."""
    found = []
    for node in one.subtree:
        first, second = node.to_dataset(), two[node.path].to_dataset()
        if set(first.variables) != set(second.variables):
            found.append(node.path)
            continue
        found += [
            f"{node.path}/{name}"
            for name in first.data_vars
            if "seconds" not in str(name) and not first[name].equals(second[name])
        ]
    return found


def done_twice(folder: Path) -> list[str]:
    """Runs that ended twice, or were begun after they had ended."""
    ended: Counter[str] = Counter()
    again = []
    for event in read_events(folder):
        if event["event"] == "finished":
            ended[event["run"]] += 1
        elif event["event"] in ("started", "died") and ended[event["run"]]:
            again.append(event["run"])
    return again + [name for name, times in ended.items() if times > 1]


def check(kills: int, backend: str, workers: int, seed: int) -> bool:
    """The whole experiment; whether all held."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "sweep"
        killed: list[Killed] = []
        while len(killed) < kills:
            sweep = begin(folder, backend, workers)
            killed.append(kill(sweep, folder, rng))
            print(f"kill {len(killed)}: {killed[-1]}", file=sys.stderr, flush=True)
            if killed[-1].done == N_RUNS:
                raise RuntimeError("the sweep ended before its last kill: more runs")
        last = begin(folder, backend, workers)
        if last.wait() != 0:
            raise RuntimeError((folder.parent / "log.txt").read_text()[-2000:])
        disturbed = trained(folder, "serial", None)  # all is there: nothing is trained
        events = read_events(folder)
        expected = trained(None, "serial", None)
        found = {
            "runs": N_RUNS,
            "kills of the sweep": len(killed),
            "runs there at each": [one.done for one in killed],
            "kills of a worker": sum(one.worker_first for one in killed),
            "runs begun": sum(e["event"] == "started" for e in events),
            "deaths noted": sum(e["event"] == "died" for e in events),
            "runs done": done(folder),
            "done twice": done_twice(folder),
            "numbers that differ": apart(expected, disturbed),
        }
        print(json.dumps(found, indent=1))
        bad = found["done twice"] or found["numbers that differ"]
        return not bad and found["runs done"] == N_RUNS


def main() -> int:
    """The experiment, or one of its sweeps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=5, help="of the sweep")
    parser.add_argument("--backend", default="process", help="process or ray")
    parser.add_argument("--workers", type=int, default=2, help="of the backend")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--sweep", type=Path, help="be the sweep of this folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.sweep is not None:
        trained(options.sweep, options.backend, options.workers)
        return 0
    held = check(options.kills, options.backend, options.workers, options.seed)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
