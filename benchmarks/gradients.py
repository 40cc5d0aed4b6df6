"""The proof: every method's gradient against brute force, 20,000 draws each.

``python -m latentroute.benchmarks.gradients`` writes gradients.csv, gradients.md and
gradients.png beside this file. L = 3 decisions of M = 4 modules (64 routes), S = 4
samples wherever a method takes any, 4 examples, float64. Pyro's own estimators run
beside ours; some of them join the examples of a batch in one weight, so they are run
one draw a call, and a tenth as often.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import platform
import shlex
import sys
from pathlib import Path

import pandas as pd
import torch

from latentroute.analysis import gradient_report
from latentroute.analysis.plots import gradient_league, save_figure
from latentroute.inference import METHODS, Exact, Method, ScoreFunction
from latentroute.inference.baselines import MovingAverage, NoBaseline
from latentroute.models import LayeredNetwork

from .pyro_estimators import CLAIMS, PyroEstimator

HERE = Path(__file__).parent
SAMPLES, EXAMPLES = 4, 4
VERSIONS = ("latentroute", "torch", "pyro-ppl")
COLUMNS = {
    "method": "method",
    "target": "objective",
    "claim": "claims",
    "verdict": "found",
    "bias": "bias",
    "bias_error": "±",
    "variance": "variance",
    "cosine": "cosine",
    "router_verdict": "router: found",
    "router_bias": "router: bias",
    "router_variance": "router: variance",
    "time": "ms a draw",
    "relative_cost": "variance x time",
    "rank": "rank",
    "draws": "draws",
}


def problem(seed: int = 0) -> tuple[LayeredNetwork, tuple[torch.Tensor, torch.Tensor]]:
    """A network whose router has made up its mind in part, and its examples."""
    torch.manual_seed(seed)
    net = LayeredNetwork(3, 3, n_layers=3, n_modules=4, hidden_features=4).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.7 * torch.randn(p.shape, dtype=p.dtype))
    x = torch.randn(EXAMPLES, 3, dtype=torch.double)
    return net, (x, torch.randint(3, (EXAMPLES,)))


def contenders() -> dict[str, Method]:
    """All of METHODS at S samples, and variants worth a row."""
    ours = {name: at_samples(method) for name, method in METHODS.items()}
    plain = ScoreFunction(n_samples=SAMPLES, baseline=NoBaseline())
    moving = ScoreFunction(n_samples=SAMPLES, baseline=MovingAverage())
    return ours | {
        "exact (router ELBO)": Exact(target="router-elbo"),
        "score-function, no baseline": plain,
        "score-function, moving average": moving,
    }


def at_samples(method: Method) -> Method:
    """The method with S samples, where it takes any."""
    fields = {field.name for field in dataclasses.fields(method)}  # type: ignore[arg-type]
    if "n_samples" not in fields:
        return method
    changed: Method = dataclasses.replace(method, n_samples=SAMPLES)  # type: ignore[type-var]
    return changed


def measure(draws: int, pyro_draws: int) -> pd.DataFrame:
    """The table of our methods and Pyro's."""
    net, data = problem()
    ours = gradient_report(
        net,
        data,
        contenders(),
        draws,
        progress=True,
    )
    theirs = gradient_report(
        net,
        data,
        {f"Pyro {kind}": PyroEstimator(kind, SAMPLES) for kind in CLAIMS},
        pyro_draws,
        copies=1,
        progress=True,
    )
    theirs["rank"] = pd.NA  # they are shown, not ranked
    table = pd.concat([ours, theirs], ignore_index=True)
    order = ["target", "rank", "method"]
    table = table.sort_values(order, ignore_index=True)
    table.attrs = {
        **ours.attrs,
        "left_out": ours.attrs["left_out"] | theirs.attrs["left_out"],
        "refuted": ours.attrs["refuted"],
        "refuted_pyro": theirs.attrs["refuted"],
    }
    return table


def about(table: pd.DataFrame, command: str) -> str:
    """How the numbers were made, and what they say."""
    versions = ", ".join(f"{n} {importlib.metadata.version(n)}" for n in VERSIONS)
    lines = [
        f"Made by `{command}` with Python {platform.python_version()}, {versions}. "
        f"{table.attrs['n_routes']} routes, {table.attrs['n_examples']} examples, "
        f"S = {SAMPLES}, float64.",
        "",
        f"Claims of ours that were refuted: {_listed(table.attrs['refuted'])}. "
        f"Of Pyro's: {_listed(table.attrs['refuted_pyro'])}.",
    ]
    for name, reason in table.attrs["left_out"].items():
        lines += ["", f"{name} does not apply: {reason}."]
    return "\n".join(lines)


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"


def markdown(table: pd.DataFrame) -> str:
    """The table as Markdown."""
    shown = table[list(COLUMNS)].copy()
    shown["time"] = 1e3 * shown["time"]
    rows = [list(COLUMNS.values()), ["---"] * len(COLUMNS)]
    rows += [[_cell(value) for value in row] for row in shown.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(value: object) -> str:
    if value is pd.NA:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> int:
    """Write table, description and figure; 1 if a claim of ours is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=20_000)
    parser.add_argument("--pyro-draws", type=int, default=2_000)
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = measure(options.draws, options.pyro_draws)
    command = shlex.join(
        ["python", "-m", "latentroute.benchmarks.gradients", *sys.argv[1:]]
    )
    options.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.out / "gradients.csv", index=False)
    text = f"# Gradients against brute force\n\n{about(table, command)}\n\n"
    (options.out / "gradients.md").write_text(text + markdown(table) + "\n")
    save_figure(gradient_league(table), options.out / "gradients.png")
    print(text + markdown(table))
    return 1 if table.attrs["refuted"] else 0


if __name__ == "__main__":
    sys.exit(main())
