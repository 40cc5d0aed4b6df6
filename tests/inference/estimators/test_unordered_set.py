"""Routes without replacement: exact over all sets, and drawn as they should be."""

import itertools
import math

import pytest
import torch

from latentroute.guides import RouterGuide
from latentroute.inference import UnorderedSet, build
from latentroute.inference.baselines import (
    LearnedBaseline,
    LeaveOneOut,
    MovingAverage,
    NoBaseline,
)
from latentroute.inference.estimators.beam import draw_without_replacement
from latentroute.inference.estimators.unordered_set import (
    SetWeights,
    set_weights,
    unordered_set,
)
from tests import brute_force as truth
from tests.exact import programs
from tests.exact.programs import Draw
from tests.inference.estimators.elbo_checks import (
    assert_elbo,
    assert_extremes,
    assert_golden,
    assert_shift_moves_nothing,
    elbo_gradient,
)
from tests.inference.estimators.guided_nets import make_net
from tests.statistics import assert_frequencies


def set_probability(p, chosen):
    """P(S) of sampling without replacement, order by order."""
    total = 0.0
    for order in itertools.permutations(chosen):
        chance, left = 1.0, 1.0
        for i in order:
            chance, left = chance * p[i] / left, left - p[i]
        total += chance
    return total


def expectation(n_routes, n_samples, weigh=set_weights, shift=0.0, baseline=None):
    """(estimate's exact mean gradient, exact gradient) in logits and rewards."""
    generator = torch.Generator().manual_seed(n_routes)
    logits, reward = torch.randn(2, n_routes, generator=generator, dtype=torch.float64)
    leaves = [logits.requires_grad_(), reward.requires_grad_()]
    log_p = logits.log_softmax(0).unsqueeze(-1)
    f = reward.unsqueeze(-1) + shift
    p, total = log_p.exp().flatten().tolist(), torch.zeros(1)
    for chosen in itertools.combinations(range(n_routes), n_samples):
        s = list(chosen)
        rest = log_p.detach()[[i for i in range(n_routes) if i not in s]].logsumexp(0)
        weights = weigh(log_p[s].detach(), rest)
        value = None if baseline is None else baseline(f[s].detach())
        estimate = unordered_set(f[s], log_p[s], weights, baseline=value)
        total = total + set_probability(p, s) * estimate
    exact = (log_p.exp() * f).sum()
    return truth.gradient(total.sum(), leaves), truth.gradient(exact, leaves), total


SIZES = [(4, 2), (5, 3), (6, 4), (4, 4), (7, 2)]


@pytest.mark.parametrize("shift", [0.0, 50.0])
@pytest.mark.parametrize(("n_routes", "n_samples"), SIZES)
def test_the_exact_mean_over_all_sets(n_routes, n_samples, shift):
    ours, exact, _ = expectation(n_routes, n_samples, shift=shift)
    truth.assert_agree(ours, exact, 1e-12)


@pytest.mark.parametrize(("n_routes", "n_samples"), SIZES)
def test_the_exact_mean_with_a_baseline_from_elsewhere(n_routes, n_samples):
    ours, exact, _ = expectation(
        n_routes, n_samples, baseline=lambda f: torch.full_like(f[0], 3.7)
    )
    truth.assert_agree(ours, exact, 1e-12)
    if n_samples < n_routes:  # one that has the set's own rewards in it: biased
        ours, exact, _ = expectation(n_routes, n_samples, baseline=lambda f: f.mean(0))
        assert (ours - exact).norm() > 0.01 * exact.norm()


def test_a_first_order_baseline_is_refused():
    """The first-order ratios in place of the second: biased."""

    def wrong(log_p, log_rest):
        first = set_weights(log_p, log_rest).first
        return SetWeights(first, first.expand(len(first), *first.shape))

    ours, exact, _ = expectation(5, 3, wrong)
    assert (ours - exact).norm() > 0.01 * exact.norm()


def test_weights_of_tiny_and_peaked_probabilities():
    log_p = torch.tensor([[0.0], [-1e4], [-2e4], [-1e6]])
    weights = set_weights(log_p, torch.tensor([-1e7]))
    truth.assert_agree(weights.first.sum(0), torch.ones(1), 1e-5)
    truth.assert_agree(weights.baseline.sum(1), torch.ones(4, 1), 1e-5)


def test_a_set_with_routes_of_probability_zero_is_all_there_is():
    log_p = torch.tensor([[0.25], [0.75], [0.0]]).log()
    weights = set_weights(log_p, torch.tensor([-math.inf]))
    truth.assert_agree(weights.first, torch.tensor([[0.25], [0.75], [0.0]]), 1e-7)


# The draws.


