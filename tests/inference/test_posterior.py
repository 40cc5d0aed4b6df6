"""Posterior routes: sampled, drawn and best, against brute force and one another."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from latentroute.guides import RouterGuide
from latentroute.inference import (
    evaluate,
    importance_posterior,
    log_marginal,
    map_route,
    route_posterior,
    sample_routes,
    weighted,
)
from latentroute.inference.pareto import pareto_k
from latentroute.models import LayeredNetwork
from tests import brute_force as truth
from tests.exact import programs
from tests.exact.programs import Draw
from tests.statistics import assert_frequencies, assert_mean

DYNAMIC = [
    programs.two_sites,
    programs.other_plate_and_supports,
    programs.one_choice_between,
    programs.repeated_target,
    programs.by_factor,
    programs.impossible_routes,
    programs.scaled,
    programs.partly_given,
]
STATIC = [
    programs.static_then_dynamic,
    programs.dynamic_then_static,
    programs.static_around_dynamic,
    programs.static_all,
]


def name_of(value):
    return getattr(value, "__name__", None)


def make_net(n=5, **options):
    shape = {"n_layers": 3, "n_modules": 3, "hidden_features": 2} | options
    net = LayeredNetwork(2, 3, **shape).double()
    truth.randomise(net, 4, scale=1.2)
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return net, (x, torch.randint(3, (n,), generator=generator))


def route_numbers(routes, sizes):
    """(..., L) routes as the numbers 0 .. P - 1 that `itertools.product` gives them."""
    number = torch.zeros(routes.shape[:-1], dtype=torch.long)
    for i, m in enumerate(sizes):
        number = number * m + routes[..., i]
    return number


def route_probs(found, sizes):
    """(P, N) what weighted routes say of each route."""
    number = route_numbers(found.routes, sizes)
    weight = found.log_weights.exp().expand(number.shape)
    table = weight.new_zeros(math.prod(sizes), number.shape[1])
    return table.scatter_add(0, number, weight)


def far_off(found, table):
    """(N,) the largest error of a route's probability, in units of 1 / sqrt(ESS)."""
    error = route_probs(found, table.sizes) - truth.joint_posterior(table)
    return (error.abs() * found.ess.sqrt()).max(0).values


# Importance sampling.


@pytest.mark.parametrize("make", DYNAMIC + STATIC, ids=name_of)
def test_importance_sampling_finds_the_posterior(make):
    """A standard error is at most 0.5 / sqrt(ESS), and six of them are allowed."""
    model, args, sites, _ = make(Draw())
    table = truth.tabulate(model, args, sites)
    found = importance_posterior(model, *args, n_samples=4000)
    expected = truth.log_marginal(table)
    assert found.log_marginal.shape == expected.shape
    off = (found.log_marginal - expected).abs()
    assert (off <= 6 * found.log_marginal_error + 1e-10).all()
    assert (far_off(found, table) < 3).all()
    assert (found.ess > 20).all() and (found.ess <= 4000 + 1e-6).all()


def test_a_guide_proposes_in_the_routers_place():
    net, args = make_net()
    other = make_net()[0]
    truth.randomise(other, 9)
    table = truth.tabulate(net, args, truth.network_sites(3, 3))
    found = importance_posterior(net, *args, n_samples=4000, guide=RouterGuide(other))
    off = (found.log_marginal - truth.log_marginal(table)).abs()
    trusted = found.pareto_k < 0.7
    assert trusted.any() and not trusted.all()
    assert (off <= 6 * found.log_marginal_error)[trusted].all()
    assert (far_off(found, table) < 3)[trusted].all()


def test_weights_that_forget_the_likelihood_are_found_out():
    """The negative control: the router's routes unweighted."""
    model, args, sites, _ = programs.two_sites(Draw())
    table = truth.tabulate(model, args, sites)
    found = importance_posterior(model, *args, n_samples=4000)
    even = torch.full_like(found.log_weights, -math.log(4000))
    wrong = found._replace(log_weights=even, ess=torch.full_like(found.ess, 4000))
    assert (far_off(wrong, table) > 6).all()


def test_the_error_of_the_marginal_is_what_it_says():
    """Over 300 seeds: errors of mean square about one."""
    model, args, sites, _ = programs.two_sites(Draw())
    expected = truth.log_marginal(truth.tabulate(model, args, sites))
    z = []
    for seed in range(300):
        found = importance_posterior(model, *args, n_samples=2000, seed=seed)
        z.append((found.log_marginal - expected) / found.log_marginal_error)
    mean_square = torch.stack(z).square().mean().item()
    assert 0.8 < mean_square < 1.25


