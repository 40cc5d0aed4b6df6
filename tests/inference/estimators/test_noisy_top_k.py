"""The noisy top-k gate: its parts by hand, its load by counting."""

import math

import pytest
import torch
from torch.nn import functional as F

from latentroute.inference import NoisyTopK, build, fit
from latentroute.inference.estimators.noisy_top_k import noisy_top_k
from latentroute.inference.regularisers import squared_variation
from tests import brute_force as truth
from tests.inference.estimators.relaxed_nets import M, N, make_net
from tests.statistics import assert_frequencies

LOG_PROBS = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4]]).double().log()
SCALE = torch.tensor([0.7, 0.3, 1.1, 0.5], dtype=torch.float64)
NOISE = torch.tensor([[-0.9, 0.4, 2.1, -0.2], [0.3, -0.5, 0.2, 0.7]]).double()


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_weights_are_a_softmax_of_the_k_largest(k):
    gate = noisy_top_k(LOG_PROBS, SCALE, NOISE, k)
    scores = LOG_PROBS + NOISE * SCALE
    for row, weights in zip(scores, gate.weights, strict=True):
        best = sorted(range(4), key=lambda m: -row[m])[:k]
        expected = torch.zeros(4, dtype=torch.float64)
        expected[best] = row[best].softmax(-1)
        truth.assert_agree(weights, expected)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_load_is_the_chance_under_fresh_noise(k):
    """Each choice's own noise is drawn anew; the others keep theirs."""
    draws = 4000
    scores = LOG_PROBS + NOISE * SCALE
    fresh = torch.randn(
        draws, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    chosen = torch.zeros(draws, 2, 4, dtype=torch.float64)
    for m in range(4):
        tried = scores.expand(draws, 2, 4).clone()
        tried[..., m] = LOG_PROBS[:, m] + fresh[..., m] * SCALE[m]
        chosen[..., m] = (tried.argsort(-1, descending=True)[..., :k] == m).any(-1)
    load = noisy_top_k(LOG_PROBS, SCALE, NOISE, k).load.flatten()
    assert_frequencies(chosen.flatten(1).long(), torch.stack([1 - load, load], -1))


def test_squared_variation():
    assert squared_variation(torch.tensor([2.0, 2.0, 2.0])) == 0
    assert squared_variation(torch.tensor([3.0, 0.0, 0.0])) == pytest.approx(2.0)
    assert squared_variation(torch.tensor([1.0, 3.0])) == pytest.approx(0.25)


def by_hand(net, args, noise, raw, method):
    """The loss at the noise that was drawn: (S, N, M) a site."""
    x, y = args
    z, balance = net.encoder(x).expand(method.n_samples, N, -1), 0.0
    for router, bank, draw, scale in zip(
        net.routers, net.banks, noise, raw, strict=True
    ):
        log_p, scale = router(z).logits.log_softmax(-1), F.softplus(scale)
        scores = log_p + draw * scale
        kth = scores.sort(-1, descending=True).values
        inside = scores >= kth[..., method.k - 1 : method.k]
        weights = torch.where(inside, scores.exp(), 0.0)
        weights = weights / weights.sum(-1, keepdim=True)
        rival = torch.stack(
            [
                torch.cat([scores[..., :m], scores[..., m + 1 :]], -1)
                .sort(-1, descending=True)
                .values[..., method.k - 1]
                for m in range(M)
            ],
            -1,
        )
        load = 0.5 * (1 + torch.erf((log_p - rival) / scale / math.sqrt(2)))
        for weight, use in ((method.w_importance, weights), (method.w_load, load)):
            total = use.sum((0, 1))
            balance = balance + weight * total.var(unbiased=False) / total.mean() ** 2
        every = [bank(z, torch.tensor(m)) for m in range(M)]
        z = sum(weights[..., m : m + 1] * every[m] for m in range(M))
    return -net.head(z).log_prob(y).mean() + balance


@pytest.mark.parametrize("k", [1, 2])
def test_loss_and_gradient_by_hand(k):
    net, args, _ = make_net()
    method = NoisyTopK(k=k, w_importance=0.3, w_load=0.7, n_samples=3)
    objective = build(method, net, example=args, seed=6)
    raw = list(objective.noise)
    with torch.no_grad():
        for scale in raw:
            scale.copy_(torch.tensor([0.1, -0.4, 0.6]))
    parameters = [*net.parameters(), *raw]
    assert {id(p) for p in objective.parameters()} == {id(p) for p in parameters}
    with objective._stream():
        noise = [torch.randn(3, N, M, dtype=torch.float64) for _ in range(2)]
    again = build(method, net, example=args, seed=6)
    again.load_state_dict(
        {**objective.state_dict(), "_extra_state": again.get_extra_state()}
    )
    ours = again(*args)
    hand = by_hand(net, args, noise, raw, method)
    truth.assert_agree(ours, hand)
    truth.assert_agree(
        truth.gradient(ours, [*net.parameters(), *again.noise]),
        truth.gradient(hand, parameters),
    )
    wrong = by_hand(net, args, noise, raw, NoisyTopK(k=k, w_load=0.6, n_samples=3))
    assert abs(wrong - hand) > 1e-4


def router_gradient(method):
    net, args, _ = make_net(n_layers=1)
    objective = build(method, net, seed=0)
    return truth.gradient(objective(*args), list(net.routers.parameters()))


def test_with_one_module_the_router_learns_by_the_load_alone():
    one = router_gradient(NoisyTopK(k=1, w_load=0.1))
    assert one.abs().sum() > 0
    truth.assert_agree(router_gradient(NoisyTopK(k=1, w_load=0.2)), 2 * one)
    other = router_gradient(NoisyTopK(k=1, w_load=0.1, w_importance=5.0))
    truth.assert_agree(other, one)
    with pytest.raises(ValueError, match="w_load must be positive"):
        NoisyTopK(k=1, w_load=0.0)


@pytest.mark.parametrize("losses", [{"w_load": 5.0}, {"w_importance": 5.0}])
def test_the_losses_balance_a_collapsed_router(losses):
    def use_after(**weights):
        net, (x, y), _ = make_net(n_layers=1, dtype=torch.float32)
        with torch.no_grad():
            net.routers[0].linear.weight.mul_(0.1)
            net.routers[0].linear.bias.copy_(torch.tensor([3.0, 0.0, -1.0]))
        method = NoisyTopK(**{"w_load": 0.0, "w_importance": 0.0, **weights})
        fit(net, (x, y), method, steps=60, lr=0.05)
        with torch.no_grad():
            return squared_variation(net.routers[0](net.encoder(x)).probs.sum(0))

    assert use_after(**losses) < 0.5 * use_after()


def test_refusals():
    net, args, _ = make_net()
    for options, said in (
        ({"k": 4}, "k must be at most the 3 choices of site 'route_0', got 4"),
        ({"k": 0}, "k must be a whole number >= 1"),
        ({"w_load": -1.0}, "w_load must be >= 0"),
        ({"w_importance": math.nan}, "w_importance must be >= 0"),
    ):
        with pytest.raises(ValueError, match=said):
            build("noisy-top-k", net, example=args, **options)
    static, args, _ = make_net(routing="static")
    with pytest.raises(ValueError, match="is static"):
        build("noisy-top-k", static, example=args)
