"""Draws from the right posterior of the weights pass calibration, others fail."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from latentroute.analysis import weight_calibration
from latentroute.guides import NormalPrior
from latentroute.inference.weight_draws import WeightDraws
from latentroute.models import LayeredNetwork
from tests.analysis.calibration_programs import fails, passes

SHARES = torch.tensor([0.3, 0.7])
SLOPES = torch.tensor([1.0, -0.5])
X = torch.linspace(-2.0, 2.0, 6)
GRID = torch.linspace(-5.0, 5.0, 2001)
DRAWS = 10
SIMULATIONS = 60

weight = torch.tensor(0.25)


def program(x, y=None):
    with pyro.plate("data", len(x), dim=-1):
        a = pyro.sample("a", dist.Categorical(SHARES))
        mean = weight * SLOPES[a] * x
        return pyro.sample("y", dist.Normal(mean, 0.5), obs=y)


def on_a_grid(temperature=1.0, shift=0.0):
    """Independent draws of the posterior, by plain sums over routes on a fine grid."""

    def infer(model, x, y, seed):
        assert weight.item() == 0.25, "every call starts from the model's own weights"
        mean = GRID[:, None, None] * SLOPES * x[:, None]
        each = dist.Normal(mean, 0.5).log_prob(y[:, None]) + SHARES.log()
        likelihood = each.logsumexp(-1).sum(-1)
        log_p = dist.Normal(0.0, 1.0).log_prob(GRID) + temperature * likelihood
        generator = torch.Generator().manual_seed(seed)
        cell = torch.multinomial(log_p.softmax(0), DRAWS, True, generator=generator)
        within = (torch.rand(DRAWS, generator=generator) - 0.5) * 0.005
        weight.fill_(99.0)  # trained in place
        drawn = (GRID[cell] + within + shift).reshape(2, DRAWS // 2)
        return WeightDraws((weight,), ("w",), (drawn,))

    return infer


def calibrate(infer, **options):
    return weight_calibration(
        program,
        X,
        infer,
        prior=NormalPrior(),
        parameters=[weight],
        **({"simulations": SIMULATIONS} | options),
    )


def test_the_exact_posterior_passes():
    found = calibrate(on_a_grid())
    logs = ("log_prior", "log_likelihood", "log_joint")
    assert found.quantities == ("w", *logs, "a=0", "a=1")
    assert found.pit.shape == (SIMULATIONS, 6)
    assert found.n_draws == DRAWS
    assert weight.item() == 0.25
    assert passes(found.pit)


@pytest.mark.parametrize(
    ("infer", "quantity"),
    [
        (on_a_grid(temperature=0.0), "log_likelihood"),  # the data ignored
        (on_a_grid(temperature=25.0), "log_likelihood"),  # over-confident
        (on_a_grid(shift=0.6), "w"),
    ],
    ids=["prior", "over-confident", "shifted"],
)
def test_a_wrong_posterior_fails(infer, quantity):
    found = calibrate(infer)
    assert fails(found.pit[:, found.quantities.index(quantity)])


def test_the_prior_is_the_one_that_infer_uses():
    other = weight_calibration(
        program,
        X,
        on_a_grid(),
        prior=NormalPrior(scale=0.05),
        parameters=[weight],
        simulations=SIMULATIONS,
        weights=(),
    )
    assert "w" not in other.quantities
    assert fails(other.pit)


def test_entries_of_a_network_s_weights_are_named():
    net = LayeredNetwork(2, 2, n_layers=1, n_modules=2, hidden_features=2)
    named = dict(net.named_parameters())

    def prior_draws(model, x, y, seed):
        values = tuple(torch.randn(1, 3, *p.shape) for p in named.values())
        return WeightDraws(tuple(named.values()), tuple(named), values)

    options = {"prior": NormalPrior(), "simulations": 2}
    x = torch.randn(4, 2)
    some = weight_calibration(net, x, prior_draws, weights=["encoder.bias"], **options)
    assert some.quantities[:3] == ("encoder.bias[0]", "encoder.bias[1]", "log_prior")
    every = weight_calibration(net, x, prior_draws, **options)
    n_weights = sum(p.numel() for p in named.values())
    assert every.pit.shape == (2, n_weights + 3 + 2)
    assert "encoder.weight[1,0]" in every.quantities
    with pytest.raises(ValueError, match=r"got 'bias', expected some of"):
        weight_calibration(net, x, prior_draws, weights=["bias"], **options)


def test_draws_of_other_tensors_are_refused():
    def other(model, x, y, seed):
        return WeightDraws((torch.zeros(1),), ("v",), (torch.zeros(1, 2, 1),))

    with pytest.raises(ValueError, match=r"1 tensors, \['v'\]"):
        calibrate(other)
    with pytest.raises(ValueError, match="simulations"):
        calibrate(on_a_grid(), simulations=0)
