"""How good each method's gradient is: bias, variance and time against brute force."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..models.checks import check_choice, check_count
from .gradient_bench import Bench, Contender

if TYPE_CHECKING:
    import pandas as pd

    from ..inference.objective import Method

TARGETS = ("marginal", "elbo", "importance")
TASK_EXAMPLES = 8  # of a task's training split, unless told
PLAIN_SAMPLES = 8
_TIMED = 30


def gradient_report(
    model: Callable[..., Any],
    data: Any,
    methods: Sequence[str] | Mapping[str, Method] | None = None,
    draws: int = 2000,
    *,
    parameters: Iterable[Tensor] | None = None,
    n_examples: int | None = None,
    targets: Mapping[str, str] | None = None,
    copies: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Measure the gradients of methods against those of their objectives.

    The exact gradients come from brute force: the model is conditioned on each route.
    A method is measured against the objective its ``unbiased_for`` names; one that
    claims nothing against the router ELBO where its ``wiring`` speaks of an ELBO, else
    against the marginal: then its bias is the price of the method, not a fault.
    Methods are ranked among those of the same objective alone.

    All examples are one batch; nothing is trained. Schedules stand at their first step.
    The router's parameters (columns ``router_...``) are those that log p(a | x)
    depends on and log p(y | x, a) does not; a guide's own parameters count among all
    where the objective is the guide's.

    Args:
        model: A Pyro program, small enough to run once a route.
        data: A task (its training split), a split, or a tuple ``(x, y)``, ``(x,)``.
        methods: Names in ``METHODS`` (all of them by default), or methods by label.
        draws: Gradient draws a method; 20,000 for a proof. Where examples are
            independent, several copies of the data are one call, so that the numbers
            are means of ``copies`` draws each, at least 250 of them.
        parameters: Tensors to take gradients in; needed where the model is no
            ``nn.Module``.
        n_examples: The first so many examples; by default all, 8 of a task's.
        targets: By label ``"marginal"``, ``"elbo"`` or ``"importance"`` in place of
            what is said above.
        copies: Copies of the data in a call; 1 for methods that join the examples of a
            batch.
        seed: Of the draws.
        progress: Say on stderr which method is at work.

    Returns:
        A row a method: ``method``; ``target``; ``claim`` and ``verdict``; ``bias``,
        |E draw - g| / |g|, and ``bias_error``; ``squared_bias`` (debiased, relative)
        and its error; ``variance`` (trace of a draw's covariance); ``cosine`` of the
        mean to g; ``far``, the share of coordinates beyond 4 standard errors; ``time``
        of a draw in seconds (median, interleaved); ``relative_time`` and
        ``relative_cost``, variance x time, both to plain score function (the router as
        guide, 8 samples, no baseline); ``rank`` by it among the methods of the target
        that claim no bias and show none; ``draws``; ``squared_norm`` |g|^2; the same
        for ``router_``. In ``.attrs``: ``left_out``, methods that do not apply, and
        why; ``refuted``, labels of methods that claim no bias and have one;
        ``plain``, ``n_routes`` and ``n_examples``.

    Raises:
        ValueError: If the model has too many routes, or no method applies.
    """
    from pandas import DataFrame

    from ..inference.structure import untouched_randomness

    check_count("draws", draws, least=2)
    for target in (targets or {}).values():
        check_choice("targets", target, TARGETS)
    x, y = _examples(data, n_examples)
    with untouched_randomness():
        torch.manual_seed(seed)
        bench = Bench(model, x, y, parameters, targets or {}, draws, copies)
        contenders, left_out = _enter(bench, _chosen(methods), seed)
        plain = bench.enter("plain", _plain())
        seconds = _times([*contenders, plain], seed)
        rows = []
        for contender in [plain, *contenders]:
            if progress:
                print(f"gradients of {contender.label}", file=sys.stderr, flush=True)
            torch.manual_seed(seed)
            rows.append(bench.measure(contender, seconds[contender.label]))
    reference, *rows = rows
    table = _ranked(DataFrame(rows), reference)
    refuted = (table["claim"] == "unbiased") & (table["verdict"] == "biased")
    table.attrs = {
        "left_out": left_out,
        "refuted": list(table["method"][refuted]),
        "plain": {name: reference[name] for name in ("variance", "time", "bias")},
        "n_routes": len(bench.table.values),
        "n_examples": len(x),
    }
    return table


def _enter(
    bench: Bench, methods: Mapping[str, Method], seed: int
) -> tuple[list[Contender], dict[str, str]]:
    """The methods that apply, and why the others do not.

    Raises:
        ValueError: If none does.
    """
    contenders, left_out = [], {}
    for label, method in methods.items():
        torch.manual_seed(seed)
        try:
            contenders.append(bench.enter(label, method))
        except (ValueError, TypeError, NotImplementedError) as error:
            left_out[label] = " ".join(str(error).split())
    if not contenders:
        reasons = "; ".join(f"{label}: {why}" for label, why in left_out.items())
        raise ValueError(f"no method applies to this model: {reasons}")
    return contenders, left_out


def _times(contenders: Sequence[Contender], seed: int) -> dict[str, float]:
    """Median seconds of a draw, every method timed in turn."""
    seconds: dict[str, list[float]] = {c.label: [] for c in contenders}
    torch.manual_seed(seed)
    for _ in range(_TIMED):
        for contender in contenders:
            begun = time.perf_counter()
            contender.gradient()
            seconds[contender.label].append(time.perf_counter() - begun)
    return {label: statistics.median(found) for label, found in seconds.items()}


def _ranked(table: pd.DataFrame, plain: Mapping[str, Any]) -> pd.DataFrame:
    """The rows with what is relative to plain score function, ranked by it."""
    table = table.copy()
    table["relative_time"] = table["time"] / plain["time"]
    for part in ("", "router_"):
        less = table[f"{part}variance"] / plain[f"{part}variance"]
        table[f"{part}relative_cost"] = less * table["relative_time"]
    fair = (table["claim"] == "unbiased") & (table["verdict"] != "biased")
    cost = table["relative_cost"].where(fair)
    table["rank"] = cost.groupby(table["target"]).rank(method="min").astype("Int64")
    return table.sort_values(["target", "rank", "bias"], ignore_index=True)


def _plain() -> Method:
    from ..inference.baselines import NoBaseline
    from ..inference.score_function import ScoreFunction

    return ScoreFunction(n_samples=PLAIN_SAMPLES, baseline=NoBaseline())


def _chosen(methods: Sequence[str] | Mapping[str, Method] | None) -> dict[str, Method]:
    from ..inference.methods import METHODS, get_method

    if isinstance(methods, str):
        raise TypeError(f"methods must be a sequence of names, got {methods!r}")
    if isinstance(methods, Mapping):
        return {label: get_method(method) for label, method in methods.items()}
    return {
        name: get_method(name) for name in (METHODS if methods is None else methods)
    }


def _examples(data: Any, n_examples: int | None) -> tuple[Tensor, Tensor | None]:
    """The first examples of a task, a split or a tuple."""
    if n_examples is not None:
        check_count("n_examples", n_examples)
    if hasattr(data, "train"):
        data = data.train
        n_examples = TASK_EXAMPLES if n_examples is None else n_examples
    x, y = data[0], data[1] if len(data) > 1 else None
    return x[:n_examples], None if y is None else y[:n_examples]
