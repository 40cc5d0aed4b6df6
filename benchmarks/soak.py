"""Memory and speed of a long training: a million tiny steps in one process.

    python -m latentroute.benchmarks.soak --out benchmarks

writes soak.csv there: step, resident memory, milliseconds a step. At the end a fresh
process trains beside the old one, block by block in turn, in processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

BLOCK = 1000  # steps between two looks
WARM = 10_000  # steps until everything has happened once
PAIRS = 20  # blocks of the old process and of the fresh one, in turn
STATM = Path("/proc/self/statm")
OFTEN = 5000  # steps between measurements, and between checkpoints


class Look(NamedTuple):
    """What a training process says after a block.

    Attributes:
        step: Steps so far.
        resident: Memory in MiB.
        milliseconds: Of processor time a step, over the block.
    """

    step: int
    resident: float
    milliseconds: float


class Training:
    """A process that trains one block each time it is asked to.

    Args:
        steps: In all.
        folder: For its checkpoints.
    """

    def __init__(self, steps: int, folder: str) -> None:
        words = [sys.executable, "-P", "-m", "latentroute.benchmarks.soak"]
        self._process = subprocess.Popen(
            [*words, "--worker", folder, "--steps", str(steps)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def block(self) -> Look:
        """Train a block."""
        process = self._process
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the training process has no pipes")
        process.stdin.write("go\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the training process ended: code {process.wait()}")
        return Look(*json.loads(line))

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


def work(steps: int, folder: str) -> None:
    """The training process: waits for a line before each block, says a Look after."""
    import time

    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from ..inference import fit
    from ..models import LayeredNetwork

    done, begun = 0, 0.0

    def look(*_: object) -> None:
        nonlocal done, begun
        done += 1
        if done % BLOCK == 0:
            spent = (time.process_time() - begun) / BLOCK * 1e3
            print(json.dumps([done, resident(), spent]), flush=True)
            if not sys.stdin.readline():
                raise SystemExit("nobody asks for more steps")
            begun = time.process_time()

    register_optimizer_step_post_hook(look)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = LayeredNetwork(
        2, 1, n_layers=1, n_modules=2, hidden_features=4, head="normal"
    )
    x = torch.randn(32, 2)
    sys.stdin.readline()
    begun = time.process_time()
    fit(
        net,
        (x, x.sum(1)),
        "exact",
        steps=steps,
        batch_size=4,
        log_every=OFTEN,
        checkpoint=folder,
        checkpoint_every=OFTEN,
    )


def resident() -> float:
    """Memory of this process in MiB, from the kernel (Linux)."""
    pages = STATM.read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20


def soak(
    steps: int, folder: Path, table: Path | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train, and look at each block.

    Args:
        steps: In all.
        folder: For checkpoints.
        table: CSV file that gets each look as it comes.

    Returns:
        The blocks of the long training; and the last of them beside a fresh process's.
    """
    long = Training(steps, str(folder / "long"))
    fresh = Training(steps, str(folder / "fresh"))
    looks: list[Look] = []

    def look() -> float:
        looks.append(long.block())
        if table is not None:
            one = pd.DataFrame(looks[-1:]).round(3)
            one.to_csv(table, index=False, mode="a", header=len(looks) == 1)
        return looks[-1].milliseconds

    try:
        for _ in range(steps // BLOCK - PAIRS):
            look()
        for _ in range(WARM // BLOCK):
            fresh.block()
        times = [(look(), fresh.block().milliseconds) for _ in range(PAIRS)]
    finally:
        long.close()
        fresh.close()
    return pd.DataFrame(looks), pd.DataFrame(times, columns=["old", "fresh"])


def report(looks: pd.DataFrame, times: pd.DataFrame) -> str:
    """What was found, in two lines."""
    warm = looks[looks.step >= WARM].resident
    growth = (warm.max() / warm.iloc[0] - 1) * 100
    ratio = np.median(times.old / times.fresh)
    return (
        f"{looks.step.max()} steps: resident memory {warm.iloc[0]:.1f} MiB after "
        f"{WARM}, at most {warm.max():.1f} later ({growth:+.2f}%)\n"
        f"a step takes {times.old.median():.3f} ms of processor time at the end, "
        f"{times.fresh.median():.3f} in a fresh process (median ratio of "
        f"{len(times)} pairs of {BLOCK} steps: {ratio:.3f})"
    )


def main(words: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, help="folder to write soak.csv to")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.worker:
        work(options.steps, options.worker)
        return
    if not STATM.exists():
        parser.error(f"memory is read from {STATM}, which this system has not: Linux")
    least = WARM + (PAIRS + 1) * BLOCK
    if options.steps < least:
        parser.error(f"--steps must be at least {least}, got {options.steps}")
    table = None if options.out is None else options.out / "soak.csv"
    if table is not None:
        table.parent.mkdir(parents=True, exist_ok=True)
        table.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        looks, times = soak(options.steps, Path(folder), table)
    print(report(looks, times))


if __name__ == "__main__":
    main()
