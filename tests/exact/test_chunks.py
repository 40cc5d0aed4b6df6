"""Exact sums in chunks: the same value and gradient in less memory."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from latentroute.inference import build, log_marginal
from latentroute.inference.chunks import sum_all_routes
from latentroute.inference.program import RoutedProgram
from latentroute.inference.structure import read_structure
from latentroute.models import LayeredNetwork


@pytest.fixture(params=["dynamic", "static"])
def case(request):
    torch.manual_seed(0)
    net = LayeredNetwork(
        3, 2, n_layers=3, n_modules=3, hidden_features=4, routing=request.param
    ).double()
    x = torch.randn(6, 3, dtype=torch.float64)
    return net, x, net(x).detach()


def value_and_gradient(case, memory_limit):
    net, x, y = case
    net.zero_grad()
    loss = build("exact", net, memory_limit=memory_limit)(x, y)
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in net.parameters()])


@pytest.mark.parametrize("n_held", [1, 2, 3])
def test_chunks_change_neither_value_nor_gradient(case, n_held):
    net, x, y = case
    limit = read_structure(net, x, y).enumeration_bytes(len(x), n_held)
    whole, in_chunks = (value_and_gradient(case, m) for m in (None, limit))
    torch.testing.assert_close(in_chunks, whole, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(
        log_marginal(net, x, y, memory_limit=limit),
        log_marginal(net, x, y),
        rtol=1e-12,
        atol=1e-12,
    )


def test_a_chunk_is_all_that_is_enumerated_at_once(case, monkeypatch):
    net, x, y = case
    seen = []
    bank = type(net.banks[-1])
    plain = bank.forward

    def spied(self, z, route):
        out = plain(self, z, route)
        seen.append(out.shape[:-1].numel())
        return out

    monkeypatch.setattr(bank, "forward", spied)
    limit = read_structure(net, x, y).enumeration_bytes(len(x), 1)
    build("exact", net, memory_limit=limit)(x, y)
    assert max(seen) == 9 * len(x)
    seen.clear()
    build("exact", net)(x, y)
    assert max(seen) == 27 * len(x)


def test_what_does_not_fit_even_so_is_refused(case):
    net, x, y = case
    with pytest.raises(ValueError, match=r"27 routes \(3\^3\) of 6 examples.*KiB"):
        build("exact", net, memory_limit=1000)(x, y)


def test_chunks_are_joined_accurately_far_from_zero():
    torch.manual_seed(0)
    logit = torch.zeros(2, requires_grad=True)

    def model(x, y=None):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Categorical(logits=logit))
            b = pyro.sample("b", dist.Categorical(torch.ones(2) / 2))
            pyro.factor("y", -1e6 + 0.3 * a + 0.0 * b + 0.0 * x)

    program = RoutedProgram(model)
    args = (torch.zeros(1), None)
    structure = program.structure(*args)
    least = structure.enumeration_bytes(1, 1)
    total = sum_all_routes(program, args, 1, memory_limit=least)
    (gradient,) = torch.autograd.grad(total.sum(), logit)
    share = torch.softmax(torch.tensor([0.0, 0.3125]), 0)  # as float32 rounds 1e6 + .3
    torch.testing.assert_close(gradient, share - 0.5, atol=1e-5, rtol=0)
