"""Buffered routes summed and the rest sampled: exact over all samples."""

import itertools

import pytest
import torch

from latentroute.guides import RouterGuide
from latentroute.inference import MemoryAugmented, build
from latentroute.inference.estimators.memory_augmented import (
    is_new,
    split_expectation,
)
from latentroute.inference.estimators.whole import Scored
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

ROUTES = 5


def expectation(buffer, n_samples, shift=0.0, estimate=split_expectation):
    """(estimate's exact mean gradient, exact gradient) in logits and rewards."""
    generator = torch.Generator().manual_seed(1)
    logits, reward = torch.randn(2, ROUTES, generator=generator, dtype=torch.float64)
    leaves = [logits.requires_grad_(), reward.requires_grad_()]
    log_p, f = logits.log_softmax(0).unsqueeze(-1), reward.unsqueeze(-1) + shift
    places = [*buffer, 0]  # the last is empty
    kept = Scored(f[places], log_p[places])
    filled = torch.arange(len(places)).unsqueeze(-1) < len(buffer)
    total = torch.zeros(1, dtype=torch.float64)
    for s in map(list, itertools.product(range(ROUTES), repeat=n_samples)):
        new = torch.tensor([[i not in buffer] for i in s])
        fresh = Scored(f[s], log_p[s])
        chance = log_p[s].sum().exp().detach()
        total = total + chance * estimate(kept, filled, fresh, new)
    exact = (log_p.exp() * f).sum()
    truth.assert_agree(total.sum(), exact, 1e-11)
    return truth.gradient(total.sum(), leaves), truth.gradient(exact, leaves)


@pytest.mark.parametrize("shift", [0.0, 30.0])
@pytest.mark.parametrize("n_samples", [2, 3])
@pytest.mark.parametrize("buffer", [[0], [1, 3], [4, 2, 0, 1], list(range(ROUTES))])
def test_the_exact_mean_over_all_samples(buffer, n_samples, shift):
    ours, exact = expectation(buffer, n_samples, shift)
    truth.assert_agree(ours, exact, 1e-12)


def test_a_baseline_in_the_sampled_part_alone_is_refused():
    def wrong(kept, filled, fresh, new):
        right = split_expectation(kept, filled, fresh, new)
        prob = torch.where(filled, kept.log_p.exp(), 0.0)
        mean = fresh.reward.detach().mean(0)
        return right + ((prob - prob.detach()) * mean).sum(0)

    ours, exact = expectation([1, 3], 2, estimate=wrong)
    assert (ours - exact).norm() > 0.01 * exact.norm()


def test_new_routes_are_found():
    places = torch.tensor([[[0, 1]], [[2, 2]], [[0, 0]]])
    filled = torch.tensor([[True], [True], [False]])
    routes = torch.tensor([[[0, 1]], [[1, 0]], [[2, 2]], [[0, 0]]])
    assert is_new(routes, places, filled).flatten().tolist() == [
        False,
        True,
        False,
        True,
    ]


@pytest.mark.parametrize("score", ["prior", "joint"])
def test_networks(score):
    net, args, sites = make_net()
    method = MemoryAugmented(capacity=2, n_samples=8, score=score)
    assert_elbo(method, net, args, sites, list(net.parameters()), copies=32)


def test_a_static_network():
    net, args, sites = make_net(routing="static")
    method = MemoryAugmented(capacity=4, n_samples=24)
    plan = {"calls": 500, "copies": 1}
    assert_elbo(method, net, args, sites, list(net.parameters()), **plan)


@pytest.mark.parametrize("routing", ["dynamic", "static"])
def test_a_buffer_of_all_routes_leaves_nothing_to_chance(routing):
    net, args, sites = make_net(routing=routing)
    parameters = list(net.parameters())
    loss = build("memory-augmented", net, n_data=len(args[0]), capacity=9)(*args)
    expected = elbo_gradient(net, args, sites, parameters)
    truth.assert_agree(truth.gradient(loss, parameters), expected)


def test_the_buffer_comes_to_hold_the_likeliest_routes():
    net, args, sites = make_net()
    objective = build("memory-augmented", net, n_data=len(args[0]), capacity=2, seed=0)
    for _ in range(200):
        objective(*args)
    best = truth.log_router(truth.tabulate(net, args, sites)).topk(2, dim=0).indices
    routes = objective.buffer.routes  # (N, 2, 2)
    found = routes[..., 0] * 3 + routes[..., 1]
    assert torch.equal(found.long().sort(-1).values, best.T.sort(-1).values)


def test_a_constant_added_to_the_log_likelihood_moves_no_gradient():
    assert_shift_moves_nothing(MemoryAugmented(capacity=2), *make_net()[:2])


def test_golden_values():
    assert_golden(MemoryAugmented(capacity=8), exact=True)
    assert_golden(MemoryAugmented(capacity=2))


def test_extremes():
    assert_extremes(MemoryAugmented())


def test_what_is_refused():
    net, _, _ = make_net()
    with pytest.raises(ValueError, match="takes no guide"):
        MemoryAugmented()(net, RouterGuide(net), n_data=3)
    with pytest.raises(ValueError, match="pass n_data="):
        build("memory-augmented", net)
    with pytest.raises(ValueError, match="n_samples must be"):
        MemoryAugmented(n_samples=1)
    program = programs.static_then_dynamic(Draw())
    with pytest.raises(ValueError, match="all dynamic or all static"):
        build(
            "memory-augmented",
            program.model,
            parameters=program.parameters,
            n_data=3,
            example=program.args,
        )
