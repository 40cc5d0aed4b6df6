"""Our Categorical gives Pyro's log-probabilities, at every pair of shapes."""

import itertools

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from latentroute.models.categorical import Categorical, categorical_of

LAYOUTS = {
    "choices last": Categorical,
    "choices first": lambda logits: Categorical.choices_first(logits.movedim(-1, 0)),
}
both_layouts = pytest.mark.parametrize("make", LAYOUTS.values(), ids=list(LAYOUTS))
BATCHES = [(), (1,), (3,), (2, 3), (1, 3), (4, 1, 3)]
VALUES = [(), (1,), (3,), (2, 3), (2, 1), (4, 1), (4, 2, 3), (4, 1, 1)]


@both_layouts
@pytest.mark.parametrize(("batch", "shape"), [*itertools.product(BATCHES, VALUES)])
def test_log_probabilities_broadcast_as_pyros_do(make, batch, shape):
    logits = torch.randn(*batch, 5, generator=torch.Generator().manual_seed(0))
    value = torch.arange(torch.Size(shape).numel()).reshape(shape) % 5
    found, expected = make(logits), dist.Categorical(logits=logits)
    try:
        expected = expected.log_prob(value)
    except (RuntimeError, ValueError):  # shapes that do not broadcast
        with pytest.raises((RuntimeError, ValueError)):
            found.log_prob(value)
        return
    assert found.log_prob(value).shape == expected.shape
    torch.testing.assert_close(found.log_prob(value), expected)


@both_layouts
@pytest.mark.parametrize("further", [0, 1, 3])
@pytest.mark.parametrize("batch", BATCHES)
def test_enumerated_values_too(make, batch, further):
    found = make(torch.randn(*batch, 5, generator=torch.Generator()))
    pyros = dist.Categorical(logits=found.logits)
    for expand in (True, False):
        values = found.enumerate_support(expand=expand)
        assert torch.equal(values, pyros.enumerate_support(expand=expand))
    mark = values._pyro_categorical_support
    values = values.reshape(5, *(1,) * further, *(1,) * len(batch))
    expected = pyros.log_prob(values.clone())
    values._pyro_categorical_support = mark
    torch.testing.assert_close(found.log_prob(values), expected)


@both_layouts
def test_an_expanded_one_is_the_same_and_draws_alike(make):
    narrow = make(torch.tensor([[0.0, 1.0, -1.0]] * 3))
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


def test_both_layouts_draw_the_same_and_know_the_same():
    logits = torch.randn(4, 1, 3, 5, generator=torch.Generator().manual_seed(0))
    last, first = (make(logits) for make in LAYOUTS.values())
    for shape in ((), (2,), (2, 6)):
        drawn = []
        for fn in (last, first):
            torch.manual_seed(1)
            drawn.append(fn.sample(torch.Size(shape)))
        assert torch.equal(*drawn) and drawn[0].shape == (*shape, 4, 1, 3)
    wide = [fn.expand((4, 7, 3)) for fn in (last, first)]
    for a, b in [(last, first), wide]:
        torch.testing.assert_close(a.logits, b.logits)
        torch.testing.assert_close(a.probs, b.probs)
        torch.testing.assert_close(a.entropy(), b.entropy())
        assert a.batch_shape == b.batch_shape and a.param_shape == b.param_shape


@both_layouts
def test_a_choice_of_probability_zero_is_never_drawn(make):
    fn = make(torch.tensor([-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf]))
    drawn = fn.sample(torch.Size((5000,)))
    assert set(drawn.tolist()) == {1, 3}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [(), (6,), (2, 6), (0,), (3, 1, 6)], ids=str)
@pytest.mark.parametrize("choices", [1, 3, 40])
def test_a_linear_map_s_choices_and_their_gradient(choices, batch, bias):
    torch.manual_seed(0)
    linear = nn.Linear(4, choices, bias=bias)
    z = torch.randn(*batch, 4, requires_grad=True)
    weight = torch.randn(batch)
    expected = dist.Categorical(logits=linear(z), validate_args=False)
    value = torch.randint(choices, batch)
    found = categorical_of(linear, z)
    assert found.batch_shape == torch.Size(batch)
    totals = [(fn.log_prob(value) * weight).sum() for fn in (found, expected)]
    leaves = [z, *linear.parameters()]
    torch.testing.assert_close(*totals)
    torch.testing.assert_close(*(torch.autograd.grad(t, leaves) for t in totals))


def test_hooks_of_a_linear_map_are_called():
    linear = nn.Linear(2, 3)
    z = torch.randn(5, 2)
    linear.register_forward_hook(lambda module, args, out: out * 0)
    uniform = torch.full((5, 3), 1 / 3)
    torch.testing.assert_close(categorical_of(linear, z).probs, uniform)
