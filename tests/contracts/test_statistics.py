"""The statistical helpers themselves: they accept what is right and refuse the rest."""

import pytest
import torch

from tests import statistics
from tests.statistics import (
    ATTEMPTS,
    LEDGER,
    SUITE_RATE,
    assert_frequencies,
    assert_mean,
    assert_unbiased,
    judge,
)

D = 60


def normal_draws(seed, n=500, shift=0.0, scale=0.4):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, D, generator=generator, dtype=torch.float64)
    return truth_vector() + shift + scale * noise


def truth_vector():
    return torch.linspace(-1, 1, D, dtype=torch.float64)


def test_right_draws_are_accepted():
    verdicts = [judge(normal_draws(seed), truth_vector()) for seed in range(40)]
    # At most D * 7e-5 + 1e-3 of them may be refused.
    assert sum(not v.unbiased for v in verdicts) <= 1
    assert_unbiased(normal_draws, truth_vector())


def test_a_tenth_of_the_gradients_size_is_refused():
    """Squared bias of 1% in all, spread over the coordinates."""
    size = truth_vector().square().mean().sqrt()
    for seed in range(10):
        assert not judge(normal_draws(seed, shift=0.15 * size), truth_vector()).unbiased


def test_one_wrong_coordinate_is_refused():
    def draw(seed):
        draws = normal_draws(seed)
        draws[:, 7] += 0.2
        return draws

    assert not judge(draw(0), truth_vector()).unbiased
    with pytest.raises(AssertionError, match="biased"):
        assert_unbiased(draw, truth_vector())


def test_draws_too_noisy_to_tell_are_refused():
    with pytest.raises(AssertionError, match="too noisy"):
        assert_unbiased(lambda seed: normal_draws(seed, scale=30.0), truth_vector())


def test_it_takes_all_attempts_to_fail():
    seeds = []

    def draw(seed):
        seeds.append(seed)
        return normal_draws(seed, shift=0.0 if len(seeds) == ATTEMPTS else 1.0)

    assert_unbiased(draw, truth_vector())
    assert len(set(seeds)) == ATTEMPTS


def test_frequencies():
    probs = torch.tensor([0.1, 0.2, 0.7])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(probs, 4000, replacement=True, generator=generator)
    assert_frequencies(drawn, probs)
    with pytest.raises(AssertionError):
        assert_frequencies(drawn, torch.tensor([0.15, 0.15, 0.7]))
    with pytest.raises(AssertionError):
        assert_frequencies(drawn, torch.tensor([0.0, 0.3, 0.7]))
    with pytest.raises(AssertionError, match="out of range"):
        assert_frequencies(drawn, torch.tensor([0.3, 0.7]))


def test_means():
    draws = normal_draws(0, n=2000)
    assert_mean(draws, truth_vector())
    with pytest.raises(AssertionError):
        assert_mean(draws, truth_vector() + 0.1)


def test_the_ledger_adds_up_what_may_go_wrong(monkeypatch):
    ledger = statistics.Ledger()
    monkeypatch.setattr(statistics, "LEDGER", ledger)
    assert_unbiased(normal_draws, truth_vector())
    assert 0 < ledger.total < 2e-8
    before = ledger.total
    assert_frequencies(torch.tensor([0, 1] * 50), torch.tensor([0.5, 0.5]))
    assert ledger.total == pytest.approx(before + 2 * statistics.COMPARISON_RATE)


def test_the_suite_so_far_is_within_its_rate():
    assert LEDGER.total <= SUITE_RATE
