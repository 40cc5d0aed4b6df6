"""The modular GRU: torch's own GRU where a route is given, brute force where not."""

import itertools

import pyro
import pytest
import torch
from pyro import poutine
from torch import nn

from latentroute import fit
from latentroute.inference import (
    HardEM,
    NoisyTopK,
    ScoreFunction,
    TopKBuffer,
    build,
    log_marginal,
    route_posterior,
)
from latentroute.models import MLPRouter, ModularGRU, ModularGRUCell, route_sites
from tests import brute_force as truth

E, H, V = 4, 6, 5


def maps(bank):
    """Weights (M, out, in) and biases (M, out) of a bank of affine maps."""
    (affine,) = bank._evaluate.stages
    return affine.weight.transpose(1, 2), affine.bias


def torch_cell(cell, modules):
    """torch's cell with the sum of some modules' maps."""
    other = nn.GRUCell(E, H).double()
    with torch.no_grad():
        for bank, w, b in (
            (cell.of_input, other.weight_ih, other.bias_ih),
            (cell.of_state, other.weight_hh, other.bias_hh),
        ):
            weight, bias = maps(bank)
            w.copy_(weight[modules].sum(0))
            b.copy_(bias[modules].sum(0))
    return other


def make_cell(**options):
    cell = ModularGRUCell(E, H, **options).double()
    truth.randomise(cell, 0)
    return cell


def rows(n=7):
    generator = torch.Generator().manual_seed(1)
    x, h = torch.randn(n, E + H, generator=generator).double().split([E, H], -1)
    return x, h


def make(n_modules=2, **options):
    net = ModularGRU(V, n_modules=n_modules, hidden_features=H, features=E, **options)
    net = net.double()
    truth.randomise(net, 3)
    return net


def text(n=3, steps=3):
    words = torch.randint(V, (n, steps + 1), generator=torch.Generator().manual_seed(2))
    return words[:, :-1], words[:, 1:]


def sites_of(steps, n_modules, k):
    names = [
        f"route_{t}" if k == 1 else f"route_{t}_{slot}"
        for t in range(steps)
        for slot in range(k)
    ]
    return {name: truth.choices(n_modules) for name in names}


def test_a_cell_of_one_module_is_torchs():
    cell = make_cell(n_modules=1)
    x, h = (t.requires_grad_() for t in rows())
    ours = cell(x, h, [torch.zeros(7).long()])
    other = torch_cell(cell, [0])
    theirs = other(x, h)
    truth.assert_agree(ours, theirs)
    weight = torch.randn(
        ours.shape, generator=torch.Generator().manual_seed(4)
    ).double()
    ours_grad = torch.autograd.grad((ours * weight).sum(), (x, h, *cell.parameters()))
    given = torch.autograd.grad(
        (theirs * weight).sum(),
        (x, h, other.weight_ih, other.bias_ih, other.weight_hh, other.bias_hh),
    )
    for a, b in zip(ours_grad, given, strict=True):
        truth.assert_agree(a[0].T if a.dim() == 3 else a.reshape(b.shape), b)


def test_each_row_has_its_own_modules_cell():
    cell = make_cell(n_modules=3)
    x, h = rows()
    route = torch.tensor([2, 0, 1, 1, 2, 0, 2])
    ours = cell(x, h, [route])
    for m in range(3):
        truth.assert_agree(ours[route == m], torch_cell(cell, [m])(x, h)[route == m])
    assert not torch.allclose(ours[0], torch_cell(cell, [0])(x, h)[0])  # control


@pytest.mark.parametrize("duplicates", ["once", "each"])
def test_slots_add_the_maps(duplicates):
    cell = make_cell(n_modules=3, k=2, duplicates=duplicates)
    x, h = rows()
    for a, b in itertools.product(range(3), repeat=2):
        modules = [a] if a == b and duplicates == "once" else [a, b]
        ours = cell(x, h, [torch.full((7,), a), torch.full((7,), b)])
        truth.assert_agree(ours, torch_cell(cell, modules)(x, h))


