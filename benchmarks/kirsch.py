"""The toy and the two-layer network of Kirsch et al. 2018, by method.

    python -m latentroute.benchmarks.kirsch --out benchmarks/kirsch.jsonl

adds a line to that file for each training that it lacks, and then writes a table (.md)
and curves (.png) from it, beside it. --tables trains nothing.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from .. import tasks
from ..inference import (
    Exact,
    HardEM,
    Method,
    NoisyTopK,
    Recover,
    ScoreFunction,
    default_network,
    evaluate,
    fit,
)
from ..inference.entropies import router_entropies
from ..models import LayeredNetwork
from ..tasks import Split, Task
from .kirsch_tables import write_tables
from .measurements import begin

UNUSED = 0.1  # of a module's equal share
RESTARTS = 2600  # steps of `recover`: three starts and the last phase


class Setting(NamedTuple):
    """A task, its network and how it is trained."""

    task: str
    network: Mapping[str, Any]
    steps: int
    batch_size: int
    lr: float


SETTINGS: Mapping[str, Setting] = {
    "toy": Setting("clusters", {"n_modules": 2}, 1000, 32, 1e-2),
    "digits": Setting("digits", {"n_layers": 2, "n_modules": [10, 8]}, 800, 32, 3e-3),
}
METHODS: Mapping[str, Method] = {
    "hard-em-10th": HardEM(n_samples=9, interval=10),  # as in the authors' code
    "hard-em": HardEM(n_samples=9),
    "score-function": ScoreFunction(n_samples=10),
    "noisy-top-k": NoisyTopK(k=1),
    "exact": Exact(),
    "recover": Recover(),
}


class Case(NamedTuple):
    """One training."""

    setting: str
    method: str
    seed: int


def cases(seeds: int) -> Iterator[Case]:
    """All trainings, seed by seed."""
    for setting in SETTINGS:
        for seed in range(seeds):
            yield from (Case(setting, method, seed) for method in METHODS)


def train(case: Case, *, steps: int | None = None) -> dict[str, Any]:
    """Train and measure one case; every method of a seed has the same first weights.

    Args:
        case: Which.
        steps: In place of the setting's.
    """
    setting, method = SETTINGS[case.setting], METHODS[case.method]
    task = tasks.load(setting.task, seed=case.seed)
    torch.manual_seed(case.seed)
    net = default_network(task, **setting.network)
    own = RESTARTS if case.method == "recover" else setting.steps
    n, begun = steps or own, time.process_time()
    result = fit(
        net,
        task,
        method,
        steps=n,
        batch_size=setting.batch_size,
        lr=setting.lr,
        seed=case.seed,
        log_every=max(1, n // 20),
    )
    curve = [
        [row["step"], row["h_a"], row["h_b"]] for row in result.history if "h_a" in row
    ]
    seconds = time.process_time() - begun
    measured = {"cpu_seconds": round(seconds, 1), "curve": np.round(curve, 4).tolist()}
    return {"case": list(case), "steps": n, **measured, **measure(net, task)}


def measure(net: LayeredNetwork, task: Task) -> dict[str, Any]:
    """Numbers of a trained network on the test split, entropies in nats."""
    test: Split = task.test
    seen = evaluate(net, test.x, test.y, draws=1)
    h = router_entropies(seen.router_probs)
    likeliest = seen.router_probs.argmax(-1).numpy()
    shares = [
        np.bincount(layer, minlength=m) / len(layer)
        for layer, m in zip(likeliest.T, seen.n_choices, strict=True)
    ]
    found: dict[str, Any] = {
        "log_lik": seen.log_marginal.mean().item(),
        "h_a": h.h_a.tolist(),
        "h_b": h.h_b.tolist(),
        "unused": [int((s < UNUSED / len(s)).sum()) for s in shares],
        "largest": [float(s.max()) for s in shares],
    }
    if task.head == "categorical" and seen.predictive is not None:
        right = seen.predictive.argmax(-1) == test.y
        found["accuracy"] = right.float().mean().item()
    return found


def head() -> dict[str, Any]:
    """The first line: what is run, and on what."""
    names = ("torch", "pyro-ppl", "scikit-learn")
    settings = {name: setting._asdict() for name, setting in SETTINGS.items()}
    return {
        "settings": json.loads(json.dumps(settings)),
        "methods": {name: repr(method) for name, method in METHODS.items()},
        "versions": {name: importlib.metadata.version(name) for name in names},
    }


def main() -> int:
    """Train what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/kirsch.jsonl"))
    parser.add_argument("--tables", action="store_true", help="train nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.tables:
        begin(options.out, head())
        lines = options.out.read_text(encoding="utf-8").splitlines()[1:]
        done = {tuple(json.loads(line)["case"]) for line in lines}
        for case in cases(options.seeds):
            if case not in done:
                line = json.dumps(train(case))
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
    write_tables(options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
