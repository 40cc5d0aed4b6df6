"""Table and curves of the language benchmark, from its measurements."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ..analysis.plots import save_figure
from ..analysis.plots.style import (
    DASHES,
    MARKERS,
    REFERENCE,
    StyledFigure,
    add_note,
    new_figure,
    style,
)

LABELS = {
    "hard-em": "hard EM",
    "hard-em-10th": "hard EM, every 10th step",
    "topk-buffer": "top-K buffer",
    "score-function": "score function",
    "noisy-top-k": "noisy top-k",
    "dense": "dense GRU",
    "sum": "dense GRU, a sum of K",
}
UNROUTED = ("dense", "sum")
OF_ROUTES = ("h_a", "h_b", "effective", "largest", "dead")
COLUMNS = {  # of the table, with the digits shown
    "perplexity": ("perplexity", 1),
    "perplexity_sampled": ("routes summed out", 1),
    "h_a": ("H_a", 2),
    "h_b": ("H_b", 2),
    "effective": ("modules in use", 1),
    "largest": ("largest share", 2),
    "dead": ("unused", 1),
    "minutes": ("CPU min", 1),
}
CURVES = {  # panels of the figure, top to bottom
    "perplexity": "test perplexity",
    "h_a": "H_a, nats",
    "h_b": "H_b, nats",
    "effective": "modules in use",
}
COLOURS = (
    "C0",
    "C1",
    "C2",
    "C3",
    "C5",
    REFERENCE,
    "C6",
)  # C4 is as grey as the dense one's
SHOWN_WORDS = 5
LEAST_SHARE = 0.01  # of a module whose words are shown


def lines_of(out: Path) -> list[dict[str, Any]]:
    """All measurements so far."""
    if not out.is_file():
        return []
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if "case" in line]


def write_tables(out: Path) -> None:
    """Write the table and the curves beside the measurements."""
    head = json.loads(out.read_text(encoding="utf-8").splitlines()[0])
    table = measurements(lines_of(out), steps=head["settings"]["steps"])
    last = table[table["last"]]
    parts = [
        "# A modular GRU on text",
        about(head, last),
        "## Perplexity and use of modules",
        markdown(last),
        "## Order by seed",
        order(last),
        "## Words of each module",
        words(last),
    ]
    out.with_suffix(".md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    save_figure(curves(table), out.with_suffix(".png"))
    print("\n\n".join(parts[1:6]))


def measurements(lines: Sequence[dict[str, Any]], *, steps: int) -> pd.DataFrame:
    """A row for each run and step."""
    table = pd.DataFrame(list(lines))
    case = pd.DataFrame(
        table.pop("case").tolist(), columns=["modules", "k", "method", "seed"]
    )
    table = pd.concat([case, table], axis=1)
    shares = [np.array(shares) for shares in table["shares"]]
    table["effective"] = [
        math.exp(-np.sum(s[s > 0] * np.log(s[s > 0]))) for s in shares
    ]
    table["largest"] = [s.max() for s in shares]
    table["dead"] = [int((s < 0.1 / len(s)).sum()) for s in shares]
    table["last"] = table["step"] == steps
    runs = table.sort_values("step").groupby(["modules", "k", "method", "seed"])
    table["minutes"] = runs["cpu_seconds"].cumsum() / 60
    for column in ("perplexity_sampled", "perplexity_part", "words_read", "words_next"):
        if column not in table:
            table[column] = None
    return table


def sizes_of(table: pd.DataFrame) -> list[tuple[int, int]]:
    """M and K of the modular networks."""
    modular = table[~table["method"].isin(UNROUTED)]
    return sorted(
        {(m, k) for m, k in zip(modular["modules"], modular["k"], strict=True)}
    )


def rows_of(table: pd.DataFrame, size: tuple[int, int], method: str) -> pd.DataFrame:
    """The measurements of one method at a size; the dense networks' of that K."""
    modules = {"dense": 1, "sum": size[1]}.get(method, size[0])
    return table[
        (table["modules"] == modules)
        & (table["k"] == size[1])
        & (table["method"] == method)
    ]


def markdown(last: pd.DataFrame) -> str:
    """Methods by columns: the mean over seeds, and the least and greatest."""
    lines = [["M", "K", "method", "seeds", *(name for name, _ in COLUMNS.values())]]
    lines.append(["---"] * len(lines[0]))
    for size in sizes_of(last):
        for method, label in LABELS.items():
            rows = rows_of(last, size, method)
            if len(rows):
                unrouted = method in UNROUTED
                cells = [
                    "" if unrouted and c in OF_ROUTES else _spread(rows[c], digits)
                    for c, (_, digits) in COLUMNS.items()
                ]
                modules = rows["modules"].iloc[0]
                sizes = [str(modules), str(size[1])]
                lines.append([*sizes, label, str(len(rows)), *cells])
    return _joined(lines)


def order(last: pd.DataFrame) -> str:
    """Methods of each size and seed, the lowest perplexity first."""
    lines = [["M", "K", "seed", "best to worst"], ["---"] * 4]
    for size in sizes_of(last):
        each = pd.concat([rows_of(last, size, method) for method in LABELS])
        for seed, rows in each.groupby("seed"):
            ranked = rows.sort_values("perplexity")
            named = [
                f"{LABELS[m]} {p:.0f}"
                for m, p in zip(ranked["method"], ranked["perplexity"], strict=True)
            ]
            lines.append([*map(str, size), str(seed), ", ".join(named)])
    return _joined(lines)


