"""The sum over a site's choices at the ends of the range of floats."""

import math

import pytest
import torch

from latentroute.inference.tables import logsumexp

INF = math.inf
DTYPES = (torch.float32, torch.float64)


def value_and_gradient(function, values, dtype):
    values = torch.tensor(values, dtype=dtype, requires_grad=True)
    total = function(values, 0).sum()
    (gradient,) = torch.autograd.grad(total, values)
    return total.item(), gradient


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "values",
    [
        [0.3, -1.2, 4.0],
        [0.0, -INF],
        [-1e6, -1e6 - 3],
        [-3e38, -3e38],
        [3e38, 3e38],
        [-INF, -INF],
        [INF, 0.0],
        [INF, -INF],
        [math.nan, 0.0],
    ],
    ids=str,
)
def test_the_value_is_torchs(values, dtype):
    found, _ = value_and_gradient(logsumexp, values, dtype)
    expected, _ = value_and_gradient(torch.logsumexp, values, dtype)
    assert found == pytest.approx(expected, rel=1e-6, nan_ok=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_is_the_softmax_at_any_distance_from_zero(dtype):
    expected = torch.tensor([0.0, -3.0], dtype=dtype).softmax(0)
    for shift in (0.0, -1e6, 1e6):
        _, found = value_and_gradient(logsumexp, [shift, shift - 3], dtype)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    _, torchs = value_and_gradient(torch.logsumexp, [-1e6, -1e6 - 3], torch.float32)
    assert abs(torchs.sum() - 1) > 1e-2  # what is avoided here


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_cannot_be_has_no_gradient_and_not_nan(dtype):
    _, found = value_and_gradient(logsumexp, [-INF, -INF], dtype)
    assert torch.equal(found, torch.zeros(2, dtype=dtype))


def test_it_is_differentiable_twice():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, 4, dtype=torch.float64, generator=generator)
    values.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: logsumexp(v, -2), values)
    assert torch.autograd.gradgradcheck(lambda v: logsumexp(v, -2), values)
