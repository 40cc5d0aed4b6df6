"""The score-function estimator's mean is the gradient of its own objective.

The truth is brute force; `tests.statistics` says how often right code may fail.
"""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

from latentroute.guides import RouterGuide
from latentroute.inference import ScoreFunction, build
from latentroute.inference.baselines import (
    LearnedBaseline,
    MovingAverage,
    NoBaseline,
)
from latentroute.models import LayeredNetwork
from tests import brute_force as truth
from tests.exact import programs
from tests.exact.programs import Draw
from tests.statistics import assert_mean, assert_unbiased, judge

N, M = 4, 3


def make_net(**options):
    shape = {"n_layers": 2, "n_modules": M, "hidden_features": 2} | options
    net = LayeredNetwork(2, 2, **shape).double()
    truth.randomise(net, 4, scale=1.2)
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(N, 2, generator=generator, dtype=torch.float64)
    y = torch.randn(N, 2, generator=generator, dtype=torch.float64)
    head = shape.get("head", "categorical")
    if head != "normal":
        y = y.gt(0).double() if head == "bernoulli" else y[:, 0].gt(0).long()
    sites = truth.network_sites(
        shape["n_layers"], M, shape.get("k", 1), shape.get("routing", "dynamic")
    )
    return net, (x, y), sites


def repeated(args, copies):
    """Independent draws side by side: each copy of an example has its own routes."""
    return tuple(arg.repeat(copies, *(1,) * (arg.dim() - 1)) for arg in args)


def draws(objective, args, parameters, n):
    """The loss's gradient, n times."""
    return torch.stack([truth.gradient(objective(*args), parameters) for _ in range(n)])


def drawer(model, args, parameters, guide=None, *, calls, copies=1, n_samples=16):
    """From a seed, `calls` means of `copies` draws."""

    def draw(seed):
        method = ScoreFunction(n_samples=n_samples)
        objective = method(model, guide, parameters=parameters, seed=seed)
        return draws(objective, repeated(args, copies), parameters, calls)

    return draw


ROWS = {"calls": 250, "copies": 8}  # 2,000 draws of a program whose arguments are rows


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"router_input": "input", "head": "normal"},
        {"k": 2, "n_layers": 1, "combine": "concatenate"},
        {"head": "bernoulli", "n_layers": 3, "n_modules": M},
    ],
    ids=str,
)
def test_dynamic_networks(options):
    """Routers that see z carry a gradient into the modules, too."""
    net, args, sites = make_net(**options)
    parameters = list(net.parameters())
    expected = -truth.router_elbo(truth.tabulate(net, args, sites))
    draw = drawer(net, args, parameters, **ROWS)
    assert_unbiased(draw, truth.gradient(expected, parameters))


@pytest.mark.parametrize(
    ("baseline", "copies"),
    [(NoBaseline(), 40), (MovingAverage(0.5), 24), (LearnedBaseline(4), 24)],
    ids=str,
)
def test_no_baseline_biases(baseline, copies):
    net, args, sites = make_net()
    parameters = list(net.parameters())
    expected = -truth.router_elbo(truth.tabulate(net, args, sites))

    def draw(seed):
        method = ScoreFunction(n_samples=8, baseline=baseline)
        objective = method(net, seed=seed)
        batch = repeated(args, copies)
        return draws(objective, batch, parameters, 250)

    assert_unbiased(draw, truth.gradient(expected, parameters))


def test_static_network():
    net, args, sites = make_net(routing="static", head="normal")
    parameters = list(net.parameters())
    expected = -truth.router_elbo(truth.tabulate(net, args, sites))
    draw = drawer(net, args, parameters, calls=2000)
    assert_unbiased(draw, truth.gradient(expected, parameters))


