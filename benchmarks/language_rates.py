"""Why K = 3 added modules learn worse than one: the modules' own learning rate.

    python -m latentroute.benchmarks.language_rates --out benchmarks/language_rates.md

trains networks of the language benchmark at its settings, the learning rate of the
GRU's maps alone divided by 1 or by 3. Ten minutes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from ..inference import build
from ..inference.training_data import batches
from ..tasks import TextTask
from .language import Case, Settings, methods, network, read

CASES = (
    (3, "sum", "dense GRU, a sum of 3"),
    (15, "hard-em", "hard EM, M = 15, K = 3"),
)
DIVISORS = (1, 3)


def trained(case: Case, task: TextTask, settings: Settings, divisor: int) -> float:
    """Test perplexity at the likeliest routes, after the benchmark's steps."""
    net, (x, y, _) = network(case, settings), task.train
    objective = build(
        methods(case.k, settings.n_samples)[case.method],
        net,
        n_data=len(x),
        example=(x[:2], y[:2]),
        seed=case.seed,
    )
    maps = list(net.cell.parameters())
    rest = [p for p in objective.parameters() if not any(p is m for m in maps)]
    groups: list[dict[str, Any]] = [
        {"params": maps, "lr": settings.lr / divisor},
        {"params": rest, "lr": settings.lr},
    ]
    optimiser = torch.optim.Adam(groups)
    rows = batches(len(x), settings.batch_size, case.seed, 0)
    for _ in range(settings.steps):
        index = next(rows)
        optimiser.zero_grad()
        objective(x[index], y[index], index).backward()
        optimiser.step()
    return read(net, case, task.test.x, task.test.y).perplexity


def main() -> int:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings()
    task = settings.text.load()
    heads = ["network", *(f"lr / {d}" if d > 1 else "lr" for d in DIVISORS)]
    lines = [heads, ["---"] * len(heads)]
    for modules, method, label in CASES:
        cells = []
        for divisor in DIVISORS:
            reached = [
                trained(Case(modules, 3, method, seed), task, settings, divisor)
                for seed in range(options.seeds)
            ]
            cells.append(", ".join(f"{perplexity:.1f}" for perplexity in reached))
            print(label, divisor, cells[-1], flush=True)
        lines.append([label, *cells])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    options.out.write_text(table + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
