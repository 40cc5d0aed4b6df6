"""Banks of convolutions are a loop over rows too, and cost the same whatever M."""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from latentroute.inference import log_marginal
from latentroute.inference.counting import KernelCount, count_evaluations
from latentroute.models import ModuleBank, route
from latentroute.models.relaxation import relax
from latentroute.models.stack import ModuleStack
from tests import brute_force as truth
from tests.contracts.test_banks import MIXTURES, data, enumerated, whole

M, IMAGE = 3, (2, 5, 4)

STACKED = {
    "plain": (IMAGE, lambda: nn.Conv2d(2, 3, 3)),
    "padded, without bias": (
        IMAGE,
        lambda: nn.Conv2d(2, 3, (3, 1), padding="same", bias=False),
    ),
    "strided, dilated, in groups": (
        IMAGE,
        lambda: nn.Conv2d(2, 4, 2, stride=(2, 1), dilation=(1, 2), groups=2),
    ),
    "two and an activation": (
        IMAGE,
        lambda: nn.Sequential(
            nn.ReLU(), nn.Conv2d(2, 4, 2), nn.Tanh(), nn.Conv2d(4, 3, 2, groups=1)
        ),
    ),
    "to features": (
        IMAGE,
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6, 4)
        ),
    ),
    "of features": (
        (40,),
        lambda: nn.Sequential(
            nn.Linear(40, 40),
            nn.ReLU(),
            nn.Unflatten(1, IMAGE),
            nn.Conv2d(2, 3, 2),
            nn.AvgPool2d(2),
            nn.Flatten(),
        ),
    ),
    "of a line": ((2, 6), lambda: nn.Conv1d(2, 3, 3, padding=1)),
    "of a volume": ((1, 3, 3, 2), lambda: nn.Conv3d(1, 2, 2)),
}
LISTED = {
    "normalised": (
        IMAGE,
        lambda: nn.Sequential(nn.Conv2d(2, 3, 2), nn.GroupNorm(1, 3)),
    ),
    "padded by reflection": (
        IMAGE,
        lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"),
    ),
    "a linear map of the last dimension": (IMAGE, lambda: nn.Linear(4, 3)),
}
KINDS = STACKED | LISTED
FEW = ["sampled", "particles", "enumerated", "enumerated and used before"]


def make(kind, m=M, **options):
    """Modules and their bank, of the same weights, and what they take."""
    into, module = KINDS[kind]
    pairs = [[module().double() for _ in range(m)] for _ in range(2)]
    for modules in pairs:
        for i, one in enumerate(modules):
            truth.randomise(one, i)
    bank = ModuleBank(pairs[1], event_dim=len(into), **options)
    assert isinstance(bank._evaluate, ModuleStack) == (kind in STACKED)
    return pairs[0], bank, into


def by_rows(modules, z, route, event_dim):
    """The truth: each row on its own through the module that it chose."""
    n_batch = z.dim() - event_dim
    into = z.shape[n_batch:]
    batch = torch.broadcast_shapes(z.shape[:n_batch], route.shape)
    rows = z.expand(*batch, *into).reshape(-1, *into)
    choices = route.long().expand(batch).flatten().tolist()
    values = [modules[m](row.unsqueeze(0)) for row, m in zip(rows, choices)]  # noqa: B905
    return torch.cat(values).unflatten(0, batch)


@pytest.mark.parametrize(
    ("kind", "mixture"),
    [
        *itertools.product(["plain", "to features"], MIXTURES),
        *itertools.product(KINDS, FEW),
    ],
)
def test_a_bank_is_a_loop_over_rows(kind, mixture):
    batch, chosen = MIXTURES[mixture]
    modules, bank, into = make(kind)
    z = data(*batch, *into)
    truth.assert_agree(bank(z, chosen), by_rows(modules, z, chosen, len(into)))