@pytest.mark.parametrize(
    ("make", "plan"),
    [
        (programs.two_sites, ROWS),
        (programs.other_plate_and_supports, ROWS),
        (programs.static_around_dynamic, {"calls": 600, "n_samples": 32}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_users_programs(make, plan):
    model, args, sites, parameters = make(Draw())
    expected = -truth.router_elbo(truth.tabulate(model, args, sites))
    draw = drawer(model, args, parameters, **plan)
    assert_unbiased(draw, truth.gradient(expected, parameters))


def test_a_minibatch_counts_static_terms_once_for_all_the_data():
    """What stands outside the plate is shared by 12 examples, of which 3 are seen."""
    model, args, sites, parameters = programs.static_all(Draw())
    table = truth.tabulate(model, args, sites)
    expected = -truth.router_elbo(table, n_data=12)

    def draw(seed):
        objective = build(
            "score-function",
            model,
            parameters=parameters,
            n_data=12,
            seed=seed,
            n_samples=32,
        )
        batch = (*args, torch.tensor([3, 1, 11]))
        return draws(objective, batch, parameters, 600)

    assert_unbiased(draw, truth.gradient(expected, parameters))


class PosteriorGuide(nn.Module):
    """q(a_0 | x, y) q(a_1 | a_0, x, y): a user's own."""

    def __init__(self, names, *, static=False):
        super().__init__()
        self.names, self.static = names, static
        width = 1 if static else 3
        self.first = nn.Linear(width, M)
        self.second = nn.Linear(width, M * M)
        self.double()
        truth.randomise(self, 7)

    def forward(self, x, y=None):
        if self.static:
            seen = torch.ones(1, dtype=x.dtype)
            return self.sites(seen)
        with pyro.plate("data", len(x), dim=-1):
            return self.sites(torch.cat([x, y.to(x).unsqueeze(-1)], -1))

    def sites(self, seen):
        a = pyro.sample(self.names[0], dist.Categorical(logits=self.first(seen)))
        table = self.second(seen).unflatten(-1, (M, M))
        index = a[..., None, None].expand(*a.shape, 1, M)
        table = table.expand(*a.shape, M, M)
        logits = table.gather(-2, index).squeeze(-2)
        pyro.sample(self.names[1], dist.Categorical(logits=logits))


@pytest.mark.parametrize("routing", ["dynamic", "static"])
def test_posterior_guide_of_a_users_own(routing):
    net, args, sites = make_net(routing=routing)
    guide = PosteriorGuide(list(sites), static=routing == "static")
    objective = ScoreFunction()(net, guide)
    parameters = [*net.parameters(), *guide.parameters()]
    assert {id(p) for p in objective.parameters()} == {id(p) for p in parameters}
    expected = -truth.guide_elbo(
        truth.tabulate(net, args, sites), truth.tabulate(guide, args, sites)
    )
    plan = ROWS if routing == "dynamic" else {"calls": 600, "n_samples": 32}

    def draw(seed):
        method = ScoreFunction(n_samples=plan.get("n_samples", 16))
        objective = method(net, guide, seed=seed)
        batch = repeated(args, plan.get("copies", 1))
        return draws(objective, batch, parameters, plan["calls"])

    assert_unbiased(draw, truth.gradient(expected, parameters))


def test_another_networks_router_is_a_posterior_guide():
    net, args, sites = make_net()
    other = make_net()[0]
    truth.randomise(other, 9)
    parameters = list(net.parameters())
    expected = -truth.guide_elbo(
        truth.tabulate(net, args, sites), _router_table(other, args, sites)
    )

    def draw(seed):
        objective = ScoreFunction(n_samples=16)(net, RouterGuide(other), seed=seed)
        return draws(objective, repeated(args, 8), parameters, 250)

    assert_unbiased(draw, truth.gradient(expected, parameters))


def _router_table(net, args, sites):
    table = truth.tabulate(net, args, sites)
    return table._replace(likelihood=torch.zeros_like(table.likelihood))


def test_the_loss_itself_is_the_elbo_in_the_mean():
    net, args, sites = make_net()
    elbo = truth.router_elbo(truth.tabulate(net, args, sites))
    objective = build("score-function", net, seed=3)
    with torch.no_grad():
        losses = torch.stack([objective(*args) for _ in range(500)])
    assert_mean(-losses, elbo)


# Negative controls: the same judge must refuse what is wrong.


def by_hand(net, args, kind, seed, *, calls=250, copies=8, n_samples=2):
    """A score-function estimator of our own, right or wrong, as Pyro runs the net."""
    x, y = repeated(args, copies)
    parameters = list(net.parameters())
    rows = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in range(calls):
            with pyro.plate("samples", n_samples, dim=-2):
                trace = poutine.trace(net).get_trace(x, y)
            trace.compute_log_prob()
            names = [name for name in trace.nodes if name.startswith("route")]
            score = sum(trace.nodes[name]["log_prob"] for name in names)
            value = trace.nodes["y"]["log_prob"]
            reward = value.detach()
            others = (reward.sum(0) - reward) / (n_samples - 1)
            baseline = {
                "right": others,
                "its own sample in the baseline": reward.mean(0),
                "no baseline": torch.zeros_like(reward),
                "no score term": reward,
            }[kind]
            surrogate = value + (reward - baseline) * score
            rows.append(truth.gradient(-surrogate.mean(), parameters))
    return torch.stack(rows)


def test_the_judge_accepts_a_right_estimator_made_by_hand():
    net, args, sites = make_net()
    parameters = list(net.parameters())
    elbo = truth.router_elbo(truth.tabulate(net, args, sites))
    expected = truth.gradient(-elbo, parameters)
    assert_unbiased(
        lambda seed: by_hand(net, args, "right", seed, n_samples=16), expected
    )


@pytest.mark.parametrize("kind", ["its own sample in the baseline", "no score term"])
def test_the_judge_refuses_a_wrong_estimator(kind):
    net, args, sites = make_net()
    parameters = list(net.parameters())
    elbo = truth.router_elbo(truth.tabulate(net, args, sites))
    verdict = judge(by_hand(net, args, kind, seed=0), truth.gradient(-elbo, parameters))
    assert not verdict.unbiased
    assert verdict.far > 0.05 and verdict.squared_bias > 0.01


def test_the_judge_refuses_the_gradient_of_another_objective():
    net, args, sites = make_net()
    parameters = list(net.parameters())
    marginal = truth.log_marginal(truth.tabulate(net, args, sites)).mean()
    draw = drawer(net, args, parameters, **ROWS)
    assert not judge(draw(0), truth.gradient(-marginal, parameters)).unbiased


# Same-sample comparisons.


def shifted(net, constant):
    def model(x, y=None):
        out = net(x, y)
        with pyro.plate("shift", len(x), dim=-1):
            pyro.factor("constant", x.new_full((len(x),), constant))
        return out

    return model


@pytest.mark.parametrize("routing", ["dynamic", "static"])
@pytest.mark.parametrize("constant", [7.0, -300.0])
def test_a_constant_added_to_the_log_likelihood_moves_no_gradient(routing, constant):
    net, args, _ = make_net(routing=routing)
    parameters = list(net.parameters())
    plain = build("score-function", net, seed=11)
    moved = build(
        "score-function", shifted(net, constant), parameters=parameters, seed=11
    )
    for _ in range(3):
        one, two = plain(*args), moved(*args)
        truth.assert_agree(two, one - constant)
        truth.assert_agree(
            truth.gradient(two, parameters), truth.gradient(one, parameters)
        )


def test_one_module_leaves_nothing_to_chance():
    args = make_net()[1]
    net = LayeredNetwork(2, 2, n_layers=2, n_modules=1, hidden_features=2).double()
    truth.randomise(net, 0)
    parameters = list(net.parameters())
    sampled, exact = build("score-function", net)(*args), build("exact", net)(*args)
    truth.assert_agree(sampled, exact)
    truth.assert_agree(
        truth.gradient(sampled, parameters), truth.gradient(exact, parameters)
    )


@pytest.mark.parametrize(
    ("make", "plan"),
    [
        (programs.by_masks, {"calls": 250, "copies": 12, "n_samples": 4}),
        (programs.by_scalar_index, {"calls": 250, "n_samples": 8}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
@pytest.mark.filterwarnings("ignore:the program does not broadcast")
def test_programs_that_do_not_broadcast(make, plan):
    """S runs instead of one."""
    model, args, sites, parameters = make(Draw())
    expected = -truth.router_elbo(truth.tabulate(model, args, sites))
    draw = drawer(model, args, parameters, **plan)
    assert_unbiased(draw, truth.gradient(expected, parameters))
