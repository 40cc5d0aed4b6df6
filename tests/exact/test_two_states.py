"""Prior and likelihood that disagree by d nats: router (0, -d), likelihood (-d, 0).

Both states then have the same joint probability, so the posterior is (1/2, 1/2) and the
gradient of log p(y | x) in the router's logits is +-(sigmoid(d) - 1/2), whatever d.
Pyro's own contraction shifts each factor by its own maximum: in float32 it loses the
gradient from d = 16 on, and the value from 104.
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO

from latentroute.inference import (
    build,
    evaluate,
    fit,
    log_marginal,
    plan_enumeration,
    route_posterior,
)
from latentroute.models import route

DISTANCES = [5.0, 20.0, 105.0, 1000.0]
N = 3


class TwoStates(torch.nn.Module):
    """Router logits and log-likelihoods as parameters; nothing depends on x."""

    def __init__(self, d, static=False):
        super().__init__()
        self.router = torch.nn.Parameter(torch.tensor([0.0, -d]))
        self.likelihood = torch.nn.Parameter(torch.tensor([-d, 0.0]))
        self.static = static

    def forward(self, x, y=None):
        if self.static:
            a = route("a", dist.Categorical(logits=self.router))
        with pyro.plate("data", len(x), dim=-1):
            if not self.static:
                logits = self.router.expand(len(x), 2)
                a = route("a", dist.Categorical(logits=logits))
            share = len(x) if self.static else 1  # d nats in all
            pyro.factor("y", (self.likelihood[a] / share).expand(*a.shape[:-1], len(x)))


def expected(d):
    """log p(y), and its gradients in the router's logits and the likelihoods."""
    half = 1 / (1 + math.exp(-d)) - 0.5
    value = math.log(2) - d - math.log1p(math.exp(-d))
    return value, torch.tensor([-half, half]), torch.tensor([0.5, 0.5])


def pyro_loss(net, x):
    """Pyro's own exact objective, per example."""
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    return elbo.differentiable_loss(net, lambda *args: None, x) / len(x)


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("d", DISTANCES)
def test_gradient_of_the_objective(d, static):
    net, x = TwoStates(d, static), torch.zeros(N, 1)
    value, router, likelihood = expected(d)
    share = N if static else 1
    loss = build("exact", net)(x)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(-value / share, rel=1e-6)
    loss.backward()
    torch.testing.assert_close(net.router.grad, -router / share, rtol=0, atol=1e-4)
    torch.testing.assert_close(
        net.likelihood.grad, -likelihood / share, rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("d", DISTANCES)
def test_marginal_and_posterior(d, static):
    net, x = TwoStates(d, static), torch.zeros(N, 1)
    value, router, _ = expected(d)
    marginal = log_marginal(net, x)
    assert marginal.shape == (() if static else (N,))
    torch.testing.assert_close(
        marginal, torch.full_like(marginal, value), rtol=1e-6, atol=1e-4
    )
    marginal.sum().backward()
    share = 1 if static else N
    torch.testing.assert_close(net.router.grad, share * router, rtol=0, atol=1e-4)
    net.zero_grad()
    posterior = route_posterior(net, x)
    half = torch.full_like(posterior.log_probs, math.log(0.5))
    torch.testing.assert_close(posterior.log_probs, half, rtol=0, atol=1e-4)
    # log p(a = 1 | y) = c - log(1 + e^c), c = l_1 - l_0 + r_1 - r_0: slope 1/2.
    posterior.log_probs[0, 1].backward()
    slope = torch.tensor([-0.5, 0.5])
    torch.testing.assert_close(net.router.grad, slope, rtol=0, atol=1e-4)


@pytest.mark.parametrize("d", DISTANCES)
def test_evaluation_and_buffered_routes(d):
    net, x = TwoStates(d), torch.zeros(N, 1)
    value, router, _ = expected(d)
    seen = evaluate(net, x)
    half = torch.full((N, 1, 2), 0.5)
    torch.testing.assert_close(seen.route_probs, half, rtol=0, atol=1e-4)
    torch.testing.assert_close(
        seen.log_marginal, torch.full((N,), value), rtol=1e-6, atol=1e-4
    )
    buffer = build(
        "topk-buffer", net, n_data=N, capacity=2, w_fresh=0.0, w_buffer=1.0, seed=0
    )
    buffer(x).backward()
    torch.testing.assert_close(net.router.grad, -router, rtol=0, atol=1e-4)
    assert plan_enumeration(net, x, budget=2) == {"a": "enumerate"}


@pytest.mark.parametrize("d", [20.0, 105.0, 1000.0])
def test_pyros_own_gradient_is_wrong(d):
    """The negative control: were it right, the tests above would show nothing."""
    net, x = TwoStates(d), torch.zeros(N, 1)
    loss = pyro_loss(net, x)
    loss.backward()
    value, router, _ = expected(d)
    assert (net.router.grad + router).abs().max() > 0.4
    assert torch.isinf(loss) if d > 104 else loss.item() == pytest.approx(-value)


def test_pyros_own_gradient_is_right_where_the_two_agree():
    net, x = TwoStates(5.0), torch.zeros(N, 1)
    pyro_loss(net, x).backward()
    torch.testing.assert_close(net.router.grad, -expected(5.0)[1], rtol=0, atol=1e-4)


def probability_of_the_right_state(net):
    return net.router.softmax(-1)[1].item()


def descend(loss, net, *, lr, steps=12):
    optimiser = torch.optim.SGD([net.router], lr=lr)
    for _ in range(steps):
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()


@pytest.mark.parametrize("d", [20.0, 105.0, 1000.0])
def test_training_moves_the_router_to_what_the_likelihood_says(d):
    """Twelve steps, the first of which move the logits d / 10 nearer each.

    Pyro at d = 20 needs twenty; at 105 and 1,000 it stays for ever.
    """
    x = torch.zeros(N, 1)
    net = TwoStates(d)
    net.likelihood.requires_grad_(False)
    objective = build("exact", net)
    descend(lambda: objective(x), net, lr=d / 10)
    assert probability_of_the_right_state(net) > 0.9
    other = TwoStates(d)
    other.likelihood.requires_grad_(False)
    descend(lambda: pyro_loss(other, x), other, lr=d / 10)
    assert probability_of_the_right_state(other) < 0.01


@pytest.mark.parametrize("d", [20.0, 105.0, 1000.0])
def test_fit_reaches_the_right_answer(d):
    net = TwoStates(d)
    net.likelihood.requires_grad_(False)
    result = fit(net, (torch.zeros(N, 1),), "exact", steps=60, lr=d / 20)
    assert probability_of_the_right_state(net) > 0.99
    assert all(math.isfinite(row["loss"]) for row in result.history)
    assert result.history[-1]["loss"] == pytest.approx(0.0, abs=0.02)