@pytest.mark.parametrize("mixture", FEW)
@pytest.mark.parametrize("kind", list(STACKED))
def test_gradients(kind, mixture):
    batch, chosen = MIXTURES[mixture]
    modules, bank, into = make(kind)
    z = data(*batch, *into).requires_grad_()
    value, expected = bank(z, chosen), by_rows(modules, z, chosen, len(into))
    weight = data(*value.shape, seed=5)
    own = torch.autograd.grad((value * weight).sum(), [z, *bank.parameters()])
    by_hand = [[*m.parameters()] for m in modules]
    leaves = [z, *[p for parameters in by_hand for p in parameters]]
    found = torch.autograd.grad(
        (expected * weight).sum(), leaves, allow_unused=True, materialize_grads=True
    )
    truth.assert_agree(own[0], found[0])
    one = len(by_hand[0])
    for place, stacked in enumerate(own[1:]):
        grads = torch.stack([*found[1 + place :: one]])
        if grads.dim() == 3 and "StackedAffine" in repr(bank):
            grads = grads.mT  # kept as (M, into, out)
        truth.assert_agree(stacked, grads)


@pytest.mark.parametrize("duplicates", ["once", "each"])
@pytest.mark.parametrize("combine", ["add", "concatenate"])
@pytest.mark.parametrize("kind", ["plain", "to features", "normalised"])
@pytest.mark.parametrize(
    "routes",
    [[whole(M, 5, seed=3), whole(M, 5, seed=4)], [enumerated(M, 2), enumerated(M, 3)]],
    ids=["sampled", "enumerated"],
)
def test_slots(kind, combine, duplicates, routes):
    modules, bank, into = make(kind, combine=combine, duplicates=duplicates)
    z = data(5, *into)
    first, second = (
        by_rows(modules, z, chosen, len(into))
        for chosen in torch.broadcast_tensors(*routes)
    )
    out_dim = first.dim() - max(1, routes[1].dim())
    if duplicates == "once":
        again = torch.eq(*torch.broadcast_tensors(*routes)).expand(
            first.shape[: first.dim() - out_dim]
        )
        second = second * ~again[(..., *(None,) * out_dim)]
    joined = torch.cat([first, second], -out_dim)
    expected = first + second if combine == "add" else joined
    truth.assert_agree(bank(z, routes), expected)


@pytest.mark.parametrize("kind", ["plain", "to features"])
def test_relaxed_routes_mix_the_modules(kind):
    modules, bank, into = make(kind)
    z, weights = data(5, *into), data(2, 5, M, seed=7).softmax(-1)
    each = [by_rows(modules, z, torch.tensor(m), len(into)) for m in range(M)]
    spread = weights[(..., *(None,) * (each[0].dim() - 1))].unbind(2)
    expected = sum(w * value for w, value in zip(spread, each, strict=True))
    truth.assert_agree(bank(z, relax(whole(M, 2, 5), weights)), expected)


@pytest.mark.parametrize("chosen", [whole(M, 7), enumerated(M, 2)], ids=["own", "all"])
def test_no_kernel_is_launched_a_module(chosen):
    counts = set()
    for m in (3, 12):
        _, bank, into = make("to features", m)
        chosen = enumerated(m, 2) if chosen.dim() > 1 else chosen
        with KernelCount() as count:
            bank.float()(data(7, *into).float(), chosen).sum().backward()
        counts.add(count.kernels)
    assert len(counts) == 1


def test_evaluations_are_counted_by_rows():
    for kind in ("plain", "normalised"):
        _, bank, into = make(kind)
        z = data(2, 7, *into)
        with count_evaluations() as count:
            bank(z, whole(M, 7))
        assert (count.rows, count.calls) == (14, 1)
        with count_evaluations() as count:
            bank(z, enumerated(M, 3))
        assert (count.rows, count.calls) == (14 * M, 1)


def test_a_program_of_images_has_its_exact_marginal():
    modules, bank, into = make("plain")
    x, logits = data(6, *into), data(6, M, seed=3)

    def model(x, y):
        with pyro.plate("data", len(x)):
            a = route("a", dist.Categorical(logits=logits))
            mean = bank(x, a).mean((-3, -2, -1))
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    y = data(6, seed=4)
    means = torch.stack([m(x).mean((-3, -2, -1)) for m in modules], -1)
    joint = dist.Normal(means, 1.0).log_prob(y.unsqueeze(-1)) + logits.log_softmax(-1)
    truth.assert_agree(log_marginal(model, x, y), joint.logsumexp(-1))


def test_a_bank_must_know_what_a_module_takes():
    with pytest.raises(ValueError, match="event_dim must be a whole number >= 1"):
        ModuleBank([nn.Conv2d(1, 1, 1)], event_dim=0)
