"""NUTS over the weights: its density against brute force, and what it refuses."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.func import functional_call

from latentroute.guides import NormalPrior
from latentroute.inference import NUTS, build, fit
from latentroute.inference.regularisers import StateEntropy, Tempering
from latentroute.inference.schedules import Constant, Linear
from latentroute.models import LayeredNetwork
from tests import brute_force as truth
from tests.exact import programs
from tests.exact.programs import Draw
from tests.inference.estimators.guided_nets import make_extreme, make_net, shifted

PRIOR = NormalPrior(mean=0.3, scale=1.5)
TINY = {"n_chains": 2, "max_tree_depth": 2}


def log_prior(weights, prior=PRIOR):
    """The normal density, written out."""
    every = torch.cat([w.reshape(-1) for w in weights])
    deviation = (every - prior.mean) / prior.scale
    constant = math.log(prior.scale * math.sqrt(2 * math.pi))
    return -(deviation.square() / 2 + constant).sum()


def moved(objective, args):
    """The objective after one transition, so that it knows all its data."""
    objective.begin(2)
    objective.advance(*args)
    return objective


# The density.


@pytest.mark.parametrize("routing", ["dynamic", "static"])
def test_loss_and_potential_of_a_network(routing):
    net, args, sites = make_net(routing=routing)
    method = NUTS(prior=PRIOR, **TINY)
    objective = moved(method(net, n_data=len(args[0]), seed=0), args)
    parameters = list(net.parameters())
    names = [name for name, _ in net.named_parameters()]
    marginal = truth.log_marginal(truth.tabulate(net, args, sites)).sum()
    expected = -(marginal + log_prior(parameters)) / len(args[0])
    loss = objective(*args)
    truth.assert_agree(loss, expected)
    ours = truth.gradient(loss, parameters)
    truth.assert_agree(ours, truth.gradient(expected, parameters))
    with pytest.raises(AssertionError, match="off by"):  # the prior left out
        truth.assert_agree(ours, truth.gradient(-marginal / len(args[0]), parameters))
    # The potential at other weights than the network's.
    generator = torch.Generator().manual_seed(1)
    size = sum(p.numel() for p in parameters)
    flat = torch.randn(size, generator=generator).double().requires_grad_()
    pieces = flat.split([p.numel() for p in parameters])
    weights = [w.reshape(p.shape) for w, p in zip(pieces, parameters, strict=True)]

    def there(x, y):
        return functional_call(net, dict(zip(names, weights, strict=True)), (x, y))

    marginal = truth.log_marginal(truth.tabulate(there, args, sites)).sum()
    expected = -marginal - log_prior(weights)
    energy = objective.potential(flat)
    truth.assert_agree(energy, expected)
    truth.assert_agree(truth.gradient(energy, [flat]), truth.gradient(expected, [flat]))


@pytest.mark.parametrize(
    "make", [programs.two_sites, programs.static_then_dynamic], ids=lambda f: f.__name__
)
def test_potential_of_a_bare_program(make):
    model, args, sites, parameters = make(Draw())
    method = NUTS(prior=PRIOR, **TINY)
    objective = method(model, parameters=parameters, n_data=len(args[0]), seed=0)
    moved(objective, args)
    flat = torch.cat([p.detach().reshape(-1) for p in parameters]).requires_grad_()
    marginal = truth.log_marginal(truth.tabulate(model, args, sites)).sum()
    expected = -marginal - log_prior(parameters)
    energy = objective.potential(flat)
    truth.assert_agree(energy, expected)
    truth.assert_agree(
        truth.gradient(energy, [flat]), truth.gradient(expected, parameters)
    )


def test_a_minibatch_stands_for_the_data():
    net, (x, y), _ = make_net(n=4)
    objective = NUTS()(net, n_data=4, seed=0)
    index = torch.arange(4)
    halves = [objective(x[i], y[i], i) for i in (index[:2], index[2:])]
    truth.assert_agree(sum(halves) / 2, objective(x, y))


def test_regularisers_join_the_potential():
    net, args, sites = make_net(router_input="input", n_layers=1)
    n = len(args[0])
    parts = [Tempering(Linear(0.25, 0.5, 1)), StateEntropy(Constant(2.0))]
    objective = NUTS(**TINY)(net, n_data=n, seed=0)
    objective.regularise(parts)
    moved(objective, args)
    loss = objective.advance(*args)
    table = truth.tabulate(net, args, sites)
    marginal = (table.prior + 0.5 * table.likelihood).logsumexp(0).sum()
    entropy = -(table.prior.exp() * table.prior).sum()
    prior = log_prior(net.parameters(), NormalPrior())
    expected = -(marginal + 2.0 * entropy + prior) / n
    # Of two chains: that of the first is the network's.
    other = objective.potential(objective._chains[1].weights).detach() / n
    truth.assert_agree(torch.tensor(2 * loss).double() - other, expected, 1e-6)


@pytest.mark.parametrize("constant", [7.0, -300.0])
def test_a_constant_added_to_the_log_likelihood_moves_no_gradient(constant):
    net, args, _ = make_net()
    parameters = list(net.parameters())
    one = build("nuts", net, seed=0)(*args)
    model = shifted(net, constant)
    two = build("nuts", model, parameters=parameters, seed=0)(*args)
    truth.assert_agree(two, one - constant)
    truth.assert_agree(truth.gradient(two, parameters), truth.gradient(one, parameters))


def test_extreme_numbers_stay_finite():
    model, args, parameters = make_extreme()
    objective = build("nuts", model, parameters=parameters, seed=0)
    loss = objective(*args)
    gradient = truth.gradient(loss, parameters)
    assert torch.isfinite(loss) and torch.isfinite(gradient).all() and gradient.any()


# What is refused.


def test_what_does_not_apply_is_refused_before_any_work():
    net, args, _ = make_net()
    big = LayeredNetwork(64, 10, n_layers=2, n_modules=4, hidden_features=32)
    with pytest.raises(ValueError, match=r"11,122 weights.* svi-bayes, or raise max"):
        build("nuts", big)
    with pytest.raises(ValueError, match="there are none"):
        build("nuts", net, parameters=[])
    with pytest.raises(ValueError, match="may be used"):
        fit(net, args, "nuts", steps=2, memory_limit=10)
    with pytest.raises(ValueError, match="takes no guide"):
        NUTS()(net, lambda x, y: None)
    with pytest.raises(ValueError, match=r"no draw in 5 steps, of which 5 are warm-up"):
        fit(net, args, "nuts", steps=5, warmup=5)


def test_a_program_that_draws_weights_of_its_own_is_refused():
    def model(x, y=None):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=torch.zeros(2)))
            pyro.sample("y", dist.Normal(w * a, 1.0), obs=y)

    data = torch.zeros(3, 1), torch.zeros(3)
    w = torch.zeros(1, requires_grad=True)
    with pytest.raises(ValueError, match=r"'w' .* neither observed nor a routing site"):
        fit(model, data, "nuts", parameters=[w], steps=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_chains": 0}, "n_chains must be a whole number >= 1"),
        ({"warmup": 0}, "warmup must be a whole number >= 1"),
        ({"max_draws": 1}, "max_draws must be a whole number >= 2"),
        ({"start": "zero"}, "start must be one of prior, model"),
        ({"target_accept": 1.0}, "target_accept must lie between 0 and 1"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        NUTS(**options)
    with pytest.raises(TypeError, match="prior must be a Prior"):
        NUTS(prior="flat")


def test_an_impossible_start_says_so():
    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("a", dist.Categorical(logits=torch.zeros(2)))
            pyro.factor("never", x[:, 0] - math.inf + 0 * w)

    w = torch.zeros((), requires_grad=True)
    with pytest.raises(FloatingPointError, match=r"log posterior is .* narrower prior"):
        fit(model, (torch.zeros(3, 1),), "nuts", parameters=[w], steps=4)
