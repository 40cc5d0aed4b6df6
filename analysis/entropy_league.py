"""Estimators of the router ELBO at given path entropies, at equal evaluations."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..models.checks import check_count
from .route_tables import RouteTables, TableProgram, route_tables, scale_to_entropy

if TYPE_CHECKING:
    import pandas as pd

    from ..inference.objective import Method, Objective
    from ..models.layered import LayeredNetwork

Problem = Callable[[int], "tuple[LayeredNetwork, Tensor, Tensor]"]

WARM_UP = 10  # calls: buffers fill, averages settle
LEARN_STEPS = 200  # of an estimator's own network, on the frozen model
_LEARN_ROWS = 128
_ROWS = 1024  # draws in a call, over the examples


class Evaluations(NamedTuple):
    """Module evaluations an example that one draw of a gradient takes.

    Attributes:
        with_gradient: Those that the backward pass goes through.
        without: Those that only choose routes.
    """

    with_gradient: float
    without: float

    @property
    def total(self) -> float:
        """Both kinds alike."""
        return self.with_gradient + self.without


class Spread(NamedTuple):
    """Draws of an estimator on tables.

    Attributes:
        variance: Trace of the covariance of a draw, a batch of the examples once.
        far: Share of coordinates whose mean is over 4 standard errors from the truth.
    """

    variance: float
    far: float


def entropy_league(
    problem: Problem,
    methods: Mapping[str, Method],
    entropies: Sequence[float],
    seeds: int = 8,
    *,
    draws: int = 1000,
    progress: bool = False,
) -> pd.DataFrame:
    """Variance of estimators of the router ELBO, from sure routers to undecided ones.

    Each network's routers are scaled until the mean entropy of p(a | x) is the one
    asked for. Each estimator stands beside plain score function with the leave-one-out
    baseline at as many samples as take the same module evaluations, which are counted
    as the network runs. What an estimator learns (a baseline, a control variate) is
    trained first, on the frozen network.

    Args:
        problem: Makes the network, in float64, and the examples of a seed.
        methods: By label; each must be unbiased for the router ELBO.
        entropies: In nats.
        seeds: How many networks.
        draws: Gradient draws of each estimator, of a batch of all examples.
        progress: Say on stderr what is at work.

    Returns:
        A row for each seed, entropy and method: ``variance``; ``far``; ``evaluations``
        and ``free``, those without gradient; ``relative``, the variance over that of
        leave-one-out at as many evaluations of both kinds, and ``relative_gradient``,
        at as many with gradient.

    Raises:
        ValueError: If a method estimates another objective, an entropy cannot be had,
            or a count is wrong.
    """
    from pandas import DataFrame

    for name, value in (("seeds", seeds), ("draws", draws)):
        check_count(name, value, least=1 if name == "seeds" else 2)
    for label, method in methods.items():
        if method.unbiased_for != "elbo":
            raise ValueError(
                f"the league is of estimators of the router ELBO, and {label} is "
                f"unbiased for {method.unbiased_for}: leave it out"
            )
    rows = []
    for seed in range(seeds):
        for entropy in entropies:
            if progress:
                told = f"network {seed + 1} of {seeds}, {entropy} nats"
                print(told, file=sys.stderr, flush=True)
            rows += _at(problem, methods, entropy, seed, draws)
    return DataFrame(rows)


def count_evaluations(
    method: Method, net: LayeredNetwork, x: Tensor, y: Tensor
) -> Evaluations:
    """Run one draw and count the rows that the network's modules are evaluated on."""
    from ..inference.methods import build

    objective = build(method, net, n_data=len(x), example=(x, y), seed=0)
    for _ in range(WARM_UP):
        objective(x, y)
    counts = {True: 0, False: 0}

    def count(_: Any, __: Any, value: Tensor) -> None:
        counts[torch.is_grad_enabled()] += value[..., 0].numel()

    handles = [bank.register_forward_hook(count) for bank in net.banks]
    objective(x, y)
    for handle in handles:
        handle.remove()
    return Evaluations(counts[True] / len(x), counts[False] / len(x))