def test_sets_are_drawn_with_the_probability_of_drawing_without_replacement():
    net, args, sites = make_net(n=1)
    table = truth.tabulate(net, args, sites)
    p = truth.log_router(table)[:, 0].exp().tolist()
    sets = list(itertools.combinations(range(9), 3))
    batch = tuple(arg.repeat(4000, *(1,) * (arg.dim() - 1)) for arg in args)
    objective = build("unordered-set", net, example=batch)
    torch.manual_seed(0)
    found = draw_without_replacement(
        lambda routes: objective._program.peek(*batch, routes=routes),
        (3, 3),
        torch.zeros(4000),
        3,
    )
    index = (found.routes[..., 0] * 3 + found.routes[..., 1]).sort(0).values  # (3, n)
    place = {chosen: i for i, chosen in enumerate(sets)}
    drawn = torch.tensor([place[tuple(column)] for column in index.T.tolist()])
    assert_frequencies(drawn, torch.tensor([set_probability(p, s) for s in sets]))
    total = torch.cat([found.log_p, found.log_rest.unsqueeze(0)]).logsumexp(0)
    assert total.abs().max() < 1e-12


# The objective.


@pytest.mark.parametrize("options", [{}, {"router_input": "input"}], ids=str)
def test_networks(options):
    net, args, sites = make_net(**options)
    assert_elbo(UnorderedSet(n_samples=4), net, args, sites, list(net.parameters()))


def test_a_static_network():
    net, args, sites = make_net(routing="static")
    plan = {"calls": 400, "copies": 1}
    assert_elbo(
        UnorderedSet(n_samples=6), net, args, sites, list(net.parameters()), **plan
    )


@pytest.mark.parametrize(
    "baseline", [LearnedBaseline(), MovingAverage(), NoBaseline()], ids=repr
)
def test_other_baselines(baseline):
    net, args, sites = make_net()
    method = UnorderedSet(n_samples=4, baseline=baseline)
    assert_elbo(method, net, args, sites, list(net.parameters()))
    static, args, sites = make_net(routing="static")
    loss = build(UnorderedSet(9, baseline), static)(*args)
    expected = elbo_gradient(static, args, sites, list(static.parameters()))
    truth.assert_agree(truth.gradient(loss, list(static.parameters())), expected)


def test_a_learned_baseline_learns_the_mean_reward():
    net, args, sites = make_net()
    objective = build(
        UnorderedSet(9, LearnedBaseline()), net, example=args, seed=0
    )  # all routes: what it predicts is the ELBO of each example, known exactly
    own = list(objective.baseline.parameters())
    optimiser = torch.optim.Adam(own, lr=0.02)
    for _ in range(400):
        optimiser.zero_grad()
        objective(*args).backward()
        optimiser.step()
    table = truth.tabulate(net, args, sites)
    expected = (table.prior.exp() * table.likelihood).sum(0).detach()
    found = objective.baseline.layers(args[0]).squeeze(-1)
    assert (found - expected).abs().max() < 0.1 * expected.std()


def test_as_many_samples_as_routes_give_the_exact_gradient():
    for routing in ("dynamic", "static"):
        net, args, sites = make_net(routing=routing)
        parameters = list(net.parameters())
        loss = build("unordered-set", net, n_samples=9)(*args)
        expected = elbo_gradient(net, args, sites, parameters)
        truth.assert_agree(truth.gradient(loss, parameters), expected)


@pytest.mark.parametrize(
    "make", [programs.two_sites, programs.other_plate_and_supports, programs.by_masks]
)
@pytest.mark.filterwarnings("ignore:the program does not broadcast")
def test_users_programs_exactly(make):
    model, args, sites, parameters = make(Draw())
    loss = build("unordered-set", model, parameters=parameters, n_samples=12)(*args)
    expected = elbo_gradient(model, args, sites, parameters)
    truth.assert_agree(truth.gradient(loss, parameters), expected)


def test_a_constant_added_to_the_log_likelihood_moves_no_gradient():
    assert_shift_moves_nothing(UnorderedSet(n_samples=3), *make_net()[:2])


def test_golden_values():
    assert_golden(UnorderedSet(n_samples=8), exact=True)
    assert_golden(UnorderedSet(n_samples=3))


def test_extremes():
    assert_extremes(UnorderedSet(n_samples=4))


# What is refused.


@pytest.mark.parametrize("n_samples", [1, 15, 2.0])
def test_a_wrong_number_of_samples(n_samples):
    with pytest.raises(ValueError, match="n_samples must be"):
        UnorderedSet(n_samples=n_samples)


def test_a_wrong_baseline():
    with pytest.raises(ValueError, match="no second draw"):
        UnorderedSet(baseline=LeaveOneOut())
    with pytest.raises(TypeError, match="None or a Baseline"):
        UnorderedSet(baseline="learned")


def test_a_guide_and_a_program_with_some_static_sites():
    net, _, _ = make_net()
    with pytest.raises(ValueError, match="takes no guide"):
        UnorderedSet()(net, RouterGuide(net))
    program = programs.static_then_dynamic(Draw())
    with pytest.raises(ValueError, match=r"only \['s'\] are static: use"):
        build(
            "unordered-set",
            program.model,
            parameters=program.parameters,
            example=program.args,
        )
