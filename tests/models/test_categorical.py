"""Our Categorical gives Pyro's log-probabilities, at every pair of shapes."""

import itertools

import pyro.distributions as dist
import pytest
import torch

from latentroute.models.categorical import Categorical

BATCHES = [(), (1,), (3,), (2, 3), (1, 3), (4, 1, 3)]
VALUES = [(), (1,), (3,), (2, 3), (2, 1), (4, 1), (4, 2, 3), (4, 1, 1)]


@pytest.mark.parametrize(("batch", "shape"), [*itertools.product(BATCHES, VALUES)])
def test_log_probabilities_broadcast_as_pyros_do(batch, shape):
    logits = torch.randn(*batch, 5, generator=torch.Generator().manual_seed(0))
    value = torch.arange(torch.Size(shape).numel()).reshape(shape) % 5
    found, expected = Categorical(logits), dist.Categorical(logits=logits)
    try:
        expected = expected.log_prob(value)
    except (RuntimeError, ValueError):  # shapes that do not broadcast
        with pytest.raises((RuntimeError, ValueError)):
            found.log_prob(value)
        return
    assert found.log_prob(value).shape == expected.shape
    torch.testing.assert_close(found.log_prob(value), expected)


@pytest.mark.parametrize("batch", BATCHES)
def test_enumerated_values_too(batch):
    found = Categorical(torch.randn(*batch, 5, generator=torch.Generator()))
    values = found.enumerate_support(expand=False)
    expected = dist.Categorical(logits=found.logits).log_prob(values.clone())
    torch.testing.assert_close(found.log_prob(values), expected)


def test_an_expanded_one_is_the_same_and_draws_alike():
    narrow = Categorical(torch.tensor([[0.0, 1.0, -1.0]] * 3))
    assert narrow.expand([3]) is narrow  # a plate passes a list
    wide = narrow.expand((20_000, 3))
    torch.manual_seed(0)
    drawn = torch.nn.functional.one_hot(wide.sample(), 3).double().mean((0, 1))
    assert wide.batch_shape == (20_000, 3)
    torch.testing.assert_close(
        drawn, narrow.logits[0].exp().double(), atol=0.01, rtol=0
    )


def test_narrow_logits_have_log_probabilities_in_float32():
    assert (
        Categorical(torch.zeros(3, dtype=torch.bfloat16)).logits.dtype == torch.float32
    )
    assert (
        Categorical(torch.zeros(3, dtype=torch.float64)).logits.dtype == torch.float64
    )
