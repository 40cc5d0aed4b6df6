"""Hand-made evaluations, runs and comparisons: no model is trained here."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import xarray as xr

from latentroute.analysis.datatree import tree_from_evaluation


class Evaluation(NamedTuple):
    """The fields of inference.evaluate.Evaluation."""

    names: tuple[str, ...]
    n_choices: tuple[int, ...]
    log_marginal: torch.Tensor
    route_probs: torch.Tensor
    router_probs: torch.Tensor
    routes: torch.Tensor
    predictive: torch.Tensor
    y_draws: torch.Tensor
    exact: bool
    coupled: bool = False


class Data(NamedTuple):
    evaluation: Evaluation
    x: torch.Tensor
    y: torch.Tensor
    routes: torch.Tensor


def make_data(
    *,
    n: int = 60,
    n_choices: Sequence[int] = (3, 3),
    classes: int | None = 4,
    outputs: int = 1,
    draws: int = 7,
    level: float = -0.5,
    concentration: float = 0.2,
    seed: int = 0,
) -> Data:
    """A made-up evaluation whose mean log-likelihood is about `level`."""
    rng = np.random.default_rng(seed)
    n_sites, most = len(n_choices), max(n_choices)
    probs = np.zeros((2, n, n_sites, most), dtype=np.float32)
    y = rng.integers(0, classes, n) if classes else rng.normal(size=(n, outputs))
    key = y if classes else np.digitize(y[:, 0], [-0.5, 0.5])
    for site, m in enumerate(n_choices):
        alpha = np.full((int(np.max(key)) + 1, m), concentration)
        favourite = (np.arange(len(alpha)) + site) % m
        alpha[np.arange(len(alpha)), favourite] += 4
        rows = rng.gamma(alpha[key] + 1e-3, size=(2, n, m))
        probs[:, :, site, :m] = rows / rows.sum(-1, keepdims=True)
    cumulative = probs[0].cumsum(-1)
    u = rng.uniform(size=(draws, n, n_sites, 1))
    routes = np.minimum((u > cumulative).sum(-1), np.array(n_choices) - 1)
    if classes:
        predictive = rng.dirichlet(np.ones(classes), n).astype(np.float32)
        y_draws = rng.integers(0, classes, (draws, n))
    else:
        predictive = (y + rng.normal(size=y.shape)).astype(np.float32)
        y_draws = predictive + rng.normal(size=(draws, *y.shape)).astype(np.float32)
        y = y.astype(np.float32)
    evaluation = Evaluation(
        names=tuple(f"route_{i}" for i in range(n_sites)),
        n_choices=tuple(n_choices),
        log_marginal=torch.tensor(rng.normal(level, 0.1, n), dtype=torch.float32),
        route_probs=torch.tensor(probs[0]),
        router_probs=torch.tensor(probs[1]),
        routes=torch.tensor(routes),
        predictive=torch.tensor(predictive),
        y_draws=torch.tensor(y_draws),
        exact=True,
    )
    x = torch.tensor(rng.normal(size=(n, 5)), dtype=torch.float32)
    return Data(evaluation, x, torch.tensor(y), torch.tensor(routes[0]))


def make_history(
    steps: int = 40, log_every: int = 10, n_sites: int = 2, seed: int = 0
) -> list[dict[str, Any]]:
    """Rows as `fit` writes them."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        decay = np.exp(-3 * step / steps)
        row = {"step": step, "loss": 0.3 + 2 * decay + rng.normal(0, 0.1)}
        if step % log_every == 0:
            h_a = (0.2 + decay) * np.linspace(0.9, 1.1, n_sites) * rng.uniform(0.9, 1.1)
            h_b = np.full(n_sites, 1.08) - 0.1 * rng.uniform(size=n_sites)
            row |= {
                "h_a": float(h_a.mean()),
                "h_b": float(h_b.mean()),
                "h_a_layers": h_a.tolist(),
                "h_b_layers": h_b.tolist(),
                "valid": -0.4 - 2 * decay + rng.normal(0, 0.03),
                "seconds": 0.01 * step,
            }
        rows.append(row)
    return rows


def make_run(
    *,
    attrs: Mapping[str, Any] | None = None,
    seed: int = 0,
    known: bool = False,
    names: Sequence[str] = (),
    **options: Any,
) -> xr.DataTree:
    """A run; with `known`, its true routes too; its sites under other `names`."""
    data = make_data(seed=seed, **options)
    if names:
        data = data._replace(evaluation=data.evaluation._replace(names=tuple(names)))
    history = make_history(n_sites=len(data.evaluation.names), seed=seed)
    own = {"method": "exact", "seed": seed, "task": "toy", "wall_time": 2.0 + seed}
    return tree_from_evaluation(
        data.evaluation,
        data.x,
        data.y,
        routes=data.routes if known else None,
        history=history,
        attrs=own | dict(attrs or {}),
    )


def make_comparison(
    methods: Sequence[str] = ("exact", "score-function"),
    seeds: Sequence[int] = (0, 1, 2),
    *,
    failed: Sequence[tuple[str, int]] = (),
    **options: Any,
) -> xr.DataTree:
    """What `inference.compare` returns, from made-up runs."""
    nodes: dict[str, xr.DataTree] = {}
    for i, method in enumerate(methods):
        for seed in seeds:
            attrs = {"method": method, "seed": seed}
            if (method, seed) in failed:
                error = {"error": "ValueError: loss is NaN at step 3"}
                node = xr.DataTree(xr.Dataset(attrs=attrs | error))
            else:
                level = -0.5 - 0.3 * i
                own = {"seed": 10 * i + seed, "level": level, "attrs": attrs}
                node = make_run(**(own | options))
            nodes[f"{method}/seed_{seed}"] = node
    tree = xr.DataTree.from_dict({"/": xr.Dataset()} | nodes)
    tree.attrs.update(
        task="toy",
        seeds=str(list(seeds)),
        methods="[" + ", ".join(f'"{m}"' for m in methods) + "]",
        prior_log_lik=-1.4,
    )
    return tree


@pytest.fixture(scope="session")
def data() -> Callable[..., Data]:
    return make_data


@pytest.fixture(scope="session")
def history() -> Callable[..., list[dict[str, Any]]]:
    return make_history


@pytest.fixture(scope="session")
def run_tree() -> Callable[..., xr.DataTree]:
    return make_run


@pytest.fixture(scope="session")
def comparison_tree() -> Callable[..., xr.DataTree]:
    return make_comparison
