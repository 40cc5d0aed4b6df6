"""Balanced E-steps."""

import math

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from latentroute.inference import HardEM, TopKBuffer, build, fit
from latentroute.inference.sinkhorn import balance_scores
from latentroute.models import LayeredNetwork
from tests.inference.estimators.guided_nets import make_net


def every_route(sizes, n):
    axes = [torch.arange(m) for m in sizes]
    routes = torch.cartesian_prod(*axes).reshape(-1, 1, len(sizes))
    return routes.expand(-1, n, -1)


def make_scores(n_routes, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(n_routes, n, generator=generator, dtype=torch.float64)
    scores[0] += 5.0  # a route that nearly all prefer
    return scores


def use(scores, routes, site, temperature):
    shares = (scores / temperature).softmax(0)
    m = int(routes[..., site].max()) + 1
    return torch.stack([shares[routes[..., site] == k].sum() for k in range(m)])


def test_use_is_balanced_at_every_site():
    sizes, n = (3, 2), 60
    routes = every_route(sizes, n)
    scores = make_scores(len(routes), n)
    balanced = balance_scores(scores, routes, sizes, 1.0)
    for site, m in enumerate(sizes):
        assert use(scores, routes, site, 1.0)[0] > 1.3 * n / m
        expected = torch.full((m,), n / m, dtype=torch.float64)
        assert torch.allclose(use(balanced, routes, site, 1.0), expected, atol=1e-3)
    # A route's price is its modules' alone.
    prices = (balanced - scores).unflatten(0, sizes)
    assert torch.allclose(prices, prices[..., :1].expand_as(prices))
    mixed = prices[1:, 1:] - prices[1:, :1] - prices[:1, 1:] + prices[:1, :1]
    assert mixed.abs().max() < 1e-9


def test_a_low_temperature_comes_near_the_best_balanced_assignment():
    m, n = 4, 40
    routes = every_route((m,), n)
    scores = make_scores(m, n)
    balanced = balance_scores(scores, routes, (m,), 0.2)
    chosen = balanced.argmax(0)
    slots = scores.repeat_interleave(n // m, 0)
    rows, columns = linear_sum_assignment(-slots.numpy())
    best = slots[rows, columns].sum()
    ours = scores.gather(0, chosen.unsqueeze(0)).sum()
    counts = torch.bincount(chosen, minlength=m)
    assert (counts - n / m).abs().max() <= 2
    assert ours > best - 0.05 * best.abs()
    assert torch.bincount(scores.argmax(0), minlength=m).max() > 2 * n / m


def test_repeated_and_impossible_candidates_count_for_nothing():
    n = 12
    routes = every_route((3,), n)
    scores = make_scores(3, n)
    alone = balance_scores(scores, routes, (3,), 1.0)
    twice = balance_scores(
        torch.cat([scores, scores[:1]]), torch.cat([routes, routes[:1]]), (3,), 1.0
    )
    assert torch.allclose(twice[:3], alone) and torch.allclose(twice[3], alone[0])
    forbidden = torch.full_like(scores[:1], -math.inf)
    more = balance_scores(
        torch.cat([scores, forbidden]), torch.cat([routes, routes[:1]]), (3,), 1.0
    )
    assert torch.allclose(more[:3], alone) and more[3].isneginf().all()


def test_extreme_scores_stay_finite():
    routes = every_route((3, 3), 8)
    scores = -1e6 * torch.rand(9, 8, generator=torch.Generator().manual_seed(0))
    for values in (scores, scores * 0 - 1e6):
        assert torch.isfinite(balance_scores(values, routes, (3, 3), 1.0)).all()
    unused = routes.clone()
    unused[..., 0] = 0  # no candidate uses the first site's other modules
    assert torch.isfinite(balance_scores(scores, unused, (3, 3), 1.0)).all()


@pytest.mark.parametrize("balance", [None, 1.0])
def test_balanced_hard_em_keeps_the_modules_in_use(balance):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 2, generator=generator)
    y = (x[:, 0] * x[:, 1] > 0).long()
    torch.manual_seed(0)
    net = LayeredNetwork(2, 2, n_layers=1, n_modules=4, hidden_features=4)
    method = HardEM(balance=balance)
    result = fit(net, (x, y), method, steps=80, batch_size=64, log_every=80)
    routes = result.objective.guide.buffer.routes[:, 0, 0].long()
    share = torch.bincount(routes, minlength=4) / 64
    assert share.max() < 0.4 if balance else share.max() > 0.5


def test_hard_em_is_still_the_buffer_of_capacity_one():
    net, args, _ = make_net(n=6)
    buffer = TopKBuffer(capacity=1, w_fresh=0.0, w_buffer=1.0, n_samples=9, balance=0.5)
    one = build(buffer, net, n_data=6, seed=0)
    two = build(HardEM(balance=0.5), net, n_data=6, seed=0)
    for _ in range(3):
        assert torch.equal(one(*args), two(*args))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="balance must be positive"):
        HardEM(balance=0.0)
    net, args, _ = make_net(routing="static")
    with pytest.raises(ValueError, match="one route for all: leave balance out"):
        build("topk-buffer", net, n_data=3, example=args, balance=1.0)
