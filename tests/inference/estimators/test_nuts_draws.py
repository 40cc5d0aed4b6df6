"""Draws of the weights by NUTS, against quadrature and a closed form.

Means of draws are compared by a z-test whose standard errors come from the effective
sample size; each may fail right code with probability 5e-10 (Student's t with 50
degrees of freedom, fewer than any effective sample size here).
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.ops.stats import effective_sample_size
from scipy.stats import t as student
from torch.distributions import Normal

from latentroute.guides import LaplacePrior, NormalPrior
from latentroute.inference import NUTS, fit
from tests.inference.estimators.gated import gated
from tests.statistics import COMPARISON_RATE, LEDGER


def assert_moments(draws, expected):
    """Fail where means of draws (chains, draws) are not as expected."""
    for value, truth_of_it in zip(draws, expected, strict=True):
        n = min(float(effective_sample_size(value)), value.numel())
        assert n > 50, "too few to trust the standard error"
        z = (value.mean() - truth_of_it) / (value.std() / math.sqrt(n))
        LEDGER.spend(COMPARISON_RATE)
        most = float(student.isf(COMPARISON_RATE / 2, 50))
        assert abs(z) < most, f"z = {z:.1f}: {value.mean():.3f}, not {truth_of_it:.3f}"


def gated_moments(x, y, prior):
    """E w, Var w and E w_0 w_1 on a grid, the two routes summed by hand."""
    axis = torch.linspace(-8, 10, 301, dtype=torch.float64)
    gate, level = torch.meshgrid(axis, axis, indexing="ij")
    total = prior.distribution(axis).log_prob(gate)
    total = total + prior.distribution(axis).log_prob(level)
    for x_n, y_n in zip(x[:, 0], y, strict=True):
        share = torch.sigmoid(gate * x_n)
        here = share * Normal(level, 0.6).log_prob(y_n).exp()
        there = (1 - share) * Normal(0.0, 0.6).log_prob(y_n).exp()
        total = total + (here + there).log()
    weight = (total - total.max()).exp()
    weight = weight / weight.sum()
    means = [(weight * w).sum() for w in (gate, level)]
    spread = [
        (weight * (w - m).square()).sum()
        for w, m in zip((gate, level), means, strict=True)
    ]
    return [*means, *spread, (weight * gate * level).sum()]


def moments_about(draws, means):
    """What has the expectations above, of draws (chains, draws, 2)."""
    one, two = draws.unbind(-1)
    return [one, two, (one - means[0]).square(), (two - means[1]).square(), one * two]


def test_draws_follow_the_posterior_by_quadrature():
    model, (x, y), w = gated()
    prior = LaplacePrior(1.5)
    result = fit(
        model, (x, y), NUTS(n_chains=2, warmup=100, prior=prior, max_tree_depth=4),
        parameters=[w], steps=350, log_every=350,
    )  # fmt: skip
    draws = result.weight_draws
    assert (draws.n_chains, draws.n_draws) == (2, 250)
    assert draws.names == ("parameter_0",) and draws.parameters[0] is w
    expected = gated_moments(x, y, prior)
    assert_moments(moments_about(draws.values[0], expected), expected)
    # The negative controls: two other priors.
    for other in (NormalPrior(), NormalPrior(scale=6.0)):
        wrong = gated_moments(x, y, other)
        with pytest.raises(AssertionError, match="z ="):
            assert_moments(moments_about(draws.values[0], wrong), wrong)
    stats = {name: value.shape for name, value in draws.stats.items()}
    named = ("lp", "diverging", "acceptance_rate", "n_steps", "tree_depth")
    assert stats == dict.fromkeys(named, (2, 250))
    assert 0.6 < draws.stats["acceptance_rate"].mean() < 0.99
    assert draws.stats["tree_depth"].max() <= 4 and draws.stats["n_steps"].max() <= 15
    assert_consistent(result, (x, y), w)


def assert_consistent(result, args, w):
    """Each draw's lp is minus N times the loss there; the model holds the last one."""
    draws = result.weight_draws
    assert torch.equal(w, draws.values[0][0, -1])
    for chain, draw in ((0, 249), (1, 17)):
        with draws.at(chain, draw):
            lp = -len(args[0]) * result.objective(*args).item()
        assert draws.stats["lp"][chain, draw].item() == pytest.approx(lp, rel=1e-9)
    last = -draws.stats["lp"][:, -1].mean() / len(args[0])
    assert result.history[-1]["loss"] == pytest.approx(last.item(), rel=1e-9)


def test_draws_under_a_static_route_follow_the_mixture():
    """y = w or y = 0 for all examples at once: two normals, known in closed form."""
    y = torch.tensor([1.4, 2.1, 1.9, 1.4], dtype=torch.float64)
    logit = -4.5  # about what the data say for y = w
    w = torch.zeros((), dtype=torch.float64, requires_grad=True)

    def model(x, y=None):
        a = pyro.sample("a", dist.Categorical(logits=torch.tensor([0.0, logit])))
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("y", dist.Normal(w * a, 1.0), obs=y)

    result = fit(
        model, (torch.zeros(4, 1), y), NUTS(n_chains=1, warmup=60, max_tree_depth=3),
        parameters=[w], steps=460, log_every=460,
    )  # fmt: skip
    mean, variance = y.sum() / 5, 1 / 5
    share = torch.sigmoid(logit + 0.5 * math.log(variance) + y.sum() ** 2 / 10)
    assert 0.2 < share < 0.8
    first, second = share * mean, share * (variance + mean**2) + (1 - share)
    draws = result.weight_draws.values[0]
    assert_moments([draws, draws.square()], [first, second])
    assert draws.mean() < mean - 0.5  # which one route for certain would give
