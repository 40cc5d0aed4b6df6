"""Straight-through and ReinMax: exact expectations over every choice.

With one site the expectation is a sum of M terms. Straight-through is right where the
likelihood is linear in the weights, ReinMax where it is quadratic; each is wrong one
order further, which the same comparison shows.
"""

import pyro
import pyro.distributions as dist
import pytest
import torch

from latentroute.inference import build
from latentroute.inference.estimators.reinmax import reinmax
from latentroute.inference.estimators.straight_through import straight_through
from latentroute.inference.schedules import Constant
from tests import brute_force as truth
from tests.inference.estimators.relaxed_nets import N, draws, make_net
from tests.statistics import assert_unbiased, judge

M = 4
LOGITS = torch.tensor([0.3, -1.1, 0.8, 0.1], dtype=torch.float64)
LINEAR = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
QUADRATIC = torch.randn(
    M, M, generator=torch.Generator().manual_seed(0), dtype=torch.float64
)


def linear(w):
    return w @ LINEAR


def quadratic(w):
    return w @ LINEAR + ((w @ QUADRATIC) * w).sum(-1)


def cubic(w):
    return quadratic(w) + (w @ LINEAR) ** 3


def heun(log_probs, chosen):
    return reinmax(log_probs, chosen, 1.0)


def exact(f, logits=LOGITS):
    """The gradient of E f(onehot(a))."""
    logits = logits.clone().requires_grad_()
    value = (logits.softmax(-1) * f(torch.eye(len(logits), dtype=torch.float64))).sum()
    return torch.autograd.grad(value, logits)[0]


def expected(weights_of, f, logits=LOGITS):
    """The estimator's expectation over every choice."""
    total = torch.zeros_like(logits)
    for m, p in enumerate(logits.softmax(-1)):
        leaf = logits.clone().requires_grad_()
        chosen = torch.eye(len(logits), dtype=torch.float64)[m]
        value = f(weights_of(leaf.log_softmax(-1), chosen))
        total = total + p * torch.autograd.grad(value, leaf)[0]
    return total


@pytest.mark.parametrize(
    ("weights_of", "f", "is_right"),
    [
        (straight_through, linear, True),
        (straight_through, quadratic, False),
        (heun, linear, True),
        (heun, quadratic, True),
        (heun, cubic, False),
        (lambda p, d: reinmax(p, d, 2.0), quadratic, False),
    ],
)
def test_order(weights_of, f, is_right):
    error = (expected(weights_of, f) - exact(f)).norm() / exact(f).norm()
    print(f"relative bias {error:.3g}")
    assert (error < 1e-12) == is_right
    assert is_right or error > 1e-3


def test_reinmax_is_the_papers_algorithm():
    """Algorithm 2 as printed, in logarithms, at a temperature of its own."""
    for temperature in (1.0, 1.7):
        for m in range(M):
            chosen = torch.eye(M, dtype=torch.float64)[m]
            theta = LOGITS.clone().requires_grad_()
            pi0 = theta.softmax(-1)
            pi1 = (chosen + (theta / temperature).softmax(-1)) / 2
            pi1 = ((pi1.log() - theta).detach() + theta).softmax(-1)
            pi2 = 2 * pi1 - pi0 / 2
            weights = pi2 - pi2.detach() + chosen
            (theirs,) = torch.autograd.grad(quadratic(weights), theta)
            leaf = LOGITS.clone().requires_grad_()
            ours = reinmax(leaf.log_softmax(-1), chosen, temperature)
            assert torch.equal(ours.detach(), chosen)
            truth.assert_agree(torch.autograd.grad(quadratic(ours), leaf)[0], theirs)


@pytest.mark.parametrize("weights_of", [straight_through, heun])
@pytest.mark.parametrize("shift", [5.0, -1e3])
def test_a_constant_changes_nothing(weights_of, shift):
    plain = expected(weights_of, cubic)
    moved = expected(weights_of, lambda w: cubic(w) + shift)
    truth.assert_agree(moved, plain)


def regression(logits):
    """log p(y | x, w) is quadratic in the weights of its one site."""

    def program(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample(
                "a", dist.OneHotCategorical(logits=logits.expand(len(x), M))
            )
            return pyro.sample("y", dist.Normal(a @ LINEAR, 1.5), obs=y)

    return program


def test_reinmax_is_unbiased_for_the_elbo_of_a_regression():
    """And straight-through is not, says the same judge."""
    logits = LOGITS.clone().requires_grad_()
    y = torch.linspace(-1.0, 2.0, N, dtype=torch.float64)
    x, model = torch.zeros(N, 1), regression(logits)
    sites = {"a": truth.Choice(torch.eye(M, dtype=torch.float64))}
    elbo = truth.router_elbo(truth.tabulate(model, (x, y), sites))
    gradient = truth.gradient(-elbo, [logits])

    def drawer(method):
        def draw(seed):
            objective = build(
                method, model, parameters=[logits], seed=seed, n_samples=32
            )
            return draws(objective, (x, y), [logits], 500)

        return draw

    assert_unbiased(drawer("reinmax"), gradient)
    verdict = judge(drawer("straight-through")(0), gradient)
    assert not verdict.unbiased and verdict.squared_bias > 0.01


def test_biases_on_a_network():
    """On two layers both are biased; ReinMax less (docs/methods print the numbers)."""
    net, args, sites = make_net(hidden_features=4)
    parameters = list(net.parameters())
    elbo = truth.router_elbo(truth.tabulate(net, args, sites))
    gradient = truth.gradient(-elbo, parameters)
    bias = {}
    for method in ("straight-through", "reinmax"):
        objective = build(method, net, seed=0, n_samples=64)
        found = draws(objective, args, parameters, 100)
        bias[method] = ((found.mean(0) - gradient).norm() / gradient.norm()).item()
    print(bias)
    assert 0.03 < bias["straight-through"] < 1


def test_temperature_of_reinmax_follows_the_step():
    net, args, _ = make_net()
    parameters = list(net.parameters())
    one, two = (
        build("reinmax", net, seed=1, temperature=Constant(t)) for t in (1.0, 2.0)
    )
    a, b = one(*args), two(*args)
    assert torch.equal(a, b)
    assert not torch.equal(truth.gradient(a, parameters), truth.gradient(b, parameters))
