"""Estimators at given path entropies: tables, counts, variances, each by hand."""

import math
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import pytest
import torch

from latentroute.analysis import entropy_league as league
from latentroute.analysis.plots.entropy_league import entropy_figure
from latentroute.analysis.route_tables import (
    TableProgram,
    path_entropy,
    route_tables,
    scale_to_entropy,
)
from latentroute.inference import (
    Exact,
    Hybrid,
    LocalEnumeration,
    MemoryAugmented,
    Method,
    Objective,
    ScoreFunction,
    UnorderedSet,
    build,
)
from latentroute.inference.baselines import LearnedBaseline, NoBaseline
from latentroute.models import LayeredNetwork
from tests import brute_force as truth

N = 3


def problem(seed, n_layers=2, n_modules=3, **options):
    net = LayeredNetwork(
        *(2, 2), n_layers=n_layers, n_modules=n_modules, hidden_features=2, **options
    ).double()
    truth.randomise(net, seed, scale=0.7)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(N, 2, generator=generator, dtype=torch.float64)
    return net, x, torch.randint(2, (N,), generator=generator)


@pytest.fixture(scope="module")
def tables():
    net, x, y = problem(1)
    return route_tables(net, x, y, list(net.parameters()))


def by_hand(tables):
    """(N, P, D) gradients of single-sample score function at each route, and p."""
    p = tables.log_prior.exp()
    score = tables.log_lik.unsqueeze(-1) * tables.prior_jacobian
    return score + tables.lik_jacobian, p


# The tables.


def test_jacobians_add_up_to_the_exact_gradient(tables):
    net, x, y = problem(1)
    expected = truth.router_elbo(
        truth.tabulate(net, (x, y), {f"route_{i}": truth.choices(3) for i in range(2)})
    )
    expected = truth.gradient(expected, list(net.parameters()))
    each, p = by_hand(tables)
    truth.assert_agree((p.unsqueeze(-1) * each).sum(1).mean(0), expected)
    truth.assert_agree(tables.elbo_gradient, expected)


def test_a_program_of_tables_has_the_networks_gradient(tables):
    program = TableProgram(tables, 2 * N)
    build(Exact(target="router-elbo"), program)(program.x).backward()
    found = program.gradients()
    assert found.shape == (2 * N, len(tables.elbo_gradient))
    truth.assert_agree(found[:N], found[N:])
    truth.assert_agree(found.mean(0), tables.elbo_gradient)


def test_static_routes_have_no_tables():
    net, x, y = problem(1, routing="static")
    with pytest.raises(ValueError, match="static"):
        route_tables(net, x, y, list(net.parameters()))


# The entropy.


@pytest.mark.parametrize("entropy", [0.3, 1.0, 2.0])
def test_routers_are_scaled_to_an_entropy(entropy):
    net, x, y = problem(2)
    scale = scale_to_entropy(net, x, y, list(net.routers.parameters()), entropy)
    fresh = problem(2)[0].routers.parameters()
    for scaled, first in zip(net.routers.parameters(), fresh, strict=True):
        torch.testing.assert_close(scaled, scale * first)
    found = truth.tabulate(
        net, (x, y), {f"route_{i}": truth.choices(3) for i in range(2)}
    )
    log_p = found.prior.detach()  # (P, N)
    by_sum = -(log_p.exp() * log_p).sum(0).mean().item()
    assert by_sum == pytest.approx(entropy, abs=1e-5)
    assert path_entropy(net, x, y) == pytest.approx(by_sum)


def test_an_entropy_that_no_scale_gives_is_refused():
    net, x, y = problem(2)
    with pytest.raises(ValueError, match=r"must lie between .* got 2.5"):
        scale_to_entropy(net, x, y, list(net.routers.parameters()), 2.5)


# Variances.


def test_variance_is_that_of_the_sum_over_routes(tables):
    """Plain score function's variance is known: Var(g(a)) / S, a mean over examples."""
    each, p = by_hand(tables)
    p = p.unsqueeze(-1)
    mean = (p * each).sum(1)
    variance = ((p * each.square()).sum(1) - mean.square()).sum(-1)
    expected = variance.sum().item() / N**2 / 4
    found = league.spread(ScoreFunction(4, NoBaseline()), tables, draws=8000)
    assert found.variance == pytest.approx(expected, rel=0.05)
    assert found.far <= 0.01


