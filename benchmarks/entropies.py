"""The league by path entropy: variance at equal evaluations, from sure to undecided.

``python -m latentroute.benchmarks.entropies`` writes entropies.csv, entropies.md and
entropies.png beside this file. L = 3 decisions of M = 4 modules (64 routes), S = 4
samples, float64.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import shlex
import sys
from pathlib import Path

import pandas as pd
import torch

from latentroute.analysis.entropy_league import entropy_league, summarise
from latentroute.analysis.plots import save_figure
from latentroute.analysis.plots.entropy_league import entropy_figure
from latentroute.inference import (
    Hybrid,
    LocalEnumeration,
    MemoryAugmented,
    Method,
    Relax,
    ScoreFunction,
    UnorderedSet,
)
from latentroute.inference.baselines import LearnedBaseline, MovingAverage, NoBaseline
from latentroute.models import LayeredNetwork

from .gradients import VERSIONS

HERE = Path(__file__).parent
LAYERS, MODULES, SAMPLES, EXAMPLES = 3, 4, 4, 8


def problem(seed: int) -> tuple[LayeredNetwork, torch.Tensor, torch.Tensor]:
    """An untrained network and its examples; the routers are scaled afterwards."""
    torch.manual_seed(seed)
    net = LayeredNetwork(
        3, 3, n_layers=LAYERS, n_modules=MODULES, hidden_features=4
    ).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.7 * torch.randn(p.shape, dtype=p.dtype))
    x = torch.randn(EXAMPLES, 3, dtype=torch.double)
    return net, x, torch.randint(3, (EXAMPLES,))


def contenders() -> dict[str, Method]:
    """Estimators of the router ELBO at S routes; those marked * sample only in part."""
    s = SAMPLES
    return {
        "score-function, no baseline": ScoreFunction(s, NoBaseline()),
        "score-function, moving average": ScoreFunction(s, MovingAverage()),
        "score-function, leave-one-out": ScoreFunction(s),
        "score-function, learned": ScoreFunction(s, LearnedBaseline()),
        "relax": Relax(s),
        "unordered-set": UnorderedSet(s),
        "unordered-set, learned": UnorderedSet(s, LearnedBaseline()),
        "memory-augmented, 2 + 2 *": MemoryAugmented(capacity=2, n_samples=2),
        "memory-augmented, 4 + 4 *": MemoryAugmented(capacity=4, n_samples=4),
        "hybrid *": Hybrid(budget=s * LAYERS),
        "local-enumeration *": LocalEnumeration(n_samples=1),
    }


def markdown(summary: pd.DataFrame, column: str) -> str:
    """Methods by entropies, each ratio with its interval."""
    entropies = list(dict.fromkeys(summary["entropy"]))
    headings = ["method", "evaluations", *(f"{h:g} nats" for h in entropies)]
    lines = [headings, ["---"] * len(headings)]
    for method, group in summary.groupby("method", sort=False):
        first, cells = group.iloc[0], []
        for _, row in group.iterrows():
            low, high = row[f"{column}_low"], row[f"{column}_high"]
            cells.append(f"{row[column]:.2g} ({low:.2g}, {high:.2g})")
        spent = f"{first['evaluations'] - first['free']:g} + {first['free']:g}"
        lines.append([str(method), spent, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def about(summary: pd.DataFrame, draws: int, command: str) -> str:
    """How the numbers were made."""
    versions = ", ".join(f"{n} {importlib.metadata.version(n)}" for n in VERSIONS)
    return (
        f"Made by `{command}` with Python {platform.python_version()}, {versions}. "
        f"L = {LAYERS}, M = {MODULES}, S = {SAMPLES}, {EXAMPLES} examples, "
        f"{summary['networks'].max()} networks, {draws} draws of the batch each, "
        "float64. Ratios of variances to that of leave-one-out at as many evaluations: "
        "geometric means over networks, with 95% intervals. Evaluations of modules an "
        "example: with gradient + without. * marks what is sampled in part only."
    )


def main() -> int:
    """Write table, description and figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entropies", default="0.5,1,2,3,4", help="in nats")
    parser.add_argument("--networks", type=int, default=8)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = entropy_league(
        problem,
        contenders(),
        [float(word) for word in options.entropies.split(",")],
        options.networks,
        draws=options.draws,
        progress=True,
    )
    summary = summarise(table)
    command = shlex.join(
        ["python", "-m", "latentroute.benchmarks.entropies", *sys.argv[1:]]
    )
    options.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.out / "entropies.csv", index=False)
    text = [
        "# Variance by path entropy",
        about(summary, options.draws, command),
        "At equal evaluations, those without gradient counted:",
        markdown(summary, "relative"),
        "At equal evaluations with gradient:",
        markdown(summary, "relative_gradient"),
    ]
    (options.out / "entropies.md").write_text("\n\n".join(text) + "\n")
    save_figure(entropy_figure(summary), options.out / "entropies.png")
    print("\n\n".join(text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
