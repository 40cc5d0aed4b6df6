"""Runs whose choices are weights: what they give, and what they refuse."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from latentroute.inference import METHODS, build, fit
from latentroute.inference.estimators.relaxation import gumbel_like, sampled_one_hot
from latentroute.inference.program import RoutedProgram
from latentroute.inference.schedules import Constant, Exponential, Linear
from latentroute.models import GivenRouting, LayeredNetwork, ModuleBank
from tests import brute_force as truth
from tests.exact import programs
from tests.exact.programs import Draw, Program
from tests.inference.estimators.relaxed_nets import M, N, make_net, shifted
from tests.statistics import assert_frequencies, assert_mean

RELAXATIONS = ("gumbel-softmax", "straight-through", "reinmax", "soft", "noisy-top-k")
DRAWN = ("gumbel-softmax", "straight-through", "reinmax")


def relaxed_at(program, args, routes):
    """A relaxed run whose weights are given choices, one-hot."""
    sites = {s.name: (i, s) for i, s in enumerate(program.structure(*args).sites)}

    runs = iter(routes)

    def weights_of(name, log_probs):
        i, site = sites[name]
        chosen = routes[:, :1, i] if site.static else routes[..., i]
        if log_probs.dim() == 2:  # of natural shape, one run a route
            chosen = next(runs)[:, 0]
        return F.one_hot(chosen, site.n_choices).to(log_probs)

    return program.relaxed(*args, weights_of=weights_of, n_samples=len(routes))


def repeated_bank(draw, n=3):
    """A plate at dim -2 around the data's, and a bank after a one-hot decision."""
    x, y = draw.data(n, 2), draw.data(2, n)
    first, weight = draw.weight(2, 3), draw.weight(3, 2, 2)
    bank = ModuleBank([lambda z, w=w: torch.tanh(z @ w) for w in weight])
    out = draw.weight(3)

    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=x @ first))
            b = pyro.sample("b", dist.OneHotCategorical(logits=x @ first))
            mean = bank(x, a).sum(-1) + b @ out
            with pyro.plate("repeats", 2, dim=-2):
                return pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    sites = {"a": truth.choices(3), "b": truth.Choice(torch.eye(3).to(draw.dtype))}
    return Program(model, (x, y), sites, draw.parameters)


def natural_shapes_only(draw, n=3):
    """A bank behind a Python loop over examples."""
    program = repeated_bank(draw, n)
    bank = ModuleBank([nn.Linear(2, 2, dtype=draw.dtype) for _ in range(3)])
    first = draw.weight(2, 3)

    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=x @ first))
            z = bank(x, a)
            mean = torch.stack([z[i].sum() for i in range(len(x))])
            return pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    args = (program.args[0], program.args[1][0])
    return Program(model, args, {"a": truth.choices(3)}, draw.parameters)


@pytest.mark.parametrize("routing", ["dynamic", "static"])
@pytest.mark.parametrize("head", ["categorical", "normal"])
def test_one_hot_weights_are_hard_choices(routing, head):
    net, args, _ = make_net(routing=routing, head=head)
    program = RoutedProgram(net)
    routes = torch.randint(M, (5, N, 2), generator=torch.Generator().manual_seed(0))
    if routing == "static":
        routes = routes[:, :1].expand(5, N, 2)
    given = program.given(*args, routes=routes)
    relaxed = relaxed_at(program, args, routes)
    truth.assert_agree(relaxed.likelihood, given.likelihood)


@pytest.mark.parametrize(
    "make", [repeated_bank, natural_shapes_only, programs.one_decision_twice]
)
@pytest.mark.filterwarnings("ignore:the program does not broadcast")
def test_one_hot_weights_in_users_programs(make):
    program = make(Draw())
    routed = RoutedProgram(program.model)
    shape = (4, 3, len(program.sites))
    routes = torch.randint(3, shape, generator=torch.Generator().manual_seed(0))
    given = routed.given(*program.args, routes=routes)
    relaxed = relaxed_at(routed, program.args, routes)
    truth.assert_agree(relaxed.likelihood, given.likelihood)


