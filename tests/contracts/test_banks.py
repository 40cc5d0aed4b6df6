"""Every kind of module bank is a loop over rows, however its route came about."""

import itertools
import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from latentroute.models import ModuleBank
from tests import brute_force as truth

M = 3


def linears(into, out, m):
    return [nn.Linear(into, out) for _ in range(m)]


def affine_tanhs(into, out, m):
    return [nn.Sequential(nn.Linear(into, out), nn.Tanh()) for _ in range(m)]


def deep(into, out, m):
    return [
        nn.Sequential(nn.Linear(into, 5), nn.ReLU(), nn.Linear(5, out, bias=False))
        for _ in range(m)
    ]


def without_bias(into, out, m):
    return [nn.Linear(into, out, bias=False) for _ in range(m)]


def of_several_depths(into, out, m):
    return [
        nn.Sequential(*(nn.Linear(into, into) for _ in range(i)), nn.Linear(into, out))
        for i in range(m)
    ]


def with_normalisation(into, out, m):
    return [nn.Sequential(nn.LayerNorm(into), nn.Linear(into, out)) for _ in range(m)]


def plain_functions(into, out, m):
    def make(i):
        return lambda z: (z.sum(-1, keepdim=True) * (i + 1)).sin().repeat(1, out)

    return [make(i) for i in range(m)]


def not_differentiable(into, out, m):
    def make(i):
        def step(z):
            with torch.no_grad():
                return (z.sum(-1, keepdim=True) > i).to(z.dtype).expand(len(z), out)

        return step

    return [make(i) for i in range(m)]


def of_every_kind(into, out, m):
    makers = itertools.cycle([linears, plain_functions, not_differentiable, deep])
    return [
        make(into, out, i + 1)[i] for i, make in zip(range(m), makers, strict=False)
    ]


KINDS = (
    linears,
    affine_tanhs,
    deep,
    without_bias,
    of_several_depths,
    with_normalisation,
    plain_functions,
    not_differentiable,
    of_every_kind,
)
DTYPES = (torch.float32, torch.float64)


@pytest.fixture(params=[2**20, 0], ids=["few", "sorted"], autouse=True)
def few(request, monkeypatch):
    """Each way to send rows to their modules: all small here, they take the first."""
    monkeypatch.setattr("latentroute.models.stack._MOST_PICKED", request.param)
    monkeypatch.setattr("latentroute.models.banks._FEW_NUMBERS", request.param)


every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)


def make(kind, into, out, m=M, dtype=torch.float64, seed=0):
    """Modules with weights of their own, from a seed."""
    modules = kind(into, out, m)
    for i, module in enumerate(modules):
        if isinstance(module, nn.Module):
            module.to(dtype)
            truth.randomise(module, seed + i)
    return modules


