"""Are the true modules found? One JSON line a run; a killed run goes on where it was.

    python -m latentroute.benchmarks.recovery --line composition-2-4 --method recover

Settings were chosen on task and weight seeds from 100 on; here are 0 .. 9.
A run's seed is that of its task and of its weights.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pyro import poutine

from latentroute import tasks
from latentroute.analysis.truth import truth
from latentroute.inference import (
    Exact,
    Fit,
    Method,
    Recover,
    default_network,
    evaluate,
    fit,
    route_posterior,
)
from latentroute.inference.regularisers import MarginalEntropy
from latentroute.inference.schedules import Linear
from latentroute.models import GivenRouting

UNUSED = 0.1  # of a module's equal share
Numbers = dict[str, Any]


class Line(NamedTuple):
    """A task, its network and the steps that every method gets."""

    task: str
    steps: int
    options: dict[str, Any]
    network: dict[str, Any]


LINES = {
    "composition-2-4": Line("composition", 3000, {"n_layers": 2, "n_modules": 4}, {}),
    "composition-3-4": Line("composition", 21000, {"n_layers": 3, "n_modules": 4}, {}),
    "clusters-2": Line("clusters", 2600, {}, {"n_modules": 2}),
    "clusters-15": Line("clusters", 2600, {}, {"n_modules": 15}),
    **{
        f"rules-{r}": Line("rules", 4300, {"n_rules": r}, {"router_input": "input"})
        for r in (4, 8, 16)
    },
}
METHODS: dict[str, Method] = {
    "recover": Recover(),
    "exact": Exact(),
    "exact-balanced": Exact(),
    "given": Exact(),
}


def run(name: str, method: str, seed: int) -> Numbers:
    """Train and measure once."""
    line = LINES[name]
    task = tasks.load(line.task, seed=seed, **line.options)
    torch.manual_seed(seed)
    net = default_network(task, **line.network)
    bonus = MarginalEntropy(Linear(5.0, 0.0, int(0.8 * line.steps)))
    model: Any = given(net, task.train) if method == "given" else net
    begun = time.perf_counter()
    result = fit(
        model,
        task if method != "given" else task.train[:2],
        METHODS[method],
        steps=line.steps,
        seed=seed,
        regularisers=[bonus] if method == "exact-balanced" else (),
        log_every=line.steps,
    )
    seconds = time.perf_counter() - begun
    row = {"line": name, "method": method, "seed": seed, "steps": line.steps}
    return row | {"seconds": round(seconds, 1), **measure(result, net, task, method)}


def measure(result: Fit, net: Any, task: Any, method: str) -> Numbers:
    """Everything reported of one trained network."""
    test = task.test
    found: Numbers = {}
    if "ood" in task.extra:
        found["ood_error"] = error(
            net, task.extra["ood"], given_routes=method == "given"
        )
    if method == "given":
        return found
    seen = evaluate(net, test.x, test.y, draws=1)
    posterior = route_posterior(net, test.x, test.y)
    modes = posterior.routes[posterior.log_probs.argmax(-1)]
    at_modes = truth(seen.route_probs, test.routes, modes=modes)
    by_router = truth(seen.router_probs, test.routes)
    unused = [
        int((np.bincount(layer, minlength=m) < UNUSED / m * len(layer)).sum())
        for layer, m in zip(modes.T.numpy(), seen.n_choices, strict=True)
    ]
    return found | {
        "log_lik": seen.log_marginal.mean().item(),
        "accuracy": at_modes.accuracy.tolist(),
        "recovered": bool(at_modes.accuracy.min() >= 0.95),
        "purity": purity(modes.numpy(), test.routes.numpy()),
        "unused": unused,
        "alignment": by_router.alignment.tolist(),
        "inverse_mi": by_router.inverse_mi.tolist(),
        "collapse_worst": by_router.collapse_worst.tolist(),
        "generating": generating(task, test),
    }


def purity(modes: np.ndarray, true: np.ndarray) -> list[float]:
    """Per layer, examples whose module serves their true map more than any other."""
    shares = []
    for found, right in zip(modes.T, true.T, strict=True):
        counts = np.zeros((found.max() + 1, right.max() + 1))
        np.add.at(counts, (found, right), 1)
        shares.append(float(counts.max(1).sum() / len(found)))
    return shares


def error(net: Any, split: Any, *, given_routes: bool) -> float:
    """Mean squared error of the predictive mean, at the true routes or at its own."""
    mean: Any = evaluate(net, split.x, split.y, draws=1).predictive
    if given_routes:
        program = given(net, split)
        with torch.no_grad():
            trace = poutine.trace(program).get_trace(split.x, split.y)
        target: Any = trace.nodes["y"]["fn"]
        mean = target.mean
    return float((mean - split.y).square().mean())


def given(net: Any, split: Any) -> GivenRouting:
    """The network on the true routes of a split."""
    sites = [f"route_{i}" for i in range(split.routes.shape[1])]
    return GivenRouting(net, split.routes, sites)


def generating(task: Any, split: Any) -> float | None:
    """Mean log p(y | x, true route) of the generating model, which has noise 0.1.

    An upper bound of its log p(y | x) where the context leaves routes open.
    """
    if task.name not in ("composition", "clusters"):
        return None
    mean = task.true_mean(split.x, split.routes)
    log_p = torch.distributions.Normal(mean, 0.1).log_prob(split.y)
    return float(log_p.sum(-1).mean())


def wilson(k: int, n: int) -> tuple[float, float]:
    """The 95% interval of a share."""
    z = 1.96
    middle = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    return middle - half, middle + half


def main() -> None:
    """Run what is missing, and print the recovered share."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--line", choices=LINES, required=True)
    parser.add_argument("--method", choices=METHODS, default="recover")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/recovery.jsonl"))
    options = parser.parse_args()
    wanted = range(options.first, options.first + options.seeds)
    rows = read(options.out, options.line, options.method)
    for seed in wanted:
        if seed not in rows:
            rows[seed] = run(options.line, options.method, seed)
            with options.out.open("a") as file:
                file.write(json.dumps(rows[seed]) + "\n")
        print(json.dumps(rows[seed]), flush=True)
    hits = [rows[seed]["recovered"] for seed in wanted if "recovered" in rows[seed]]
    if hits:
        low, high = wilson(sum(hits), len(hits))
        print(f"recovered {sum(hits)} of {len(hits)}, 95% {low:.2f} to {high:.2f}")


def read(path: Path, line: str, method: str) -> dict[int, Numbers]:
    """The runs that are done, by seed."""
    if not path.exists():
        return {}
    rows = [json.loads(text) for text in path.read_text().splitlines()]
    return {r["seed"]: r for r in rows if (r["line"], r["method"]) == (line, method)}


if __name__ == "__main__":
    main()
