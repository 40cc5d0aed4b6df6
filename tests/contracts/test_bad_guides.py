"""Guides that do not fit, budgets and memory: one line, and before the work."""

import re
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch

from latentroute.guides import RouterGuide
from latentroute.inference import (
    METHODS,
    ScoreFunction,
    build,
    fit,
    log_marginal,
    plan_enumeration,
    route_posterior,
)
from latentroute.models import route
from tests.contracts.refusals import (
    F,
    M,
    N,
    both_routings,
    make_net,
    one_line,
    x,
    y,
)


def guide_of(sites, *, choices=M, static=False, extra=None):
    def guide(x, y=None):
        if static:
            for name in sites:
                pyro.sample(name, dist.Categorical(logits=torch.zeros(choices)))
            return
        with pyro.plate("data", len(x), dim=-1):
            if extra is not None:
                pyro.sample("u", dist.Normal(torch.zeros(len(x)), 1.0))
            for name in sites:
                logits = torch.zeros(len(x), choices)
                pyro.sample(name, dist.Categorical(logits=logits))

    return guide


BOTH = ("route_0", "route_1")


def ask_with(guide, *parts, routing="dynamic"):
    objective = ScoreFunction()(make_net(routing=routing), guide, n_data=N)
    one_line(lambda: objective(x, y), *parts)


@both_routings
def test_a_guide_that_misses_a_site(routing):
    static = routing == "static"
    for sites in ((), ("route_0",), ("route_1",)):
        missing = next(name for name in BOTH if name not in sites)
        guide = guide_of(sites, static=static)
        has = re.escape(f"(it has {list(sites)})")
        ask_with(guide, f"'{missing}'", "must sample", has, routing=routing)


def test_a_guide_of_another_model():
    def other(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = route("a", dist.Categorical(logits=torch.zeros(len(x), M)))
            return pyro.sample("y", dist.Normal(1.0 * a, 1.0), obs=y)

    ask_with(RouterGuide(other), "'route_0'", "must sample")


def test_a_guide_with_other_choices():
    ask_with(guide_of(BOTH, choices=M + 1), "route_0", str(M), str(M + 1))
    ask_with(guide_of(BOTH, choices=M - 1), "route_0", str(M), str(M - 1))


def test_a_guide_whose_plates_disagree_with_the_models():
    ask_with(guide_of(BOTH, static=True), "route_0", "plate")
    ask_with(guide_of(BOTH), "route_0", "plate", routing="static")


def test_a_guide_with_a_latent_site_of_its_own():
    ask_with(guide_of(BOTH, extra="u"), "'u'")


def test_exact_takes_no_guide():
    one_line(
        lambda: METHODS["exact"](make_net(), RouterGuide(make_net())),
        "exact takes no guide",
    )


# Memory and budget.


def test_a_budget_too_small():
    for budget, parts in [
        (1, ["^budget must be at least 2 evaluations", "got 1"]),
        (0, ["^budget must be", "got 0"]),
        (2.5, ["^budget must be", "got 2.5"]),
    ]:
        one_line(
            lambda budget=budget: plan_enumeration(make_net(), x, y, budget=budget),
            *parts,
        )


@pytest.mark.parametrize("routing", ["dynamic", "static"])
def test_exact_that_does_not_fit_takes_no_memory(routing):
    net = make_net(n_layers=30, n_modules=8, routing=routing)
    seen = []
    for bank in net.banks:
        bank.register_forward_pre_hook(lambda _, args: seen.append(args[0].numel()))
    parts = [
        r"1,237,940,039,285,380,274,899,124,224 routes \(8\^30\)",
        "6 examples",
        "GiB",
        "may be used",
        "score-function",
        "memory_limit",
    ]
    for call in (
        lambda: log_marginal(net, x, y),
        lambda: route_posterior(net, x, y),
        lambda: build("exact", net)(x, y),
        lambda: fit(net, (x, y), "exact", steps=1),
    ):
        one_line(call, *parts)
    assert seen and max(seen) <= N * 4, "something was made for more than one route"


def test_a_memory_limit_is_kept():
    net = make_net()
    for call in (
        lambda: log_marginal(net, x, y, memory_limit=1000),
        lambda: route_posterior(net, x, y, memory_limit=1000),
        lambda: build("exact", net, memory_limit=1000)(x, y),
        lambda: fit(net, (x, y), "exact", steps=1, memory_limit=1000),
    ):
        one_line(call, "9 routes", r"\(3\^2\)")
    assert torch.isfinite(log_marginal(net, x, y, memory_limit=10**8)).all()


def test_a_larger_batch_than_the_first_is_looked_at_again():
    objective = build("exact", make_net(), memory_limit=200_000)
    objective(x, y)
    many = 50_000
    one_line(
        lambda: objective(x[:1].expand(many, F), y[:1].expand(many)), "50,000 examples"
    )


def test_no_error_comes_with_a_warning_beside_it():
    """A line on stderr that blames broadcasting would hide the real one."""
    objective = ScoreFunction()(make_net(), guide_of(("route_0",)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(ValueError, match="route_1"):
            objective(x, y)
    assert not caught