def data(*shape, dtype=torch.float64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def whole(high, *shape, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(high, shape, generator=generator)


def enumerated(m, position):
    """All choices on batch dim -position, marked as Pyro marks them."""
    values = dist.Categorical(logits=torch.zeros(m)).enumerate_support(expand=False)
    route = values.reshape(m, *(1,) * (position - 1))
    route._pyro_categorical_support = values._pyro_categorical_support
    return route


def by_rows(modules, z, route):
    """The truth: each row on its own through the module that it chose."""
    batch = torch.broadcast_shapes(z.shape[:-1], route.shape)
    z, route = z.expand(*batch, z.shape[-1]), route.expand(batch)
    rows = [
        modules[m](row.unsqueeze(0))
        for row, m in zip(
            z.reshape(-1, z.shape[-1]), route.long().flatten().tolist(), strict=True
        )
    ]
    return torch.cat(rows).unflatten(0, batch)


def tolerance(dtype):
    return 1e-10 if dtype == torch.float64 else 1e-5


def routes_and_batches():
    """(name, batch shape of z, route): every mixture that arises."""
    n, s = 5, 2
    yield "sampled", (n,), whole(M, n)
    yield "one for all", (n,), torch.tensor(1)
    yield "batch of one", (1,), whole(M, 1)
    yield "particles", (n,), whole(M, s, n)
    yield "particles of one, as many as modules", (1,), whole(M, M, 1)
    yield "particles already in z", (s, n), whole(M, s, n)
    yield "one route for all particles", (s, n), whole(M, n)
    yield "outer plate", (s, 1, n), whole(M, s, 4, n)
    yield "static particles", (n,), whole(M, s, 1)
    yield "many particles", (n,), whole(M, 4, n)
    yield "many particles, in two dimensions", (n,), whole(M, 2, 3, n)
    yield "many particles of an outer plate", (4, n), whole(M, 5, 4, n)
    yield "many static particles", (n,), whole(M, 4, 1)
    yield "many particles of what has no batch", (), whole(M, 5)
    yield "many particles, as floats", (n,), whole(M, 4, n).double()
    yield "empty modules", (n,), torch.ones(n, dtype=torch.long)
    yield "int32", (n,), whole(M, n).int()
    yield "enumerated", (n,), enumerated(M, 2)
    yield "enumerated, batch of one", (1,), enumerated(M, 2)
    yield "enumerated without its mark", (n,), enumerated(M, 2).clone()
    yield "enumerated behind an inner plate", (n,), enumerated(M, 3)
    yield "enumerated after enumerated", (2, n), enumerated(M, 3)
    yield "enumerated after enumerated, far left", (2, n), enumerated(M, 4)
    yield "enumerated right of an earlier one", (2, 1, n), enumerated(M, 2)
    yield "enumerated between earlier ones", (2, 1, 4, n), enumerated(M, 3)
    yield "enumerated after sampled", (s, n), enumerated(M, 3)
    yield "sampled after enumerated", (M, n), whole(M, M, n)
    yield "sampled after enumerated, alike", (M, n), whole(M, n)
    yield "sampled particles after enumerated", (M, 1, n), whole(M, M, s, n)
    yield "enumerated and used before", (M, n), enumerated(M, 2)
    yield "enumerated and used before, then another", (2, M, n), enumerated(M, 2)
    yield "as many examples as modules", (M,), enumerated(M, 2)
    yield "as many examples as modules, sampled", (M,), torch.arange(M)


MIXTURES = {name: (batch, route) for name, batch, route in routes_and_batches()}


@pytest.mark.parametrize("mixture", list(MIXTURES))
@every_kind
def test_a_bank_is_a_loop_over_rows(kind, mixture):
    batch, route = MIXTURES[mixture]
    modules = make(kind, 3, 4)
    bank = ModuleBank(make(kind, 3, 4))
    z = data(*batch, 3)
    expected = by_rows(modules, z, route)
    # Twice: what a bank keeps of one call must not matter to the next.
    for _ in range(2):
        actual = bank(z, route)
        assert actual.shape == expected.shape
        truth.assert_agree(actual, expected)


def total_gradients(value, z, modules_or_bank):
    weight = data(*value.shape, seed=9).to(value.dtype)
    parameters = [
        p
        for part in modules_or_bank
        if isinstance(part, nn.Module)
        for p in part.parameters()
    ]
    by_z = torch.autograd.grad(
        (value * weight).sum(), [z, *parameters], allow_unused=True
    )
    sizes = [0.0 if g is None else g.double().square().sum().item() for g in by_z[1:]]
    return by_z[0], math.sqrt(math.fsum(sizes))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "mixture",
    [
        "sampled",
        "particles",
        "empty modules",
        "enumerated",
        "int32",
        "enumerated and used before",
        "sampled after enumerated",
    ],
)
@pytest.mark.parametrize("widths", [(1, 1), (3, 5), (4, 8), (7, 3)], ids=str)
@pytest.mark.parametrize("kind", [linears, deep, of_several_depths, of_every_kind])
def test_gradients_in_both_precisions_and_odd_widths(kind, widths, mixture, dtype):
    batch, route = MIXTURES[mixture]
    modules = make(kind, *widths, dtype=dtype)
    bank = ModuleBank(make(kind, *widths, dtype=dtype))
    z = data(*batch, widths[0], dtype=dtype).requires_grad_()
    expected, actual = by_rows(modules, z, route), bank(z, route)
    assert actual.dtype == dtype
    truth.assert_agree(actual, expected, tolerance(dtype))
    expected_z, expected_size = total_gradients(expected, z, modules)
    actual_z, actual_size = total_gradients(actual, z, [bank])
    truth.assert_agree(actual_z, expected_z, tolerance(dtype))
    assert actual_size == pytest.approx(expected_size, rel=tolerance(dtype))


@pytest.mark.parametrize("kind", [linears, affine_tanhs, deep])
@pytest.mark.parametrize("lead", [(), (2,), (8,), (2, 4)], ids=str)
def test_no_rows_have_no_values(kind, lead):
    bank = ModuleBank(make(kind, 3, 4))
    assert bank(data(0, 3), whole(M, *lead, 0)).shape == (*lead, 0, 4)


@pytest.mark.parametrize("lead", [(2,), (8,)], ids=str)
def test_modules_may_give_more_dimensions_than_features(lead):
    modules = [
        nn.Sequential(nn.Linear(3, 6), nn.Unflatten(1, (2, 3))) for _ in range(M)
    ]
    bank, z, route = ModuleBank(modules), data(3).float(), whole(M, *lead)
    expected = torch.stack([modules[a](z.unsqueeze(0)).squeeze(0) for a in route])
    torch.testing.assert_close(bank(z, route), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every_kind
def test_an_expanded_gradient_is_taken(kind, dtype):
    """`out.sum().backward()`, which grouped_mm refuses, alone and after a head."""
    bank = ModuleBank(make(kind, 3, 4, dtype=dtype))
    z = data(6, 3, dtype=dtype).requires_grad_()
    out = bank(z, whole(M, 6))
    if out.requires_grad:
        out.sum().backward()
        assert torch.isfinite(z.grad).all()


@every_kind
def test_modules_that_nobody_chose_have_no_gradient(kind):
    bank = ModuleBank(make(kind, 3, 4))
    bank(data(6, 3), torch.full((6,), 2)).sum()
    out = bank(data(6, 3).requires_grad_(), torch.full((6,), 2))
    if not list(bank.parameters()) or not out.requires_grad:
        return
    out.sum().backward()
    parts = [p.grad for p in bank.parameters() if p.grad is not None]
    stacked = [g for g in parts if g.shape[0] == M and g.dim() > 1]
    for grad in stacked if kind in (linears, affine_tanhs, deep) else []:
        assert not grad[:2].any() and grad[2].any()


@pytest.mark.parametrize("kind", [linears, affine_tanhs, deep, without_bias])
@pytest.mark.parametrize("mixture", list(MIXTURES))
def test_stacked_and_listed_modules_are_equal(kind, mixture):
    batch, route = MIXTURES[mixture]
    modules = make(kind, 3, 4)
    stacked = ModuleBank(modules)
    listed = ModuleBank([lambda z, f=f: f(z) for f in modules])
    assert len(list(stacked.parameters())) < sum(
        len(list(f.parameters())) for f in modules
    ), "not stacked"
    z = data(*batch, 3)
    truth.assert_agree(stacked(z, route), listed(z, route))


class Counted:
    """A module that counts its calls and rows."""

    def __init__(self):
        self.calls = self.rows = 0

    def __call__(self, z):
        self.calls += 1
        self.rows += len(z)
        return 2 * z


def test_only_chosen_modules_are_called_on_their_own_rows():
    modules = [Counted() for _ in range(M)]
    ModuleBank(modules)(data(6, 2), torch.tensor([0, 2, 2, 0, 0, 2]))
    assert [f.calls for f in modules] == [1, 0, 1]
    assert [f.rows for f in modules] == [3, 0, 3]


def test_an_enumerated_route_calls_each_module_once_over_the_batch():
    modules = [Counted() for _ in range(M)]
    ModuleBank(modules)(data(2, 6, 2), enumerated(M, 3))
    assert [f.calls for f in modules] == [1] * M
    assert [f.rows for f in modules] == [12] * M


def test_enumerated_slots_share_one_evaluation_of_each_module():
    modules = [Counted() for _ in range(M)]
    ModuleBank(modules)(data(6, 2), [enumerated(M, 2), enumerated(M, 3)])
    assert [f.calls for f in modules] == [1] * M


# Several slots.

SLOTS = {
    "sampled": ((5,), [whole(M, 5, seed=3), whole(M, 5, seed=4)]),
    "three": ((5,), [whole(M, 5, seed=s) for s in (3, 4, 5)]),
    "enumerated": ((5,), [enumerated(M, 2), enumerated(M, 3)]),
    "three enumerated": ((5,), [enumerated(M, p) for p in (2, 3, 4)]),
    "enumerated, then sampled": ((5,), [enumerated(M, 2), whole(M, M, 5)]),
    "sampled, then enumerated": ((5,), [whole(M, 5), enumerated(M, 2)]),
    "static": ((5,), [torch.tensor(1), torch.tensor(1)]),
    "all the same": ((5,), [torch.ones(5).long()] * 3),
    "particles": ((5,), [whole(M, 2, 5, seed=3), whole(M, 2, 5, seed=4)]),
}


@pytest.mark.parametrize("slots", list(SLOTS))
@pytest.mark.parametrize("duplicates", ["once", "each"])
@pytest.mark.parametrize("combine", ["add", "concatenate"])
@pytest.mark.parametrize("kind", [affine_tanhs, of_every_kind])
def test_slots(kind, combine, duplicates, slots):
    batch, routes = SLOTS[slots]
    modules = make(kind, 3, 4)
    bank = ModuleBank(make(kind, 3, 4), combine=combine, duplicates=duplicates)
    z = data(*batch, 3)
    values, seen = [], []
    for route in torch.broadcast_tensors(*routes):
        value = by_rows(modules, z, route)
        again = torch.zeros_like(route, dtype=torch.bool)
        for earlier in seen:
            again |= earlier == route
        if duplicates == "once":
            again = again.expand(value.shape[:-1]).unsqueeze(-1)
            value = torch.where(again, torch.zeros_like(value), value)
        values.append(value)
        seen.append(route)
    expected = sum(values) if combine == "add" else torch.cat(values, -1)
    truth.assert_agree(bank(z, routes), expected)


def test_a_module_chosen_twice_counts_once_by_default():
    bank = ModuleBank([lambda z: z, lambda z: 10 * z])
    z = torch.ones(3, 1)
    routes = [torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])]
    assert bank(z, routes).flatten().tolist() == [1, 11, 10]
    each = ModuleBank([lambda z: z, lambda z: 10 * z], duplicates="each")
    assert each(z, routes).flatten().tolist() == [2, 11, 20]


