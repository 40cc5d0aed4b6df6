"""What a comparison takes beside its training loops: start, measures, plots, report.

    python -m latentroute.benchmarks.end_to_end

runs ``latentroute compare`` as ``dev.py compare`` has it, then the bare loops (loss,
gradient, Adam; no measures, no checkpoints) of the same methods and seeds, and prints
the ratio of their processor times.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time

import torch

from .. import tasks
from ..inference import build
from ..inference.default_network import default_network
from ..inference.training_data import batches
from .resources import children_seconds
from .timing import Ratio

METHODS = ("exact", "score-function", "hard-em", "topk-buffer")  # dev.py's
STEPS, BATCH, RATE = 1000, 128, 1e-2  # compare's defaults


def end_to_end(seeds: int) -> Ratio:
    """A comparison's processor time over that of its bare loops."""
    before = children_seconds()
    with tempfile.TemporaryDirectory() as folder:
        options = ["--task", "digits", "--methods", ",".join(METHODS)]
        options += ["--seeds", str(seeds), "--out", folder]
        subprocess.run(
            [sys.executable, "-m", "latentroute", "compare", *options],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    whole = children_seconds() - before
    task = tasks.load("digits")
    loops = sum(bare_loop(task, m, s) for s in range(seeds) for m in METHODS)
    found = whole / loops
    return Ratio(
        "comparison, end to end",
        f"digits, {len(METHODS)} methods, {seeds} seeds",
        found,
        found,
        found,
        "its bare training loops",
        1e3 * whole,
        1.3,
    )


def bare_loop(task: tasks.Task, method: str, seed: int) -> float:
    """Processor seconds of a training without anything beside it."""
    torch.manual_seed(seed)
    net = default_network(task)
    x, y = task.train.x, task.train.y
    objective = build(method, net, n_data=len(x), seed=seed, example=(x[:2], y[:2]))
    optimiser = torch.optim.Adam(objective.parameters(), lr=RATE, fused=True)
    rows = batches(len(x), BATCH, seed, 0)
    begun = time.process_time()
    for _ in range(STEPS):
        index = next(rows)
        optimiser.zero_grad()
        objective(x[index], y[index], index).backward()
        optimiser.step()
    return time.process_time() - begun


def main() -> None:
    """Print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = end_to_end(options.seeds)
    print(f"{found.name}, {found.setting}: {found.ratio:.2f} of {found.reference}")


if __name__ == "__main__":
    main()
