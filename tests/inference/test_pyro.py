"""Our programs under Pyro's own machinery, where that is right."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, TraceEnum_ELBO, config_enumerate, infer_discrete
from torch import nn

from latentroute.inference import build, log_marginal, route_posterior
from latentroute.models import LayeredNetwork
from tests import brute_force as truth
from tests.exact import programs
from tests.exact.programs import Draw
from tests.statistics import assert_frequencies

N, M = 4, 3


def make_net(**options):
    shape = {"n_layers": 2, "n_modules": M, "hidden_features": 3} | options
    net = LayeredNetwork(2, 2, **shape).double()
    truth.randomise(net, 0)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N, 2, generator=generator, dtype=torch.float64)
    y = torch.randint(2, (N, 2), generator=generator).double()
    return net, x, y[:, 0] if shape.get("head", "categorical") == "categorical" else y


def no_guide(*args, **kwargs):
    return None


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"router_input": "input", "head": "normal"},
        {"head": "bernoulli", "k": 2},
        {"k": 2, "combine": "concatenate", "duplicates": "each"},
        {"n_modules": [2, 1, 3], "n_layers": 3},
        {"routing": "static"},
        {"routing": "static", "k": 2, "head": "normal"},
    ],
    ids=str,
)
def test_layered_networks_under_pyros_exact_elbo(options):
    net, x, y = make_net(**options)
    parameters = list(net.parameters())
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    pyros = elbo.differentiable_loss(net, no_guide, x, y) / N
    ours = build("exact", net)(x, y)
    truth.assert_agree(ours, pyros, 1e-8)
    truth.assert_agree(
        truth.gradient(ours, parameters), truth.gradient(pyros, parameters), 1e-8
    )


@pytest.mark.parametrize(
    "make",
    [
        programs.two_sites,
        programs.other_plate_and_supports,
        programs.static_then_dynamic,
        programs.repeated_target,
        programs.by_factor,
        programs.masked,
        programs.one_decision_twice,
    ],
    ids=lambda make: make.__name__,
)
def test_users_programs_under_pyros_exact_elbo(make):
    model, args, _, parameters = make(Draw())
    nesting = 2 if make is programs.repeated_target else 1
    elbo = TraceEnum_ELBO(max_plate_nesting=nesting)
    pyros = elbo.differentiable_loss(config_enumerate(model), no_guide, *args)
    ours = build("exact", model, parameters=parameters)(*args) * len(args[0])
    truth.assert_agree(ours, pyros, 1e-8)
    truth.assert_agree(
        truth.gradient(ours, parameters), truth.gradient(pyros, parameters), 1e-8
    )


def test_a_network_trains_in_pyros_elbo_module():
    net, x, y = make_net()
    pyro.clear_param_store()
    with pyro.settings.context(module_local_params=True):
        objective = TraceEnum_ELBO(max_plate_nesting=1)(net, no_guide)
        before = log_marginal(net, x, y).mean()
        optimiser = torch.optim.Adam(objective.parameters(), lr=0.05)
        for _ in range(10):
            optimiser.zero_grad()
            objective(x, y).backward()
            optimiser.step()
    assert log_marginal(net, x, y).mean() > before + 0.05


def test_the_posteriors_marginals_are_pyros():
    net, x, y = make_net()
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    pyros = elbo.compute_marginals(net, no_guide, x, y)
    posterior = route_posterior(net, x, y)
    probs = posterior.log_probs.exp().unflatten(-1, (M, M))
    for layer in range(2):
        ours = probs.sum(2 - layer)
        truth.assert_agree(ours, pyros[f"route_{layer}"].probs, 1e-8)


def test_the_most_probable_route_is_pyros():
    net, x, y = make_net()
    best = infer_discrete(net, first_available_dim=-2, temperature=0)
    trace = poutine.trace(best).get_trace(x, y)
    posterior = route_posterior(net, x, y)
    ours = posterior.routes[posterior.log_probs.argmax(-1)]
    for layer, name in enumerate(posterior.names):
        assert torch.equal(trace.nodes[name]["value"].reshape(N), ours[:, layer])


def test_a_network_samples_under_predictive_and_in_an_outer_plate():
    net, x, _ = make_net()
    drawn = Predictive(net, num_samples=5)(x)
    assert drawn["y"].shape == (5, N) and drawn["route_1"].shape == (5, N)
    with pyro.plate("particles", 6, dim=-2):
        trace = poutine.trace(net).get_trace(x)
    assert trace.nodes["route_1"]["value"].shape == (6, N)
    assert trace.nodes["y"]["value"].shape == (6, N)


def test_what_a_network_samples_has_its_own_probabilities():
    net, x, _ = make_net()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        with pyro.plate("particles", 2000, dim=-2), torch.no_grad():
            drawn = poutine.trace(net).get_trace(x)
    joint = drawn.nodes["route_0"]["value"] * M + drawn.nodes["route_1"]["value"]
    y = torch.zeros(N, dtype=torch.long)
    table = truth.tabulate(net, (x, y), truth.network_sites(2, M))
    router = truth.log_router(table).exp()
    assert_frequencies(joint, router.T)
    classes = (router * table.likelihood.exp()).sum(0)
    assert_frequencies(
        drawn.nodes["y"]["value"], torch.stack([classes, 1 - classes], -1)
    )


class OnPyroModule(pyro.nn.PyroModule):
    """A model as Pyro's users write it; made with Pyro's settings as they are."""

    def __init__(self, kind, start):
        super().__init__()
        if kind == "a PyroParam":
            self.weight = pyro.nn.PyroParam(torch.full((2, 3), start))
        elif kind == "a positive PyroParam":
            positive = dist.constraints.positive
            self.weight = pyro.nn.PyroParam(torch.full((2, 3), start), positive)
        elif kind == "an nn.Parameter":
            self.weight = nn.Parameter(torch.full((2, 3), start))
        else:
            maker = (
                nn.Linear if kind == "an nn.Linear" else pyro.nn.PyroModule[nn.Linear]
            )
            self.linear = maker(2, 3, bias=False)
            nn.init.constant_(self.linear.weight, start)
        self.kind = kind

    def forward(self, x, y=None):
        linear = self.kind.endswith("Linear")
        weight = self.linear.weight.T if linear else self.weight
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=x @ weight))
            return pyro.sample("y", dist.Normal(1.0 * a, 1.0), obs=y)


@pytest.mark.parametrize(
    "kind",
    [
        "an nn.Parameter",
        "an nn.Linear",
        "a PyroModule Linear",
        "a PyroParam",
        "a positive PyroParam",
    ],
)
def test_pyro_modules_keep_their_parameters_to_themselves(kind):
    """Two models with parameters of one name, one after the other."""
    pyro.clear_param_store()
    x, y = torch.ones(4, 2), torch.tensor([2.0, 1.0, 2.0, 0.5])
    for start in (0.5, 1.0):
        model = OnPyroModule(kind, start)
        assert log_marginal(model, x, y).shape == (4,)
        objective = build("exact", model)
        (weight,) = objective.parameters()
        objective(x, y).backward()
        assert weight.grad is not None and weight.grad.any()
        read = weight.detach().exp() if "positive" in kind else weight.detach()
        torch.testing.assert_close(read, torch.full_like(read, start))
    assert not list(pyro.get_param_store())
    pyro.clear_param_store()


def test_a_model_that_is_a_method_is_a_plain_function():
    class Owner(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.x, self.y = make_net()

        def program(self, x, y=None):
            return self.net(x, y)

    owner = Owner()
    with pytest.raises(ValueError, match="parameters="):
        build("exact", owner.program)
    objective = build("exact", owner.program, parameters=owner.parameters())
    objective(owner.x, owner.y).backward()
    assert all(p.grad is not None for p in owner.parameters())