# What stacking must not lose.


def test_shared_weights_stay_shared():
    shared = nn.Linear(2, 2)
    modules = [nn.Sequential(shared, nn.Tanh()), nn.Sequential(shared, nn.Sigmoid())]
    same = [nn.Sequential(shared, nn.Tanh()), nn.Sequential(shared, nn.Tanh())]
    tied = nn.Linear(2, 2)
    tied.weight = shared.weight
    for bank in (ModuleBank(modules), ModuleBank(same), ModuleBank([shared, tied])):
        bank(data(4, 2, dtype=torch.float32), torch.tensor([0, 1, 1, 0])).sum()
        weights = [p for p in bank.parameters() if p.dim() > 1]
        assert len(weights) == 1 and weights[0].shape == (2, 2)


def test_frozen_parts_stay_frozen_and_others_learn():
    modules = linears(2, 2, 2)
    for module in modules:
        module.weight.requires_grad_(False)
    bank = ModuleBank(modules)
    learned = [p for p in bank.parameters() if p.requires_grad]
    assert sum(p.numel() for p in learned) == 4, "the biases"


def test_hooks_are_called():
    plain, hooked = linears(2, 2, 2)
    hooked.register_forward_pre_hook(lambda module, inputs: (0 * inputs[0],))
    z, route = data(4, 2, dtype=torch.float32), torch.tensor([0, 1, 1, 0])
    expected = by_rows([plain, hooked], z, route)
    truth.assert_agree(ModuleBank([plain, hooked])(z, route), expected)