def test_routes_that_explain_alike_are_worth_their_number():
    net, (x, y) = make_net()
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.startswith("head"):
                p.zero_()
    found = importance_posterior(net, x, y, n_samples=100)
    torch.testing.assert_close(found.ess, torch.full((5,), 100.0).double())
    assert found.log_marginal_error.max() < 1e-6
    assert (found.pareto_k == -math.inf).all()


def test_pareto_k_is_arvizs_where_weights_differ():
    from arviz_stats.base import array_stats

    generator = np.random.default_rng(0)
    weights = np.stack([generator.pareto(a, 1000) + 1 for a in (0.8, 1.5, 4.0)])
    _, expected = array_stats.psislw(-np.log(weights))
    found = pareto_k(torch.from_numpy(np.log(weights).T))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found[0] > 0.7 > found[2]


def test_too_few_weights_have_no_tail():
    assert math.isnan(pareto_k(torch.randn(10, 1)).item())
    assert pareto_k(torch.zeros(100, 1)).item() == -math.inf


# Draws.


@pytest.mark.parametrize(
    "make",
    [
        programs.other_plate_and_supports,
        programs.impossible_routes,
        programs.static_all,
    ],
    ids=name_of,
)
def test_draws_follow_the_posterior(make):
    model, args, sites, _ = make(Draw())
    table = truth.tabulate(model, args, sites)
    drawn = sample_routes(model, *args, n=4000)
    assert drawn.routes.shape == (4000, len(args[0]), len(sites))
    assert torch.isinf(drawn.ess).all() and drawn.names == tuple(sites)
    numbers = route_numbers(drawn.routes, table.sizes)
    assert_frequencies(numbers, truth.joint_posterior(table).T)


@pytest.mark.parametrize(
    "draw_routes", [sample_routes, None], ids=["sample", "evaluate"]
)
def test_all_examples_of_a_draw_share_a_static_choice(draw_routes):
    """Each example's dynamic choice is drawn given that very choice."""
    model, args, sites, _ = programs.static_then_dynamic(Draw())
    if draw_routes is None:
        routes = evaluate(model, *args, draws=4000).routes
    else:
        routes = draw_routes(model, *args, n=4000).routes
    assert (routes[..., 0] == routes[:, :1, 0]).all()
    table = truth.tabulate(model, args, sites)
    numbers = route_numbers(routes, table.sizes)
    assert_frequencies(numbers, truth.joint_posterior(table).T)


@pytest.mark.parametrize(
    "make", [programs.two_sites, programs.static_then_dynamic], ids=name_of
)
def test_resampled_routes_say_what_they_are_worth(make, monkeypatch):
    monkeypatch.setattr(weighted, "MOST_ROUTES", 1)
    model, args, sites, _ = make(Draw())
    table = truth.tabulate(model, args, sites)
    drawn = sample_routes(model, *args, n=4000)
    assert (drawn.ess < 4 * 4000).all()
    numbers = route_numbers(drawn.routes, table.sizes)
    expected = truth.joint_posterior(table)
    worth = 1 / (1 / drawn.ess + 1 / 4000)
    for i, column in enumerate(numbers.T):
        share = torch.bincount(column, minlength=len(expected)) / 4000
        assert ((share - expected[:, i]).abs() * worth[i].sqrt()).max() < 3


def test_draws_are_those_of_their_seed():
    net, args = make_net()
    one, same = (sample_routes(net, *args, n=9, seed=3).routes for _ in range(2))
    other = sample_routes(net, *args, n=9, seed=4).routes
    assert torch.equal(one, same) and not torch.equal(one, other)
    state = torch.get_rng_state()
    importance_posterior(net, *args, n_samples=9, seed=3)
    assert torch.equal(state, torch.get_rng_state())


# The most probable route.


@pytest.mark.parametrize("make", DYNAMIC, ids=name_of)
def test_the_best_route(make):
    model, args, sites, _ = make(Draw())
    table = truth.tabulate(model, args, sites)
    joint = table.prior + table.likelihood
    best = map_route(model, *args)
    truth.assert_agree(best.log_joint, joint.max(0).values)
    assert torch.equal(best.routes, table.routes[joint.argmax(0)])
    assert not best.gap.any() and not best.uncovered.any()