def spread(method: Method, tables: RouteTables, *, draws: int, seed: int = 0) -> Spread:
    """Draw gradients on tables, many in a call.

    Args:
        method: Unbiased for the router ELBO.
        tables: Of a network.
        draws: Of a batch of all examples, at least.
        seed: Of the draws.
    """
    from ..inference.methods import build

    n = len(tables.x)
    rows = n * max(1, _ROWS // n)
    program = TableProgram(tables, rows)
    objective = build(
        method, program, n_data=rows, example=(program.x, None), seed=seed
    )
    _learn(objective, program)
    for _ in range(WARM_UP):
        objective(program.x)
    found = []
    for _ in range(-(-draws * n // rows)):
        program.zero_grad()
        objective(program.x).backward()
        found.append(program.gradients().unflatten(0, (-1, n)))
    return _spread(torch.cat(found), tables.elbo_gradient)


def _spread(found: Float[Tensor, "draws examples d"], truth: Tensor) -> Spread:
    """Of draws an example, those of the mean over examples."""
    n_draws, n, _ = found.shape
    variance = found.var(0).sum(0) / n**2  # (D,)
    off = (found.mean((0, 1)) - truth).abs()
    limit = 4 * (variance / n_draws).sqrt() + 1e-9 * truth.abs().max()
    return Spread(variance.sum().item(), (off > limit).double().mean().item())


def _learn(objective: Objective, program: TableProgram) -> None:
    """Train what is the estimator's own."""
    known = {id(p) for p in program.parameters()}
    own = [p for p in objective.parameters() if id(p) not in known]
    if not own:
        return
    optimiser = torch.optim.Adam(own, lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(LEARN_STEPS):
        index = torch.randperm(len(program.x), generator=generator)[:_LEARN_ROWS]
        optimiser.zero_grad()
        objective(program.x[index], None, index).backward()
        optimiser.step()


def _at(
    problem: Problem,
    methods: Mapping[str, Method],
    entropy: float,
    seed: int,
    draws: int,
) -> list[dict[str, Any]]:
    """The rows of one network at one entropy."""
    net, x, y = problem(seed)
    scale_to_entropy(net, x, y, list(net.routers.parameters()), entropy)
    tables = route_tables(net, x, y, list(net.parameters()))
    plain: dict[int, float] = {}

    def leave_one_out(evaluations: float) -> float:
        n_samples = max(2, round(evaluations / len(net.banks)))
        if n_samples not in plain:
            plain[n_samples] = spread(_plain(n_samples), tables, draws=draws).variance
        # as many evaluations, where they are no whole number of samples
        return plain[n_samples] * n_samples * len(net.banks) / evaluations

    rows = []
    for label, method in methods.items():
        cost = count_evaluations(method, net, x, y)
        found = spread(method, tables, draws=draws)
        rows.append(
            {
                "seed": seed,
                "entropy": entropy,
                "method": label,
                "variance": found.variance,
                "far": found.far,
                "evaluations": cost.total,
                "free": cost.without,
                "relative": found.variance / leave_one_out(cost.total),
                "relative_gradient": found.variance / leave_one_out(cost.with_gradient),
            }
        )
    return rows


def _plain(n_samples: int) -> Method:
    from ..inference.score_function import ScoreFunction

    return replace(ScoreFunction(), n_samples=n_samples)


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Means over networks of the ratios, geometric, with 95% intervals.

    Args:
        table: What :func:`entropy_league` gives.

    Returns:
        A row for each method and entropy: evaluations, the means of ``relative`` and
        ``relative_gradient`` with ``_low`` and ``_high`` (Student's t over networks, of
        logarithms; NaN with one network), the greatest ratio, and ``far``.
    """
    from pandas import DataFrame
    from scipy import stats

    rows = []
    for (method, entropy), group in table.groupby(["method", "entropy"], sort=False):
        row: dict[str, Any] = {"method": method, "entropy": entropy}
        row |= {"networks": len(group), "far": group["far"].mean()}
        row |= {name: group[name].mean() for name in ("evaluations", "free")}
        for name in ("relative", "relative_gradient"):
            logs = group[name].map(math.log)
            n = len(logs)
            half = (
                stats.t.ppf(0.975, n - 1) * logs.std() / n**0.5 if n > 1 else math.nan
            )
            middle = logs.mean()
            row[name] = math.exp(middle)
            row[f"{name}_low"] = math.exp(middle - half)
            row[f"{name}_high"] = math.exp(middle + half)
            row[f"{name}_max"] = group[name].max()
        rows.append(row)
    return DataFrame(rows)
