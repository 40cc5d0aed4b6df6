"""Gumbel-softmax: unbiased for its own objective, by quadrature; biased for the ELBO.

With two choices the weights are sigmoid((d + e) / temperature), d the difference of the
log-probabilities and e a logistic number: one integral.
"""

import pyro
import pyro.distributions as dist
import pytest
import torch

from latentroute.inference import GumbelSoftmax, build
from latentroute.inference.estimators.gumbel_softmax import gumbel_softmax
from latentroute.inference.schedules import Constant
from tests import brute_force as truth
from tests.inference.estimators.relaxed_nets import draws, make_net
from tests.statistics import assert_frequencies, assert_unbiased, judge

MEANS = torch.tensor([1.3, -0.8], dtype=torch.float64)
ROWS = 8


def model(logits):
    def program(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample(
                "a", dist.OneHotCategorical(logits=logits.expand(len(x), 2))
            )
            return pyro.sample("y", dist.Normal(a @ MEANS, 0.9), obs=y)

    return program


def make():
    logits = torch.tensor([0.4, -0.3], dtype=torch.float64, requires_grad=True)
    x, y = torch.zeros(ROWS, 1), torch.full((ROWS,), 0.6, dtype=torch.float64)
    return logits, (x, y)


def by_quadrature(logits, temperature):
    """E log p(y | x, w): the integral over the quantiles of a logistic number."""
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    noise = u.log() - (-u).log1p()
    first = torch.sigmoid((logits[0] - logits[1] + noise) / temperature)
    mean = first * MEANS[0] + (1 - first) * MEANS[1]
    y = torch.tensor(0.6, dtype=torch.float64)
    return dist.Normal(mean, 0.9).log_prob(y).mean()


def elbo(logits):
    y = torch.tensor(0.6, dtype=torch.float64)
    return (logits.softmax(-1) * dist.Normal(MEANS, 0.9).log_prob(y)).sum()


def drawer(logits, args, **options):
    def draw(seed):
        objective = build(
            GumbelSoftmax(**options), model(logits), parameters=[logits], seed=seed
        )
        return draws(objective, args, [logits], 500)

    return draw


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_unbiased_for_its_own_objective(temperature):
    logits, args = make()
    expected = truth.gradient(-by_quadrature(logits, temperature), [logits])
    options = {"temperature": Constant(temperature), "n_samples": 16}
    assert_unbiased(drawer(logits, args, **options), expected)


def test_biased_for_the_elbo_and_less_so_when_colder():
    """|bias| relative to the ELBO's gradient: 0.58, 0.42, 0.10, 0.03."""
    logits, args = make()
    expected = truth.gradient(elbo(logits), [logits])
    biases = [
        (truth.gradient(by_quadrature(logits, t), [logits]) - expected).norm()
        / expected.norm()
        for t in (1.0, 0.5, 0.1, 0.05)
    ]
    print([round(bias.item(), 3) for bias in biases])
    assert biases[0] > biases[1] > 3 * biases[2] > 6 * biases[3]
    # The same judge refuses what is biased.
    draw = drawer(logits, args, temperature=Constant(1.0), n_samples=16)
    assert not judge(draw(0), -expected).unbiased


def test_the_largest_weight_is_a_draw_of_the_router():
    log_probs = torch.tensor([0.1, 0.6, 0.3]).log().expand(4000, 3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = gumbel_softmax(log_probs, 0.5)
        cold = gumbel_softmax(log_probs, 1e-4)
    assert_frequencies(weights.argmax(-1), log_probs[0].exp())
    torch.testing.assert_close(weights.sum(-1), torch.ones(4000))
    torch.testing.assert_close(
        cold.max(-1).values.mean(), torch.ones(()), atol=1e-3, rtol=0
    )


def test_hard_weights_are_unit_vectors_with_the_soft_ones_gradient():
    """Where y is linear in the weights, their gradients are one and the same."""
    logits = torch.tensor([0.4, -0.3, 0.1], dtype=torch.float64, requires_grad=True)
    values = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)

    def program(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            fn = dist.OneHotCategorical(logits=logits.expand(len(x), 3))
            pyro.factor("y", pyro.sample("a", fn) @ values)

    soft, hard = (
        build("gumbel-softmax", program, parameters=[logits], seed=2, hard=hard)
        for hard in (False, True)
    )
    x = torch.zeros(1, 1)
    one, two = soft(x), hard(x)
    truth.assert_agree(truth.gradient(two, [logits]), truth.gradient(one, [logits]))
    possible = torch.cartesian_prod(values, values, values, values).mean(-1)
    assert torch.isclose(-two.detach(), possible).any()
    assert not torch.isclose(-one.detach(), possible).any()


def test_on_a_network_it_tends_to_the_elbos_gradient():
    net, args, sites = make_net()
    parameters = list(net.parameters())
    expected = truth.gradient(
        -truth.router_elbo(truth.tabulate(net, args, sites)), parameters
    )
    errors = []
    for temperature in (2.0, 0.2):
        method = GumbelSoftmax(Constant(temperature), n_samples=64)
        found = draws(build(method, net, seed=0), args, parameters, 60)
        errors.append(((found.mean(0) - expected).norm() / expected.norm()).item())
    print(errors)
    assert errors[1] < 0.5 * errors[0]
