"""Every exported head and router, found in `latentroute.models` itself."""

import inspect

import pytest
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import nn

from latentroute import models
from latentroute.models import HEADS, LayeredNetwork
from tests import brute_force as truth

IN, OUT, M = 5, 3, 4

# A router makes a distribution over modules; one that is a model belongs elsewhere.
ROUTERS = {
    name: getattr(models, name) for name in models.__all__ if name.endswith("Router")
}
every_router = pytest.mark.parametrize("name", list(ROUTERS))
every_head = pytest.mark.parametrize("name", list(HEADS))
BATCHES = [(6,), (1,), (2, 6), (3, 1, 6)]


def data(*shape):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_every_head_and_router_is_here():
    exported = {getattr(models, n) for n in models.__all__ if n.endswith("Head")}
    assert set(HEADS.values()) == exported
    assert len(ROUTERS) >= 3


def sees_input(router):
    return "in_features" in inspect.signature(router).parameters


def make_router(name):
    router = ROUTERS[name]
    made = router(IN, M) if sees_input(router) else router(M)
    made.double()
    truth.randomise(made, 1)
    return made


@every_router
@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_a_router_gives_a_distribution_over_modules(name, batch):
    router = make_router(name)
    given = (data(*batch, IN),) if sees_input(ROUTERS[name]) else ()
    distribution = router(*given)
    assert distribution.has_enumerate_support
    assert distribution.batch_shape == (batch if given else ())
    assert distribution.event_shape == ()
    support = distribution.enumerate_support(expand=False)
    assert support.flatten().tolist() == list(range(M))
    total = distribution.log_prob(support).exp().sum(0)
    truth.assert_agree(total, torch.ones_like(total))


@every_router
def test_a_router_is_learned(name):
    router = make_router(name)
    given = (data(6, IN),) if sees_input(ROUTERS[name]) else ()
    router(*given).log_prob(torch.tensor(2)).sum().backward()
    for key, parameter in router.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), key


@every_router
def test_a_router_reads_each_row_alone(name):
    if not sees_input(ROUTERS[name]):
        assert make_router(name)().batch_shape == ()
        return
    router, z = make_router(name), data(6, IN)
    rows = torch.cat([router(row).probs for row in z.split(1)])
    truth.assert_agree(router(z).probs, rows)


@every_router
def test_a_network_takes_every_router(name):
    if sees_input(ROUTERS[name]):
        options = {"router": ROUTERS[name]}
    else:
        options = {"routing": "static"}
    net = LayeredNetwork(IN, OUT, n_layers=2, n_modules=M, hidden_features=3, **options)
    kinds = {type(router) for router in net.routers}
    assert kinds == {ROUTERS[name]}
    assert net(torch.zeros(6, IN)).shape == (6,)


def test_a_static_router_starts_uniform():
    probs = models.StaticRouter(4)().probs
    assert torch.equal(probs, torch.full((4,), 0.25))


def make_head(name):
    head = HEADS[name](IN, OUT).double()
    truth.randomise(head, 1)
    return head


def targets(name, n):
    generator = torch.Generator().manual_seed(3)
    if name == "categorical":
        return torch.randint(OUT, (n,), generator=generator)
    values = torch.randn(n, OUT, generator=generator, dtype=torch.float64)
    return values if name == "normal" else (values > 0).double()


def by_hand(name, head, h, y):
    """log p(y | h), from the head's weights and torch alone."""
    eta = h @ head.linear.weight.T + head.linear.bias
    if name == "categorical":
        return eta.log_softmax(-1)[..., torch.arange(len(y)), y]
    if name == "normal":
        density = torch.distributions.Normal(eta, head.log_scale.exp())
        return density.log_prob(y).sum(-1)
    assert name == "bernoulli", "a new head: say here what it is"
    return -nn.functional.binary_cross_entropy_with_logits(
        eta, y.expand_as(eta), reduction="none"
    ).sum(-1)


@every_head
@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_a_head_is_a_distribution_of_y(name, batch):
    head, h = make_head(name), data(*batch, IN)
    distribution = head(h)
    assert distribution.batch_shape == batch
    y = targets(name, batch[-1])
    actual = distribution.log_prob(head.target(y, len(y)))
    truth.assert_agree(actual, by_hand(name, head, h, y))
    actual.sum().backward()
    for key, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), key
    assert distribution.sample().shape == (
        batch if name == "categorical" else (*batch, OUT)
    )


@every_head
def test_a_head_takes_what_it_samples(name):
    head = make_head(name)
    y = head(data(6, IN)).sample()
    assert torch.equal(head.target(y, 6), y)


@every_head
def test_one_output_may_be_a_vector(name):
    if name == "categorical":
        return  # its targets are vectors already
    head = HEADS[name](IN, 1)
    y = torch.tensor([0.0, 1.0, 1.0])
    assert head.target(y, 3).shape == (3, 1)
    assert torch.equal(head.target(y, 3), head.target(y.unsqueeze(-1), 3))


@every_head
def test_targets_of_other_types_are_taken(name):
    head = make_head(name)
    y = targets(name, 4)
    if name == "categorical":
        for kind in (torch.int32, torch.uint8, torch.float32):
            assert torch.equal(head.target(y.to(kind), 4), y)
    else:
        assert head.target(y.float(), 4).dtype == torch.float64
        if name == "bernoulli":
            assert torch.equal(head.target(y.bool(), 4), y)


def refused(name, y, n):
    with pytest.raises(ValueError) as error:
        make_head(name).target(y, n)
    text = str(error.value)
    assert text.startswith("y must ") and "got" in text and "\n" not in text
    return text


@every_head
def test_targets_of_a_wrong_shape(name):
    y = targets(name, 4)
    for wrong, given in [
        (y[:3], tuple(y[:3].shape)),
        (y.reshape(-1), (4 * OUT,)) if name != "categorical" else (y[None], (1, 4)),
        (y.unsqueeze(-1), (*y.shape, 1)),
    ]:
        text = refused(name, wrong, 4)
        assert str(given) in text, "what was given"
        assert ("(4,)" if name == "categorical" else f"(4, {OUT})") in text


@every_head
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf], ids=str)
def test_targets_that_are_not_finite(name, bad):
    y = targets(name, 4).double()
    y[2] = bad
    text = refused(name, y, 4)
    assert "row 2" in text
    assert str(bad) in text


@pytest.mark.parametrize("bad", [3, 7, -1])
def test_a_class_out_of_range(bad):
    text = refused("categorical", torch.tensor([0, 1, bad, 2]), 4)
    assert "0 .. 2" in text and f"got {bad} at row 2" in text


def test_a_class_that_is_no_whole_number():
    text = refused("categorical", torch.tensor([0.0, 1.5]), 2)
    assert "whole numbers" in text and "1.5 at row 1" in text


def test_a_bernoulli_target_that_is_neither_0_nor_1():
    y = torch.zeros(2, OUT)
    y[1, 2] = 2.0
    text = refused("bernoulli", y, 2)
    assert "0 and 1" in text and "2.0 at row 1" in text


def test_distributions_are_pyros():
    for name in HEADS:
        assert isinstance(make_head(name)(data(2, IN)), TorchDistributionMixin)