def test_hooks_of_a_bank_s_activations_are_called():
    bank = ModuleBank(affine_tanhs(2, 2, 2))
    (tanh,) = (part for part in bank.modules() if isinstance(part, nn.Tanh))
    tanh.register_forward_hook(lambda module, args, out: 0 * out)
    z = data(4, 2, dtype=torch.float32)
    for route in (torch.tensor([0, 1, 1, 0]), enumerated(2, 2)):
        assert not bank(z, route).any()


@pytest.mark.parametrize("function", [nn.Tanh, nn.ReLU, nn.Sigmoid, nn.Identity])
def test_what_is_given_is_not_changed_in_place(function):
    """Activations in a row, first and last: only an affine map's value is changed."""

    def module(bias):
        parts = [function(), nn.Linear(2, 4, bias=bias), function(), function()]
        return nn.Sequential(*parts).double()

    for bias in (True, False):
        modules = [module(bias) for _ in range(M)]
        bank = ModuleBank([nn.Sequential(*m) for m in modules])
        for route in (whole(M, 5), enumerated(M, 2)):
            z = data(5, 2).requires_grad_()
            value = bank(z, route)
            assert torch.equal(z, data(5, 2))
            expected = by_rows(modules, z, route)
            truth.assert_agree(value, expected)
            (own,) = torch.autograd.grad(value.square().sum(), z)
            (found,) = torch.autograd.grad(expected.square().sum(), z)
            truth.assert_agree(own, found)