def test_slots_beside_each_other_give_their_part_of_the_units():
    cell = make_cell(n_modules=3, k=2, combine="concatenate")
    x, h = rows()
    ours = cell(x, h, [torch.full((7,), 2), torch.full((7,), 1)])
    other = nn.GRUCell(E, H).double()
    with torch.no_grad():
        for bank, w, b in (
            (cell.of_input, other.weight_ih, other.bias_ih),
            (cell.of_state, other.weight_hh, other.bias_hh),
        ):
            weight, bias = maps(bank)  # (3, 3 H / 2, in): three maps of H / 2 units
            for into, source in ((w, weight), (b, bias)):
                parts = [source[m].unflatten(0, (3, H // 2)) for m in (2, 1)]
                into.copy_(torch.cat(parts, 1).flatten(0, 1))
    truth.assert_agree(ours, other(x, h))


def test_a_model_of_one_module_is_torchs_gru():
    net = make(n_modules=1)
    x, y = text(steps=9)
    gru = nn.GRU(E, H, batch_first=True).double()
    cell = torch_cell(net.cell, [0])
    with torch.no_grad():
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(gru, f"{name}_l0").copy_(getattr(cell, name))
    logits = net.head(gru(net.embedding(x))[0])
    log_p = -nn.functional.cross_entropy(logits.mT, y, reduction="none").sum(-1)
    ours = log_marginal(net, x, y)
    truth.assert_agree(ours, log_p)
    of = [net.embedding.weight, net.head.weight]  # what both have, back through time
    truth.assert_agree(truth.gradient(ours.sum(), of), truth.gradient(log_p.sum(), of))


@pytest.mark.parametrize(
    ("n_modules", "steps", "options"),
    [
        (2, 3, {}),
        (3, 3, {"router": MLPRouter}),
        (2, 2, {"k": 2}),
        (2, 2, {"k": 2, "duplicates": "each"}),
        (2, 2, {"k": 2, "combine": "concatenate"}),
    ],
    ids=str,
)
def test_marginal_posterior_and_gradient_by_brute_force(n_modules, steps, options):
    net, (x, y) = make(n_modules, **options), text(steps=steps)
    k = options.get("k", 1)
    sites = sites_of(steps, n_modules, k)
    assert route_sites(net, x, y) == list(sites)
    table = truth.tabulate(net, (x, y), sites)
    expected = truth.log_marginal(table)
    truth.assert_agree(log_marginal(net, x, y), expected)
    truth.assert_agree(route_posterior(net, x, y).log_probs, truth.log_posterior(table))
    loss = build("exact", net)(x, y)
    parameters = list(net.parameters())
    truth.assert_agree(
        truth.gradient(loss, parameters), truth.gradient(-expected.mean(), parameters)
    )


def test_a_buffer_of_all_routes_has_the_exact_gradient():
    net, (x, y) = make(), text()
    expected = truth.log_marginal(truth.tabulate(net, (x, y), sites_of(3, 2, 1)))
    method = TopKBuffer(capacity=8, w_fresh=0.0, w_buffer=1.0)
    loss = build(method, net, n_data=3)(x, y)
    parameters = list(net.parameters())
    truth.assert_agree(
        truth.gradient(loss, parameters), truth.gradient(-expected.mean(), parameters)
    )


def test_all_texts_have_probability_one_together():
    net, steps = make(), 3
    words = torch.tensor(list(itertools.product(range(V), repeat=steps)))
    start = torch.full((len(words), 1), 2)
    x = torch.cat([start, words[:, :-1]], 1)
    total = log_marginal(net, x, words).exp().sum()
    truth.assert_agree(total, torch.ones_like(total))
    ahead = torch.cat([words[:, 1:], start], 1)  # control: it sees the next word
    assert (log_marginal(net, ahead, words).exp().sum() - 1).abs() > 0.01


def test_no_step_looks_ahead():
    net, (x, y) = make(), text(steps=4)
    route = {f"route_{t}": torch.tensor([0, 1, t % 2]) for t in range(4)}
    changed = x.clone()
    changed[:, 2] = (x[:, 2] + 1) % V

    def run(x):
        trace = poutine.trace(pyro.condition(net, data=route)).get_trace(x, y)
        routers = [trace.nodes[name]["fn"].logits for name in route]
        words = trace.nodes["y"]["fn"].base_dist.logits
        return torch.stack(routers, 1), words

    for ours, other in zip(run(x), run(changed), strict=True):
        assert torch.equal(ours[:, :2], other[:, :2])
        assert not torch.allclose(ours[:, 2], other[:, 2])


@pytest.mark.parametrize(
    "method",
    [
        HardEM(n_samples=2),
        TopKBuffer(capacity=2, n_samples=2),
        ScoreFunction(n_samples=2),
        NoisyTopK(k=2),
    ],
    ids=lambda method: method.wiring,
)
def test_sampled_methods_train_what_cannot_be_listed(method):
    k = 1 if isinstance(method, NoisyTopK) else 3
    torch.manual_seed(0)
    net = ModularGRU(V, n_modules=5, hidden_features=8, k=k)
    x, y = text(n=6, steps=20)  # 5^60 routes
    result = build(method, net, n_data=6, seed=0)
    optimiser = torch.optim.Adam(result.parameters(), lr=0.03)
    losses = []
    for _ in range(20):
        optimiser.zero_grad()
        loss = result(x, y)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) < 0.95 * sum(losses[:3])
    if isinstance(method, HardEM | TopKBuffer):
        assert result.guide.buffer.routes.shape[-1] == 60


def test_fit_takes_windows_and_follows_them():
    torch.manual_seed(0)
    net = ModularGRU(V, n_modules=3, hidden_features=8)
    x, y = text(n=4, steps=16)
    result = fit(net, (x, y), "hard-em", steps=2, batch_size=4, log_every=2)
    measured = result.history[-1]
    assert len(measured["h_a_layers"]) == 16
    assert 0 < measured["h_a"] <= torch.tensor(3.0).log()


def test_samples_of_the_words_that_follow():
    net = make()
    x, _ = text(n=4, steps=6)
    assert net(x).shape == (4, 6)
    assert net(x).max() < V


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_modules": 0}, "n_modules must be a whole number >= 1, got 0"),
        ({"n_modules": 2, "k": 3}, "k must be at most n_modules = 2, got 3"),
        (
            {"n_modules": 4, "k": 4, "combine": "concatenate"},
            "hidden_features must be a multiple of k = 4 .* got 6",
        ),
        ({"n_modules": 2, "combine": "sum"}, "combine must be one of"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(3), None, r"x must have shape \(N, T\)"),
        (torch.zeros(3, 0).long(), None, r"x must have shape \(N, T\)"),
        (torch.zeros(3, 2).long(), torch.zeros(3).long(), "the shape of x"),
        (torch.full((3, 2), V), None, r"x must hold words .* 0 \.\. 4; got .* 5"),
        (torch.zeros(3, 2).long(), torch.full((3, 2), -1), "y must hold words"),
        (torch.zeros(3, 2), None, "x must hold words as whole numbers"),
    ],
)
def test_bad_words(x, y, message):
    with pytest.raises(ValueError, match=message):
        make()(x, y)