def test_a_slot_each_is_mixed():
    net, args, _ = make_net(k=2, duplicates="each")
    program = RoutedProgram(net)
    routes = torch.randint(M, (5, N, 4), generator=torch.Generator().manual_seed(0))
    given = program.given(*args, routes=routes)
    truth.assert_agree(relaxed_at(program, args, routes).likelihood, given.likelihood)


def test_what_stands_outside_the_plate_counts_once():
    """Static routes, something observed beside them: a relaxed ELBO over N data."""

    def model(x, y=None):
        a = pyro.sample("a", dist.OneHotCategorical(logits=logits))
        pyro.sample("seen", dist.Normal(a @ values, 1.0), obs=torch.tensor(0.3))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("y", dist.Normal(a @ values * x[:, 0], 1.0), obs=y)

    logits = torch.zeros(3, requires_grad=True)
    values = torch.randn(3, generator=torch.Generator().manual_seed(0))
    x, y = torch.ones(4, 1), torch.zeros(4)
    objective = build("soft", model, parameters=[logits], n_data=12)
    mean = values.mean()
    inside = dist.Normal(mean, 1.0).log_prob(torch.tensor(0.0))
    outside = dist.Normal(mean, 1.0).log_prob(torch.tensor(0.3))
    expected = -(inside + outside / 12)
    truth.assert_agree(objective(x, y, torch.arange(4)), expected)


