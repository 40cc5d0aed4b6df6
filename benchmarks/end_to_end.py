"""What a comparison takes beside its training loops: start, measures, plots, report.

    python -m latentroute.benchmarks.end_to_end

runs ``latentroute compare`` with the options of ``dev.py compare``, and before and
after it the bare loops (loss, gradient, Adam; no measures, no checkpoints) of the same
methods and seeds, one after the other on one thread. Two ratios are printed: of wall
times, which is what one waits for and where the comparison has a worker a processor,
and of processor times, which is what all of it costs. The first means something only
where no other program wants the processors.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import torch

from .. import tasks
from ..inference import build
from ..inference.default_network import default_network
from ..inference.training_data import batches
from .resources import children_seconds
from .timing import Ratio

TASK = "digits"
METHODS = ("exact", "score-function", "hard-em", "topk-buffer")
BACKEND = "process"  # these are dev.py's, and its 4 seeds
STEPS, BATCH, RATE = 1000, 128, 1e-2  # compare's defaults
WANTED = 1.3  # of wall times


class Spent(NamedTuple):
    """Seconds of the wall's clock, and of processors."""

    wall: float
    processor: float


def end_to_end(seeds: int) -> tuple[Ratio, Ratio]:
    """A comparison's wall time over that of its bare loops, and its processor time."""
    before = bare_loops(seeds)
    whole = comparison(seeds)
    loops = before, bare_loops(seeds)
    setting = f"{TASK}, {len(METHODS)} methods, {seeds} seeds"
    wall, processor = (
        _ratio(f"comparison, {kind} time", setting, spent, *others, wanted=wanted)
        for kind, spent, others, wanted in zip(
            Spent._fields, whole, zip(*loops, strict=True), (WANTED, None), strict=True
        )
    )
    return wall, processor


def _ratio(
    name: str, setting: str, whole: float, *loops: float, wanted: float | None
) -> Ratio:
    middle = whole / (sum(loops) / len(loops))
    low, high = whole / max(loops), whole / min(loops)
    reference = "its bare loops, one after the other on one thread"
    return Ratio(name, setting, middle, low, high, reference, 1e3 * whole, wanted)


def comparison(seeds: int) -> Spent:
    """The command line from its start to its end."""
    processor, wall = children_seconds(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        options = ["--task", TASK, "--methods", ",".join(METHODS)]
        options += ["--seeds", str(seeds), "--backend", BACKEND, "--out", folder]
        subprocess.run(
            [sys.executable, "-m", "latentroute", "compare", *options],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    return Spent(time.perf_counter() - wall, children_seconds() - processor)


def bare_loops(seeds: int) -> Spent:
    """Every method and seed, one after the other in this process."""
    task = tasks.load(TASK)
    loops = [bare_loop(task, m, s) for s in range(seeds) for m in METHODS]
    wall, processor = map(sum, zip(*loops, strict=True))
    return Spent(wall, processor)


def bare_loop(task: tasks.Task, method: str, seed: int) -> Spent:
    """A training without anything beside it."""
    torch.manual_seed(seed)
    net = default_network(task)
    x, y = task.train.x, task.train.y
    objective = build(method, net, n_data=len(x), seed=seed, example=(x[:2], y[:2]))
    optimiser = torch.optim.Adam(objective.parameters(), lr=RATE, fused=True)
    rows = batches(len(x), BATCH, seed, 0)
    processor, wall = time.process_time(), time.perf_counter()
    for _ in range(STEPS):
        index = next(rows)
        optimiser.zero_grad()
        objective(x[index], y[index], index).backward()
        optimiser.step()
    return Spent(time.perf_counter() - wall, time.process_time() - processor)


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for found in end_to_end(options.seeds):
        wanted = f"; wanted: {found.wanted}" if found.wanted else ""
        print(
            f"{found.name} ({found.setting}): {found.milliseconds / 1e3:.1f} s, "
            f"{found.ratio:.2f} ({found.low:.2f} to {found.high:.2f}) of "
            f"{found.reference}{wanted}"
        )


if __name__ == "__main__":
    main()