def words(last: pd.DataFrame) -> str:
    """Words of each module at the smallest size, of the first seed."""
    size = min(sizes_of(last), default=(0, 0))
    lines = [["method", "module", "share", "read there", "predicted there"]]
    lines.append(["---"] * len(lines[0]))
    for method, label in LABELS.items():
        rows = rows_of(last, size, method)
        if method in UNROUTED or not len(rows):
            continue
        run = rows.sort_values("seed").iloc[0]
        share = run["shares"]
        for module in np.argsort(share)[::-1]:
            cells = [_words(run[c], int(module)) for c in ("words_read", "words_next")]
            if share[module] >= LEAST_SHARE and any(cells):
                lines.append([label, str(module), f"{share[module]:.3f}", *cells])
    return _joined(lines)


def about(head: dict[str, Any], last: pd.DataFrame) -> str:
    """What was run, and on what."""
    s, text = head["settings"], head["settings"]["text"]
    versions = ", ".join(f"{n} {v}" for n, v in head["versions"].items())
    return (
        f"Text: {text['source']}, {head['notes'][0]}. {text['n_train']} training and "
        f"{text['n_test']} test windows of {text['window']} words, vocabulary "
        f"{text['n_words']}; {head['notes'][1]}; unigram perplexity "
        f"{head['unigram']:.1f}. Width {s['hidden_features']}, {s['steps']} Adam steps "
        f"of {s['batch_size']} windows, lr {s['lr']}, S = {s['n_samples']} fresh "
        f"routes (every 10th step: 9). Python {head['python']}, {versions}. "
        f"{last['seed'].nunique()} seeds at most: mean (least, greatest). Perplexity: "
        "of the likeliest routes; of noisy top-k the mixture that it trains, without "
        "noise. Routes summed out: by 16 routes a window, an upper bound on average. "
        "H_a along the routes and H_b over all words, nats. Modules in use: exp of the "
        "entropy of the shares. Unused: share below 1/(10 M). Command: "
        "`python -m latentroute.benchmarks.language`."
    )


def curves(table: pd.DataFrame) -> StyledFigure:
    """Means over seeds, with a thin line for each."""
    table = table.copy()
    table["perplexity"] = table["perplexity_part"].fillna(table["perplexity"])
    sizes = sizes_of(table)
    with style():
        figure = new_figure("A modular GRU on text", width=12, height=11)
        panels = figure.subplots(len(CURVES), len(sizes), sharex=True, squeeze=False)
        for column, size in enumerate(sizes):
            for row, (name, label) in enumerate(CURVES.items()):
                axes = panels[row, column]
                _panel(axes, table, size, name)
                axes.set_ylabel(label if column == 0 else "")
            panels[0, column].set_title(f"M = {size[0]}, K = {size[1]}")
            panels[-1, column].set_xlabel("step")
        drawn = [axes.get_legend_handles_labels() for axes in panels[0]]
        named = {
            label: line
            for lines, labels in drawn
            for line, label in zip(lines, labels, strict=True)
        }
        figure.legend(named.values(), named, loc="outside right upper", title="method")
        add_note(
            figure,
            "Thick: mean over seeds; thin: each seed. Perplexity on 250 test windows. "
            "Dotted: log M, and M.",
        )
    return figure


def _panel(axes: Axes, table: pd.DataFrame, size: tuple[int, int], name: str) -> None:
    for i, (method, label) in enumerate(LABELS.items()):
        rows = rows_of(table, size, method)
        rows = rows[rows["step"] > 0] if name == "perplexity" else rows
        if not len(rows) or (method in UNROUTED and name != "perplexity"):
            continue
        for _, run in rows.groupby("seed"):
            run = run.sort_values("step")
            axes.plot(
                run["step"], run[name], color=COLOURS[i], linewidth=0.6, alpha=0.6
            )
        mean = rows.groupby("step")[name].mean()
        axes.plot(
            mean.index,
            mean,
            color=COLOURS[i],
            linestyle=DASHES[1] if method in UNROUTED else "-",
            marker=MARKERS[i],
            markersize=4,
            linewidth=1.8,
            label=label,
        )
    if name == "perplexity":
        axes.set_yscale("log")
        axes.set_yticks(ticks := [100, 150, 200, 300, 500], labels=map(str, ticks))
        axes.minorticks_off()
    else:
        top = size[0] if name == "effective" else math.log(size[0])
        axes.axhline(top, color=REFERENCE, linewidth=1, linestyle=":")
        axes.set_ylim(0, 1.05 * top)


def _spread(values: pd.Series, digits: int) -> str:
    """Mean (least, greatest); empty where there is none."""
    values = values.dropna().astype(float)
    if values.empty:
        return ""
    mean = f"{values.mean():.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({values.min():.{digits}f}, {values.max():.{digits}f})"


def _words(rows: list[list[Any]], module: int) -> str:
    """The words of a module, with its share at each."""
    own = [row for row in rows if row[0] == module][:SHOWN_WORDS]
    return ", ".join(f"`{word}` {share:.2f}" for _, _, word, _, share, _ in own)


def _joined(lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
