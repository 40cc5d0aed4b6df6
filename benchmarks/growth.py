"""How a training step grows in time and memory with N, L, M, S, K and D.

    python -m latentroute.benchmarks.growth --out benchmarks

writes growth.csv, growth.md and growth.png there. Exponents are slopes on log axes over
the three largest sizes; theory is the slope of the arithmetic itself over the same.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch.profiler import ProfilerActivity, profile

from ..analysis.plots import save_figure
from ..inference import build
from ..models import LayeredNetwork
from .growth_figure import growth_figure
from .timing import repeats, seconds

FEATURES, CLASSES = 6, 5
FITTED = 3  # sizes that an exponent is fitted to


class Size(NamedTuple):
    """Of a problem, named as in the mathematics."""

    N: int = 256
    L: int = 2
    M: int = 4
    S: int = 8
    K: int = 4
    D: int = 32


class Line(NamedTuple):
    """One method along one axis."""

    method: str
    axis: str
    values: tuple[int, ...]
    base: Size = Size()

    def sizes(self) -> list[Size]:
        """The sizes along the axis."""
        return [self.base._replace(**{self.axis: value}) for value in self.values]


LINES = (
    Line("exact", "N", (64, 256, 1024, 4096)),
    Line("score-function", "N", (64, 256, 1024, 4096)),
    Line("topk-buffer", "N", (64, 256, 1024, 4096)),
    Line("exact", "L", (1, 2, 3, 4, 5)),
    Line("score-function", "L", (1, 2, 4, 8, 16)),
    Line("exact", "M", (2, 4, 8, 16, 32)),
    Line("score-function", "M", (4, 16, 64, 256)),
    Line("score-function", "S", (2, 8, 32, 128)),
    Line("topk-buffer", "S", (2, 8, 32, 128)),
    Line("topk-buffer", "K", (1, 4, 16, 64), Size(L=4)),
    Line("exact", "D", (16, 64, 256, 1024)),
    Line("score-function", "D", (16, 64, 256, 1024)),
)


def step(method: str, size: Size) -> Callable[[], None]:
    """One training step: loss, gradient, Adam."""
    torch.manual_seed(0)
    x, y = torch.randn(size.N, FEATURES), torch.randint(CLASSES, (size.N,))
    net = LayeredNetwork(
        FEATURES, CLASSES, n_layers=size.L, n_modules=size.M, hidden_features=size.D
    )
    options: dict[str, Any] = {} if method == "exact" else {"n_samples": size.S}
    if method == "topk-buffer":
        options["capacity"] = size.K
    objective = build(
        method, net, n_data=size.N, seed=0, example=(x[:2], y[:2]), **options
    )
    optimiser = torch.optim.Adam(objective.parameters(), lr=1e-3)

    def run() -> None:
        optimiser.zero_grad()
        objective(x, y).backward()
        optimiser.step()

    return run


def arithmetic(method: str, size: Size) -> tuple[float, float]:
    """What a step must do: multiply-adds of its forward passes, and values it keeps.

    A row that enters a layer goes through the router (D M), and through one module for
    each of its routes or, if they are more, through all M (D^2 each); Adam takes some
    passes over the parameters, which count as sixteen multiply-adds each.
    """
    n, layers, m, s, k, d = size
    parameters = layers * m * d * (d + 1) + layers * d * m
    if method == "exact":
        into = [n * m**layer for layer in range(layers)]
        out = [rows * m for rows in into]
    else:
        routes = s + k if method == "topk-buffer" else s
        into = [n, *[n * routes] * (layers - 1)]
        out = [n * routes] * layers
    evaluated = [min(i * m, o) for i, o in zip(into, out, strict=True)]
    work = sum(i * d * m + e * d * d for i, e in zip(into, evaluated, strict=True))
    work += out[-1] * d * CLASSES + n * d * FEATURES
    kept = sum(i * m + o * d for i, o in zip(into, out, strict=True))
    kept += out[-1] * CLASSES + n * d
    return work + 16 * parameters, kept


def peak_bytes(run: Callable[[], None]) -> int:
    """The most that a step holds beside what stood before it, by torch's profiler."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    kineto: Any = profiled.profiler
    events = [e for e in kineto.kineto_results.events() if e.name() == "[memory]"]
    changes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return int(np.cumsum([0, *changes]).max())