@pytest.mark.parametrize("make", STATIC, ids=name_of)
def test_the_best_route_of_examples_that_share_a_choice(make):
    model, args, sites, _ = make(Draw())
    table = truth.tabulate(model, args, sites)
    joint = table.prior + table.likelihood
    static = table.routes[:, [i for i, alone in enumerate(table.static) if alone]]
    outside = table.static_prior + table.static_likelihood
    totals = [
        joint[same].max(0).values.sum() + outside[same][0]
        for same in ((static == choice).all(-1) for choice in static)
    ]
    best = map_route(model, *args)
    truth.assert_agree(best.log_joint, torch.stack(totals).max().reshape(1))
    scored = joint.gather(0, route_numbers(best.routes, table.sizes).unsqueeze(0))
    first = route_numbers(best.routes, table.sizes)[0]
    truth.assert_agree(best.log_joint, (scored.sum() + outside[first]).reshape(1))


@pytest.mark.parametrize("make", [*DYNAMIC, programs.static_all], ids=name_of)
def test_a_beam_that_holds_every_route_is_exact(make):
    model, args, *_ = make(Draw())
    exact, beam = map_route(model, *args), map_route(model, *args, beam=100)
    truth.assert_agree(beam.log_joint, exact.log_joint)
    assert torch.equal(beam.routes, exact.routes)
    assert not beam.gap.any() and not beam.uncovered.any()


@pytest.mark.parametrize("beam", [1, 2, 5, 12])
def test_a_narrow_beam_states_a_gap_that_holds(beam):
    net, args = make_net(n=40)
    table = truth.tabulate(net, args, truth.network_sites(3, 3))
    found = map_route(net, *args, beam=beam)
    joint = table.prior + table.likelihood
    number = route_numbers(found.routes, table.sizes)
    truth.assert_agree(found.log_joint, joint.gather(0, number.unsqueeze(0))[0])
    missed = joint.max(0).values - found.log_joint
    assert (missed <= found.gap + 1e-10).all()
    assert torch.isfinite(found.gap).all()
    if beam == 1:
        assert missed.max() > 0.1, "nothing was missed: no test of the gap"
        greedy = table.prior.gather(0, number.unsqueeze(0))[0].exp()
        truth.assert_agree(found.uncovered, 1 - greedy)


def test_a_density_bounds_nothing():
    model, args, _, _ = programs.two_sites(Draw())
    found = map_route(model, *args, beam=2)
    assert torch.isinf(found.gap).all() and (found.uncovered > 0).all()


def test_what_is_too_large_to_enumerate_is_searched(monkeypatch):
    net, args = make_net()
    exact = map_route(net, *args)
    monkeypatch.setattr(weighted, "MOST_ROUTES", 1)
    found = map_route(net, *args)
    assert torch.equal(found.routes, exact.routes)


# They agree, and say what they refuse.


def test_all_ways_agree():
    net, args = make_net()
    posterior = route_posterior(net, *args)
    probs = posterior.log_probs.exp()
    found = importance_posterior(net, *args, n_samples=4000)
    error = (route_probs(found, (3, 3, 3)) - probs.T).abs() * found.ess.sqrt()
    assert error.max() < 3
    off = (found.log_marginal - log_marginal(net, *args)).abs()
    assert (off < 6 * found.log_marginal_error).all()
    best = map_route(net, *args)
    assert torch.equal(best.routes, posterior.routes[probs.argmax(-1)])
    drawn = sample_routes(net, *args, n=4000)
    assert_frequencies(route_numbers(drawn.routes, (3, 3, 3)), probs)
    chance = best.log_joint - log_marginal(net, *args)
    hits = (drawn.routes == best.routes).all(-1).double()
    assert_mean(hits, chance.exp())


@pytest.mark.parametrize("look", [importance_posterior, sample_routes, map_route])
def test_routes_that_are_all_given_leave_nothing_to_infer(look):
    net = LayeredNetwork(2, 3, n_layers=1, n_modules=2, hidden_features=2)
    x, y = torch.zeros(4, 2), torch.zeros(4, dtype=torch.long)

    class Given(nn.Module):
        def forward(self, x, y=None):
            import pyro

            return pyro.condition(net, data={"route_0": y})(x, y)

    with pytest.raises(ValueError, match="given"):
        look(Given(), x, y)


def test_a_beam_does_not_mix_static_and_dynamic_sites():
    model, args, _, _ = programs.static_then_dynamic(Draw())
    with pytest.raises(ValueError, match="all dynamic or all static"):
        map_route(model, *args, beam=2)


@pytest.mark.parametrize("value", [0, 1.5])
def test_counts_are_whole_numbers(value):
    net, args = make_net()
    with pytest.raises(ValueError, match="n_samples"):
        importance_posterior(net, *args, n_samples=value)
    with pytest.raises(ValueError, match="n must"):
        sample_routes(net, *args, n=value)
    with pytest.raises(ValueError, match="beam"):
        map_route(net, *args, beam=value)