@pytest.mark.parametrize(
    "method",
    [
        UnorderedSet(3),
        UnorderedSet(3, LearnedBaseline()),
        Hybrid(budget=6),
        LocalEnumeration(n_samples=1),
        MemoryAugmented(capacity=2, n_samples=2),
    ],
    ids=lambda method: type(method).__name__,
)
def test_estimators_of_the_league_are_unbiased_there(tables, method):
    assert league.spread(method, tables, draws=3000).far <= 0.05


@dataclass(frozen=True)
class Wrong(Method):
    """Its own sample is in the baseline."""

    summary: ClassVar[str] = "wrong"
    wiring: ClassVar[str] = "router-as-guide ELBO"
    unbiased_for: ClassVar[str | None] = "elbo"

    def objective(self, model, guide, **options):
        return _Wrong(model, **options)


class _Wrong(Objective):
    def _loss(self, x, y, index):
        terms = self._program.sample(x, y, n_samples=2)
        reward = terms.likelihood.detach()
        weight = reward - reward.mean(0)
        return -(terms.likelihood + weight * sum(terms.prior.values())).mean()


def test_a_wrong_estimator_is_far_off(tables):
    assert league.spread(Wrong(), tables, draws=3000).far > 0.1


# Evaluations.


@pytest.mark.parametrize(
    ("method", "with_gradient", "without"),
    [
        (ScoreFunction(4), 12, 0),
        (UnorderedSet(2), 6, 2 * (1 + 2)),  # at sites 1 and 2, the sites before
        (MemoryAugmented(capacity=2, n_samples=3), 15, 0),
        (LocalEnumeration(n_samples=1), 9 + (1 + 6) + (2 + 3), 0),
        (Exact(target="router-elbo"), 3 + 9 + 27, 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Method) else "",
)
def test_evaluations_are_those_of_the_modules(method, with_gradient, without):
    net, x, y = problem(0, n_layers=3)
    found = league.count_evaluations(method, net, x, y)
    assert found == (with_gradient, without)
    assert found.total == with_gradient + without


def test_hybrid_keeps_to_its_budget():
    for scale in (0.01, 1.0, 30.0):
        net, x, y = problem(0, n_layers=3)
        with torch.no_grad():
            for p in net.routers.parameters():
                p.mul_(scale)
        found = league.count_evaluations(Hybrid(budget=12), net, x, y)
        assert 0 < found.with_gradient <= 12 and found.without == 0


# The league.


def test_the_league_stands_beside_leave_one_out(capsys):
    methods = {
        "leave-one-out": ScoreFunction(3),
        "none": ScoreFunction(3, NoBaseline()),
        "all routes *": UnorderedSet(9),
    }
    table = league.entropy_league(problem, methods, [1.5], 2, draws=200, progress=True)
    assert len(table) == 2 * 3
    assert "network 2 of 2, 1.5 nats" in capsys.readouterr().err
    rows = table.set_index("method")
    # the same method, the same seed, the same draws
    assert rows.loc["leave-one-out", "relative"].tolist() == pytest.approx([1, 1])
    assert (rows.loc["none", "relative"] > 1).all()
    assert (rows.loc["all routes *", "relative"] < 1e-20).all()
    assert (rows.loc["all routes *", "evaluations"] == 18 + 3).all()
    summary = league.summarise(table)
    assert len(summary) == 3 and (summary["networks"] == 2).all()
    figure = entropy_figure(summary)
    assert len(figure.axes) == 2


def test_only_estimators_of_the_elbo_are_ranked():
    with pytest.raises(ValueError, match="exact is unbiased for marginal"):
        league.entropy_league(problem, {"exact": Exact()}, [1.0], 1)
    with pytest.raises(ValueError, match="seeds"):
        league.entropy_league(problem, {"plain": ScoreFunction()}, [1.0], 0)


def test_ratios_are_averaged_as_ratios():
    rows = [
        {"method": "m", "entropy": 1.0, "relative": r, "relative_gradient": 2 * r}
        | {"evaluations": 4.0, "free": 1.0, "far": 0.0}
        for r in (0.5, 2.0)
    ]
    found = league.summarise(pd.DataFrame(rows)).iloc[0]
    assert found["relative"] == pytest.approx(1)
    assert found["relative_gradient"] == pytest.approx(2)
    half = 12.706 * math.log(4) / 2**0.5 / 2**0.5  # Student's t with 1 degree
    assert found["relative_high"] == pytest.approx(math.exp(half), rel=1e-3)
    assert found["relative_max"] == 2
    with pytest.raises(ValueError, match="no methods"):
        entropy_figure(pd.DataFrame())