def measure(lines: tuple[Line, ...], rounds: int) -> Iterator[dict[str, Any]]:
    """Every line at every size; the sizes of a line in turn, medians over rounds."""
    for line in lines:
        runs = [step(line.method, size) for size in line.sizes()]
        often = [repeats(run) for run in runs]
        times = np.empty((rounds, len(runs)))
        gc.collect()
        for row in times:
            row[:] = [seconds(run, n) for run, n in zip(runs, often, strict=True)]
        for size, run, each in zip(line.sizes(), runs, times.T, strict=True):
            work, kept = arithmetic(line.method, size)
            yield {
                "method": line.method,
                "axis": line.axis,
                **size._asdict(),
                "milliseconds": 1e3 * float(np.median(each)),
                "megabytes": peak_bytes(run) / 1e6,
                "multiply_adds": work,
                "values_kept": kept,
            }


def exponents(table: pd.DataFrame) -> pd.DataFrame:
    """Slopes on log axes over the largest sizes: measured, and of the arithmetic."""
    rows = []
    for (method, axis), group in table.groupby(["method", "axis"], sort=False):
        last = group.sort_values(str(axis)).tail(FITTED)
        sizes = np.log(last[str(axis)])
        rows.append(
            {
                "method": method,
                "axis": axis,
                "from": last[str(axis)].min(),
                "to": last[str(axis)].max(),
                **{
                    name: float(np.polyfit(sizes, np.log(last[column]), 1)[0])
                    for name, column in COLUMNS.items()
                },
            }
        )
    return pd.DataFrame(rows)


COLUMNS = {
    "time": "milliseconds",
    "time, theory": "multiply_adds",
    "memory": "megabytes",
    "memory, theory": "values_kept",
}


def markdown(found: pd.DataFrame, command: str) -> str:
    """The exponents as a page."""
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("torch", "pyro-ppl")
    )
    heading = [*found.columns]
    lines = [heading, ["---"] * len(heading)]
    for row in found.itertuples(index=False):
        lines.append([f"{x:.2f}" if isinstance(x, float) else str(x) for x in row])
    rest = ", ".join(f"{k} = {v}" for k, v in Size()._asdict().items())
    return "\n\n".join(
        [
            "# Growth of a training step",
            f"Made by `{command}` with Python {platform.python_version()}, {versions}, "
            "one thread, processor time. Exponents: slopes on log axes over the three "
            "largest sizes. Theory: of the multiply-adds of the forward passes, and of "
            f"the values kept for the backward pass. Elsewhere {rest}; K's line has "
            "L = 4. Exact's exponent in L is that of M^L over these sizes. Times below "
            "theory: the fixed costs of a step are not yet outgrown, and in D products "
            "of wide matrices run nearer the machine's peak.",
            "\n".join(f"| {' | '.join(line)} |" for line in lines),
        ]
    )


def main() -> None:
    """Measure, print the exponents, write table, page and figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for row in measure(LINES, options.rounds):
        rows.append(row)
        at = f"{row['method']}, {row['axis']} = {row[row['axis']]}"
        print(f"{at}: {row['milliseconds']:.2f} ms, {row['megabytes']:.2f} MB")
    table = pd.DataFrame(rows)
    found = exponents(table)
    command = f"python -m latentroute.benchmarks.growth --rounds {options.rounds}"
    text = markdown(found, command)
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.out / "growth.csv", index=False, float_format="%.6g")
    (options.out / "growth.md").write_text(text + "\n", encoding="utf-8")
    save_figure(growth_figure(table), options.out / "growth.png")


if __name__ == "__main__":
    main()