def test_random_choices_follow_their_probabilities():
    log_probs = torch.tensor([0.2, 0.5, 0.3, 0.0]).log().expand(4000, 4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = sampled_one_hot(log_probs)
        gumbel = gumbel_like(log_probs)
    assert (drawn.sum(-1) == 1).all()
    assert_frequencies(drawn.argmax(-1), log_probs[0].exp())
    assert_mean(gumbel, torch.full((4,), 0.57721566))


# Refusals: one line, before an optimiser is made.


def refusal(method, model, args, **options):
    with pytest.raises(ValueError) as error:
        build(method, model, n_data=len(args[0]), example=args, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("method", RELAXATIONS)
def test_a_route_that_goes_through_no_bank_is_refused(method):
    model, args, _, parameters = programs.two_sites(Draw())
    said = refusal(method, model, args, parameters=parameters)
    assert "no ModuleBank takes it" in said and "score-function" in said


class Rounded(nn.Module):
    def forward(self, z):
        return z.round()


class Stepped(nn.Module):
    def forward(self, z):
        with torch.no_grad():
            return z.gt(0).to(z.dtype)


@pytest.mark.parametrize("kind", [Rounded, Stepped])
@pytest.mark.parametrize("method", RELAXATIONS)
def test_hard_coded_modules_are_refused(method, kind):
    """The first layer's weights reach y through the second's modules alone."""
    modules = [[nn.Linear(2, 2) for _ in range(M)]]
    modules.append([kind() for _ in range(M)])
    net = LayeredNetwork(
        2, 2, n_layers=2, n_modules=M, hidden_features=2, module=modules
    )
    truth.randomise(net, 0, scale=3.0)
    generator = torch.Generator().manual_seed(0)
    args = 3 * torch.randn(16, 2, generator=generator), torch.zeros(16).long()
    said = refusal(method, net, args)
    assert "'route_0' cannot be relaxed" in said and "score-function" in said
    with pytest.raises(ValueError, match="cannot be relaxed"):
        fit(net, args, method, steps=1)


@pytest.mark.parametrize("method", RELAXATIONS)
def test_a_head_that_starts_at_zero_is_no_reason_to_refuse(method):
    net, args, _ = make_net()
    with torch.no_grad():
        net.head.linear.weight.zero_()
    build(method, net, example=args)


@pytest.mark.parametrize("method", RELAXATIONS)
def test_a_router_that_is_not_trained_is_no_reason_to_refuse(method):
    net, args, _ = make_net()
    for router in net.routers:
        router.requires_grad_(False)
    objective = build(method, net, example=args, n_data=N)
    objective(*args).backward()
    assert net.encoder.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("method", RELAXATIONS)
def test_modules_that_count_once_are_refused(method):
    net, args, _ = make_net(k=2)
    assert "duplicates='each'" in refusal(method, net, args)


@pytest.mark.parametrize("method", RELAXATIONS)
def test_given_routes_are_refused(method):
    net, args, sites = make_net()
    given = GivenRouting(net, torch.zeros(N, 2).long(), list(sites))
    assert "nothing to relax" in refusal(method, given, args)


@pytest.mark.parametrize("method", RELAXATIONS)
def test_a_guide_is_refused(method):
    with pytest.raises(ValueError, match="takes no guide"):
        METHODS[method](make_net()[0], lambda x, y=None: None)


@pytest.mark.parametrize("method", ["gumbel-softmax", "reinmax", "soft"])
@pytest.mark.parametrize(
    "schedule", [Constant(0.0), Linear(1.0, -1.0, 10), Linear(0.0, 1.0, 5)]
)
def test_a_temperature_that_is_not_positive_is_refused(method, schedule):
    with pytest.raises(ValueError, match="temperature must be positive"):
        build(method, make_net()[0], temperature=schedule)


def test_the_temperature_follows_the_step():
    net, args, _ = make_net()
    objective = build("soft", net, temperature=Exponential(1.0, 0.25, 2))
    for temperature in (1.0, 0.5, 0.25, 0.25):
        same = build("soft", net, temperature=Constant(temperature))
        truth.assert_agree(objective(*args), same(*args))


# Same-sample comparisons, limits, numerics.


@pytest.mark.parametrize("method", RELAXATIONS)
@pytest.mark.parametrize("constant", [7.0, -300.0])
def test_a_constant_added_to_the_log_likelihood_moves_no_gradient(method, constant):
    net, args, _ = make_net()
    parameters = list(net.parameters())
    plain = build(method, net, seed=11)
    moved = build(method, shifted(net, constant), parameters=parameters, seed=11)
    for _ in range(3):
        one, two = plain(*args), moved(*args)
        truth.assert_agree(two, one - constant)
        truth.assert_agree(
            truth.gradient(two, parameters), truth.gradient(one, parameters)
        )


@pytest.mark.parametrize("method", [m for m in RELAXATIONS if m != "noisy-top-k"])
@pytest.mark.parametrize("routing", ["dynamic", "static"])
def test_one_module_is_a_plain_network(method, routing):
    net, args, _ = make_net(n_modules=1, routing=routing, head="normal")
    parameters = list(net.parameters())
    ours, exact = build(method, net)(*args), build("exact", net)(*args)
    truth.assert_agree(ours, exact)
    truth.assert_agree(
        truth.gradient(ours, parameters), truth.gradient(exact, parameters)
    )


@pytest.mark.parametrize("method", DRAWN)
def test_hard_values_are_draws_of_the_elbo(method):
    """Straight-through forwards; Gumbel-softmax as the temperature tends to 0."""
    net, args, sites = make_net()
    options = {"temperature": Constant(1e-6)} if method == "gumbel-softmax" else {}
    table = truth.tabulate(net, args, sites)
    objective = build(method, net, seed=0, **options)
    with torch.no_grad():
        losses = torch.stack([objective(*args) for _ in range(500)])
    assert_mean(-losses, truth.router_elbo(table).detach())


class Extreme(nn.Module):
    """Router logits of +-1e4 and log-likelihoods of -1e6, in float32."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([1e4, -1e4, 0.0]))
        self.out = nn.Parameter(torch.tensor([-1e6, -1.0, -2e6]))

    def forward(self, x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            fn = dist.OneHotCategorical(logits=self.logits.expand(len(x), 3))
            a = pyro.sample("a", fn)
            pyro.factor("y", a @ self.out)


class Forbidden(Extreme):
    """One choice cannot be made."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([0.3, -torch.inf, 0.0]))


@pytest.mark.parametrize("method", RELAXATIONS)
@pytest.mark.parametrize("kind", [Extreme, Forbidden])
def test_extreme_numbers(method, kind):
    net = kind()
    build(method, net)(torch.zeros(50, 1)).backward()
    assert torch.isfinite(net.logits.grad).all() and torch.isfinite(net.out.grad).all()
    assert net.out.grad.any()
    if kind is Forbidden:
        assert net.logits.grad[[0, 2]].abs().min() > 0
        assert not net.logits.grad[1]
