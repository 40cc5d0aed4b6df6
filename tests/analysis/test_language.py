"""Reading text with a modular language model, step by step in plain torch."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from latentroute.analysis.language import (
    read_greedily,
    read_mixed,
    sampled_log_lik,
    words_of_modules,
)
from latentroute.inference import log_marginal
from latentroute.models import ModularGRU
from tests import brute_force as truth

V, H, M, T, N = 5, 6, 3, 4, 200


@pytest.fixture
def words():
    drawn = torch.randint(V, (N, T + 1), generator=torch.Generator().manual_seed(0))
    return drawn[:, :-1], drawn[:, 1:]


def make(k=1, steps_scale=0.8):
    net = ModularGRU(V, n_modules=M, hidden_features=H, k=k).double()
    truth.randomise(net, 1, steps_scale)
    return net


def by_hand(net, x, y, choose):
    """One window, one step at a time: log p, weights and router probabilities."""
    total, use, probs = torch.zeros(()).double(), [], []
    h = torch.zeros(1, H).double()
    banks = (net.cell.of_input, net.cell.of_state)
    (wx, bx), (wh, bh) = (
        (s.weight, s.bias) for s in (b._evaluate.stages[0] for b in banks)
    )
    for word, following in zip(x, y, strict=True):
        e = net.embedding(word).unsqueeze(0)
        seen = torch.cat([e, h], -1)
        p = torch.stack([r(seen).logits.exp()[0] for r in net.routers])  # (K, M)
        w = choose(p)  # (M,) how often or how much each module counts
        gx, gh = (
            (z @ a + b[:, None]).squeeze(1).T @ w
            for z, a, b in ((e, wx, bx), (h, wh, bh))
        )
        (r, u, c), (r_h, u_h, c_h) = gx.chunk(3), gh.chunk(3)
        u = (u + u_h).sigmoid()
        h = ((1 - u) * (c + (r + r_h).sigmoid() * c_h).tanh() + u * h[0]).unsqueeze(0)
        total = total - nn.functional.cross_entropy(net.head(h)[0], following)
        use.append(w / w.sum())
        probs.append(p)
    return total, torch.stack(use), torch.stack(probs)


def hardest(p):
    """The likeliest module of each slot, each counted once."""
    return torch.zeros(M).double().index_fill(0, p.argmax(-1), 1.0)


def test_greedy_reading_is_the_loop_by_hand(words):
    net = make()
    reading = read_greedily(net, *words)
    for i in range(0, N, 23):
        total, use, probs = by_hand(net, words[0][i], words[1][i], hardest)
        truth.assert_agree(reading.log_lik[i], total)
        truth.assert_agree(reading.use[i], use)
        truth.assert_agree(reading.router_probs[i], probs)
    assert reading.perplexity == pytest.approx(
        math.exp(-reading.log_lik.mean().item() / T)
    )


def test_greedy_reading_with_slots(words):
    reading = read_greedily(make(k=2), *words, k=2)
    assert reading.use.shape == (N, T, M)
    assert reading.router_probs.shape == (N, T, 2, M)
    for i in range(0, N, 31):
        total, _, probs = by_hand(make(k=2), words[0][i], words[1][i], hardest)
        truth.assert_agree(reading.log_lik[i], total)
        share = nn.functional.one_hot(probs.argmax(-1), M).double().mean(1)
        truth.assert_agree(reading.use[i], share)


def test_a_mixture_of_one_is_greedy_and_of_all_is_soft(words):
    net = make()
    one, greedy = read_mixed(net, *words, k=1), read_greedily(net, *words)
    truth.assert_agree(one.log_lik, greedy.log_lik)
    truth.assert_agree(one.use, greedy.use)
    every = read_mixed(net, *words, k=M)
    total, use, probs = by_hand(net, words[0][3], words[1][3], lambda p: p[0])
    truth.assert_agree(every.log_lik[3], total)
    truth.assert_agree(every.use[3], use)
    truth.assert_agree(every.router_probs[3], probs)
    two = read_mixed(net, *words, k=2).use
    assert ((two > 0).sum(-1) == 2).all()


def test_entropies_pool_the_steps(words):
    reading = read_greedily(make(), *words)
    p = reading.router_probs.flatten(0, 2).numpy()
    assert reading.h_a == pytest.approx(-(p * np.log(p)).sum(-1).mean())
    mean = p.mean(0)
    assert reading.h_b == pytest.approx(-(mean * np.log(mean)).sum())
    assert reading.h_a < reading.h_b < math.log(M)
    truth.assert_agree(reading.shares, reading.use.mean((0, 1)))


def test_sampled_routes_approach_the_marginal_from_below(words):
    net = make(steps_scale=0.5)
    x, y = words[0][:20], words[1][:20]
    exact = log_marginal(net, x, y)
    few = sampled_log_lik(net, x, y, n_samples=1, seed=1)
    many = sampled_log_lik(net, x, y, n_samples=2000, seed=1)
    assert (many - exact).abs().max() < 0.1
    assert (few - exact).abs().max() > 0.3  # control
    assert few.mean() < exact.mean()
    again = sampled_log_lik(net, x, y, n_samples=2000, seed=1)
    assert torch.equal(many, again)


def test_words_of_modules_by_counting():
    words = torch.tensor([[0, 1, 2, 0], [1, 0, 2, 2]])
    module = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 1]])
    use = nn.functional.one_hot(module, 3).float()
    table = words_of_modules(use, words, ("a", "b", "c"), least=2)
    # a: 3 times module 0; b: twice module 1; c: once module 0, twice module 1.
    assert table["module"].tolist() == [0, 1, 1]
    assert table["word"].tolist() == ["a", "b", "c"]
    assert table["count"].tolist() == [3, 2, 3]
    assert table["share"].tolist() == [0.5, 0.5, 0.5]
    assert table["share_at_word"].tolist() == pytest.approx([1, 1, 2 / 3])
    assert table["lift"].tolist() == pytest.approx([2, 2, 4 / 3])
    rare = words_of_modules(use, words, ("a", "b", "c"), least=3)
    assert rare["word"].tolist() == ["a", "c"]


def test_a_reading_needs_a_number_of_slots(words):
    with pytest.raises(ValueError, match="k must be a whole number >= 1, got 0"):
        read_greedily(make(), *words, k=0)
