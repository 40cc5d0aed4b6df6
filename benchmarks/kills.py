"""A training killed at random moments, and resumed each time: is it the same training?

    python -m latentroute.benchmarks.kills --kills 20

trains once undisturbed; then again, in a process that gets SIGKILL at random moments
and is started anew each time; and compares the two bit for bit.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from ..inference import fit
from ..inference.checkpoint import FILE_NAME, load_checkpoint
from ..inference.metrics import FILE_NAME as METRICS_NAME
from ..models import LayeredNetwork

METHOD = "topk-buffer"  # a buffer an example, draws, an optimiser: much to restore
SAVE_EVERY, LOG_EVERY = 3, 7
READY = "training"
SPREAD = 1.2  # moments are up to so many even shares of the training apart


def train(folder: Path, steps: int) -> None:
    """Train, or go on from the folder's checkpoint."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = LayeredNetwork(3, 2, n_layers=2, n_modules=3, hidden_features=4)
    x = torch.randn(40, 3)
    y = (x.sum(1) > 0).long()
    fit(
        net,
        (x, y),
        METHOD,
        steps=steps,
        batch_size=16,
        checkpoint=folder,
        checkpoint_every=SAVE_EVERY,
        log_every=LOG_EVERY,
        resume=True,
    )


def kill_and_resume(
    folder: Path, steps: int, kills: int, seconds: float, seed: int
) -> list[int]:
    """Train in processes that are killed, and in a last one to the end.

    Args:
        folder: For the checkpoints.
        steps: In all.
        kills: How many processes to kill, at most.
        seconds: That the training takes.
        seed: Of the moments.

    Returns:
        The step of the checkpoint that each kill left; fewer, where the training was
        done before.

    Raises:
        RuntimeError: If a process ended by itself, and not well.
    """
    moments = random.Random(seed)
    left: list[int] = []
    while True:
        delay = moments.uniform(0, SPREAD * seconds / max(kills, 1))
        code = _process(folder, steps, delay if len(left) < kills else None)
        if code == 0:
            return left
        if code != -signal.SIGKILL:
            raise RuntimeError(f"the training process ended with code {code}")
        left.append((load_checkpoint(folder, {}) or {"step": 0})["step"])


def _process(folder: Path, steps: int, delay: float | None) -> int:
    """A training process, killed so long after its first checkpoint; its exit code."""
    words = [sys.executable, "-P", "-m", "latentroute.benchmarks.kills"]
    process = subprocess.Popen(
        [*words, "--worker", str(folder), "--steps", str(steps)],
        stdout=subprocess.PIPE,
    )
    with process:
        if process.stdout is not None:
            process.stdout.readline()
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.returncode


def _say_ready() -> Callable[..., None]:
    """Called after each step: says once that the process has saved a checkpoint."""
    steps = itertools.count()

    def ready(*_: object) -> None:
        if next(steps) == SAVE_EVERY:
            print(READY, flush=True)

    return ready


def differences(one: Path, other: Path) -> list[str]:
    """What differs between two folders of a finished training, but for times."""
    states = [load_checkpoint(folder, {}) or {} for folder in (one, other)]
    found = [
        f"checkpoint: {name}"
        for name in sorted(states[0].keys() | states[1].keys())
        if name != "seconds" and not _same(*(state.get(name) for state in states))
    ]
    if _rows(one) != _rows(other):
        found.append(METRICS_NAME)
    left = {path.name for path in other.iterdir()} - {p.name for p in one.iterdir()}
    return [*found, *(f"left behind: {name}" for name in sorted(left))]


def _same(one: Any, other: Any) -> bool:
    """Equality of nested containers but for times, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        names = one.keys() - {"seconds"}
        return names == other.keys() - {"seconds"} and all(
            _same(one[name], other[name]) for name in names
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / METRICS_NAME).read_text(encoding="utf-8").splitlines()
    return [{**json.loads(line), "seconds": None} for line in lines]


def main(words: list[str] | None = None) -> int:
    """The command; exit code 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.worker:
        register_optimizer_step_post_hook(_say_ready())
        train(options.worker, options.steps)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        whole, parts = Path(folder, "whole"), Path(folder, "parts")
        begun = time.perf_counter()
        train(whole, options.steps)
        seconds = time.perf_counter() - begun
        left = kill_and_resume(
            parts, options.steps, options.kills, seconds, options.seed
        )
        found = differences(whole, parts)
        size = (parts / FILE_NAME).stat().st_size
    print(
        f"{options.steps} steps of {METHOD} in {seconds:.0f} s undisturbed, a "
        f"checkpoint of {size / 1024:.0f} KiB every {SAVE_EVERY}; killed {len(left)} "
        f"times, resumed at steps {', '.join(map(str, left))}"
    )
    print(f"differs: {', '.join(found)}" if found else "the same, bit for bit")
    return int(bool(found) or len(left) < options.kills)


if __name__ == "__main__":
    sys.exit(main())