def test_the_order_of_modules_of_every_kind_is_kept():
    modules = [lambda z: 0 * z, nn.Identity(), lambda z: 2 * z, nn.Softplus()]
    z = data(4, 2)
    out = ModuleBank(modules)(z, torch.arange(4))
    expected = torch.stack([0 * z[0], z[1], 2 * z[2], nn.Softplus()(z[3])])
    truth.assert_agree(out, expected)


def test_a_state_dict_goes_round():
    for kind in KINDS:
        one, two = ModuleBank(make(kind, 3, 4)), ModuleBank(make(kind, 3, 4, seed=50))
        two.load_state_dict(one.state_dict())
        z, route = data(6, 3), whole(M, 6)
        assert torch.equal(one(z, route), two(z, route))


@pytest.mark.parametrize("wrong", [M, -1])
def test_a_module_that_is_not_there(wrong):
    bank = ModuleBank(make(linears, 2, 2))
    with pytest.raises((IndexError, RuntimeError), match=r"range|bounds|split"):
        bank(data(4, 2), torch.tensor([0, 1, wrong, 2]))


def test_bad_banks():
    with pytest.raises(ValueError, match="a bank needs at least one module"):
        ModuleBank([])
    with pytest.raises(TypeError, match="a module must be callable, got 3"):
        ModuleBank([3])
    with pytest.raises(ValueError, match="combine must be one of add, concatenate"):
        ModuleBank([nn.Tanh()], combine="mean")
    with pytest.raises(ValueError, match=r"duplicates must be one of once, each.*once"):
        ModuleBank([nn.Tanh()], duplicates="onse")
