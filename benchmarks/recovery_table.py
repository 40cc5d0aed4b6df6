"""The table of recovery: a row for each line and method, intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..analysis.intervals import mean_interval, success_rate
from .recovery_measure import MITTAL, Numbers

ERRORS = ("ood_error", "ood_error_modes")
HEADINGS = (
    "line, method",
    "recovered",
    "accuracy",
    "log p(y|x)",
    "below the truth",
    "out of distribution",
    "times given",
    "at modes",
    "times given",
    "alignment",
    "inverse MI",
    "collapse",
    "worst collapse",
    "adaptation",
    "H_a",
    "H_b",
    "unused",
    "steps a recovery",
    "seconds a recovery",
    "failed",
)
NOTES = (
    "accuracy, alignment, inverse MI, collapses, adaptation: of the worst layer.",
    "below the truth: log p(y|x) less that of the generating model, in nats.",
    "out of distribution: mean squared error; at modes: with the router's likeliest "
    "module alone.",
    "times given: that error over the one with the true router, geometric mean.",
    "a recovery: of all runs, restarts and lost runs too, over how many recovered.",
    "Means with 95% Student intervals over seeds, shares with Wilson's.",
)


def table(rows: Iterable[Numbers]) -> list[dict[str, Any]]:
    """A dict for each line and method, in the order in which they come.

    Every number is ``{"mean", "low", "high", "n"}`` over the seeds that have it, or
    None; ``recovered`` is ``{"k", "n", "rate", "low", "high"}``; runs that failed count
    as not recovered.
    """
    groups: dict[tuple[str, str], list[Numbers]] = {}
    for row in rows:
        groups.setdefault((row["line"], row["method"]), []).append(row)
    given = {
        line: {row["seed"]: row for row in group}
        for (line, method), group in groups.items()
        if method == "given"
    }
    return [
        {"line": line, "method": method, **summarised(group, given.get(line, {}))}
        for (line, method), group in groups.items()
    ]


def summarised(rows: Sequence[Numbers], given: Mapping[int, Numbers]) -> dict[str, Any]:
    """The numbers of one line and method.

    Args:
        rows: Its runs.
        given: By seed, the run with the true router.
    """
    done = [row for row in rows if "error" not in row]
    hits = [row["recovered"] for row in done if "recovered" in row]
    n = len(hits) + len(rows) - len(done)
    found: dict[str, Any] = {
        "runs": len(rows),
        "failed": len(rows) - len(done),
        "recovered": success_rate(sum(hits), n)._asdict() if hits else None,
        "accuracy": _interval(done, lambda row: min(row["accuracy"]), 0, 1),
        "log_lik": _interval(done, lambda row: row["log_lik"]),
        "gap": _interval(done, lambda row: row["log_lik"] - row["generating"]),
        **{name: _interval(done, _named(name), 0) for name in ERRORS},
        **{f"{name}_ratio": _ratio(done, given, name) for name in ERRORS},
        **{name: _interval(done, _worst(name), 0, 1) for name in MITTAL},
        "h_a": _interval(done, lambda row: row["h_a"], 0),
        "h_b": _interval(done, lambda row: row["h_b"], 0),
        "unused": _interval(done, lambda row: sum(row["unused"]), 0),
    }
    for name in ("steps", "seconds"):
        spent = sum(row.get(name, 0) for row in rows)
        found[f"{name}_to_recovery"] = spent / sum(hits) if any(hits) else None
    return found


def shown(found: Mapping[str, Any]) -> list[str]:
    """A row's cells, in the order of `HEADINGS`."""
    hits = found["recovered"]
    cells = [f"{found['line']}, {found['method']}", "-"]
    if hits:
        ends = f"{hits['low']:.2f} .. {hits['high']:.2f}"
        cells[1] = f"{hits['k']} of {hits['n']} ({ends})"
    errors = [part for name in ERRORS for part in (name, f"{name}_ratio")]
    for name in ("accuracy", "log_lik", "gap", *errors, *MITTAL):
        cells.append(_cell(found[name]))
    cells += [_cell(found[name]) for name in ("h_a", "h_b", "unused")]
    for name in ("steps", "seconds"):
        spent = found[f"{name}_to_recovery"]
        cells.append("-" if spent is None else f"{spent:,.0f}")
    return [*cells, str(found["failed"])]


def _named(name: str) -> Callable[[Numbers], float]:
    return lambda row: float(row[name])


def _worst(name: str) -> Callable[[Numbers], float]:
    return lambda row: max(row[name])


def _interval(
    rows: Sequence[Numbers],
    value: Callable[[Numbers], float],
    low: float = -math.inf,
    high: float = math.inf,
) -> dict[str, Any] | None:
    """The interval over those runs that have the number."""
    values = []
    for row in rows:
        try:
            values.append(float(value(row)))
        except (KeyError, TypeError):  # not measured, or None: not for this line
            continue
    return mean_interval(values, low=low, high=high)._asdict() if values else None


def _ratio(
    rows: Sequence[Numbers], given: Mapping[int, Numbers], name: str
) -> dict[str, Any] | None:
    """Geometric mean of errors over those of the true router, seed by seed."""
    pairs = [(row.get(name), given.get(row["seed"], {}).get(name)) for row in rows]
    logs = [math.log(a / b) for a, b in pairs if a and b]
    if not logs:
        return None
    mean, low, high, n = mean_interval(logs)
    ends = np.exp([mean, low, high]).tolist()
    return dict(zip(("mean", "low", "high"), ends, strict=True)) | {"n": n}


def _cell(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    if math.isnan(found["low"]):
        return f"{found['mean']:.3g}"
    return f"{found['mean']:.3g} ({found['low']:.3g} .. {found['high']:.3g})"
