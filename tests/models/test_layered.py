"""The layered network: what it is made of, and what it computes."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

from latentroute.models import LayeredNetwork, MLPRouter, affine_tanh
from tests import brute_force as truth
from tests.exact.programs import Draw

N, F, H, OUT, M = 5, 4, 3, 2, 3


def make_net(**options):
    shape = {"n_layers": 2, "n_modules": M, "hidden_features": H} | options
    net = LayeredNetwork(F, OUT, **shape).double()
    truth.randomise(net, 0)
    return net


def data(head="categorical"):
    x, y = Draw().data(N, F), Draw(seed=1).data(N, OUT)
    return x, {"categorical": y.argmax(-1), "normal": y, "bernoulli": (y > 0).double()}[
        head
    ]


def trace_of(net, *args, **given):
    trace = poutine.trace(pyro.condition(net, data=given)).get_trace(*args)
    trace.compute_log_prob()
    return trace


@pytest.mark.parametrize("routing", ["dynamic", "static"])
@pytest.mark.parametrize("k", [1, 2])
def test_names_and_plates_of_its_sites(k, routing):
    net = make_net(k=k, routing=routing)
    x, y = data()
    trace = poutine.trace(net).get_trace(x, y)
    names = [
        name
        for name, node in trace.nodes.items()
        if node["type"] == "sample" and name != "data"
    ]
    routes = [
        f"route_{layer}" if k == 1 else f"route_{layer}_{slot}"
        for layer in range(2)
        for slot in range(k)
    ]
    assert names == [*routes, "y"]
    for name in names:
        frames = trace.nodes[name]["cond_indep_stack"]
        inside = routing == "dynamic" or name == "y"
        assert [(f.name, f.dim, f.size) for f in frames] == [("data", -1, N)] * inside
    assert trace.nodes["y"]["is_observed"]
    assert not poutine.trace(net).get_trace(x).nodes["y"]["is_observed"]


@pytest.mark.parametrize("head", ["categorical", "normal", "bernoulli"])
@pytest.mark.parametrize("router_input", ["activation", "input"])
def test_the_equations_of_its_docstring(router_input, head):
    """By hand: encoder, routers, modules, head, from the weights alone.

    The gradient too: a router that sees z trains the modules before it.
    """
    net = make_net(router_input=router_input, head=head)
    x, y = data(head)
    generator = torch.Generator().manual_seed(0)
    routes = torch.randint(M, (2, N), generator=generator)
    trace = trace_of(net, x, y, route_0=routes[0], route_1=routes[1])
    weights = dict(net.named_parameters())

    def part(prefix, dim):
        (found,) = (
            p for k, p in weights.items() if k.startswith(prefix) and p.dim() == dim
        )
        return found

    total = 0.0
    z = x @ weights["encoder.weight"].T + weights["encoder.bias"]
    for layer in range(2):
        seen = x if router_input == "input" else z
        router = f"routers.{layer}."
        logits = seen @ part(router, 2).T + part(router, 1)
        log_p = logits.log_softmax(-1)[torch.arange(N), routes[layer]]
        truth.assert_agree(trace.nodes[f"route_{layer}"]["log_prob"], log_p)
        total = total + log_p.sum()
        weight, bias = part(f"banks.{layer}.", 3), part(f"banks.{layer}.", 2)
        z = torch.stack(
            [
                torch.tanh(row @ weight[m] + bias[m])
                for row, m in zip(z, routes[layer], strict=True)
            ]
        )
    eta = z @ weights["head.linear.weight"].T + weights["head.linear.bias"]
    if head == "categorical":
        log_y = eta.log_softmax(-1)[torch.arange(N), y]
    elif head == "normal":
        scale = weights["head.log_scale"].exp()
        log_y = dist.Normal(eta, scale).log_prob(y).sum(-1)
    else:
        log_y = dist.Bernoulli(logits=eta).log_prob(y).sum(-1)
    truth.assert_agree(trace.nodes["y"]["log_prob"], log_y)
    truth.assert_agree(
        truth.gradient(trace.log_prob_sum(), list(weights.values())),
        truth.gradient(total + log_y.sum(), list(weights.values())),
    )


@pytest.mark.parametrize(
    ("head", "shape"),
    [("categorical", (N,)), ("normal", (N, OUT)), ("bernoulli", (N, OUT))],
)
@pytest.mark.parametrize("routing", ["dynamic", "static"])
def test_it_samples_and_conditions(routing, head, shape):
    net = make_net(routing=routing, head=head)
    x, y = data(head)
    drawn = net(x)
    assert drawn.shape == shape
    assert torch.equal(net(x, y), y)
    assert torch.equal(net(x, drawn), drawn)


def test_examples_do_not_depend_on_each_other():
    net = make_net(k=2)
    x, y = data()
    given = {f"route_{i}_{k}": torch.arange(N) % M for i in range(2) for k in range(2)}
    whole = trace_of(net, x, y, **given)
    row = trace_of(net, x[3:4], y[3:4], **{k: v[3:4] for k, v in given.items()})
    for name in [*given, "y"]:
        truth.assert_agree(
            whole.nodes[name]["log_prob"][3:4], row.nodes[name]["log_prob"]
        )


def test_slots_are_added_or_concatenated():
    x, y = data()
    for combine, width in (("add", H), ("concatenate", 2 * H)):
        net = make_net(k=2, combine=combine, n_layers=3)
        assert net.head.linear.in_features == width
        assert [bank(torch.zeros(1, w).double(), [torch.tensor([0])] * 2).shape[-1]
                for bank, w in zip(net.banks, (H, width, width), strict=True)] == [
            width
        ] * 3  # fmt: skip
        assert [r.linear.in_features for r in net.routers] == [H] * 2 + [width] * 4
        assert torch.isfinite(trace_of(net, x, y).nodes["y"]["log_prob"]).all()


def test_layers_of_several_sizes():
    net = make_net(n_layers=3, n_modules=[2, 5, 1])
    assert [bank.n_modules for bank in net.banks] == [2, 5, 1]
    trace = poutine.trace(net).get_trace(data()[0])
    sizes = [trace.nodes[f"route_{i}"]["fn"].probs.shape[-1] for i in range(3)]
    assert sizes == [2, 5, 1]


def test_static_routing_has_a_learned_distribution_that_starts_uniform():
    net = LayeredNetwork(
        F, OUT, n_layers=2, n_modules=M, hidden_features=H, routing="static"
    )
    trace = poutine.trace(net).get_trace(torch.zeros(N, F))
    for layer in range(2):
        node = trace.nodes[f"route_{layer}"]
        assert node["value"].shape == ()
        torch.testing.assert_close(node["fn"].probs, torch.full((M,), 1 / M))
        assert node["fn"].logits.requires_grad


def test_a_subsample_index_reaches_the_plate():
    net, (x, y) = make_net(), data()
    index = torch.tensor([9, 0, 4, 7, 3])
    seen = []

    class Spy(poutine.messenger.Messenger):
        def _pyro_post_sample(self, msg):
            if msg["name"] == "data":
                seen.append(msg["value"])

    with Spy():
        trace = poutine.trace(net).get_trace(x, y, index, n_data=20)
    assert torch.equal(seen[0], index)
    assert trace.nodes["y"]["scale"] == pytest.approx(20 / N)
    (frame,) = trace.nodes["y"]["cond_indep_stack"]
    assert (frame.size, frame.full_size) == (N, 20)


def test_ones_own_parts():
    made = []

    def module(into, out):
        made.append((into, out))
        return nn.Sequential(nn.Linear(into, out), nn.ReLU())

    encoder = nn.Sequential(nn.Flatten(), nn.Linear(F, H), nn.ReLU())
    net = LayeredNetwork(
        F,
        OUT,
        n_layers=2,
        n_modules=[2, 3],
        hidden_features=H,
        k=2,
        combine="concatenate",
        module=module,
        router=MLPRouter,
        encoder=encoder,
    )
    assert made == [(H, H)] * 2 + [(2 * H, H)] * 3
    assert net.encoder is encoder
    assert all(isinstance(router, MLPRouter) for router in net.routers)
    assert net(torch.zeros(N, F)).shape == (N,)


def test_modules_as_they_are_some_of_them_plain_functions():
    shared = nn.Linear(H, H)
    modules = [[shared, lambda z: -z], [nn.Identity(), torch.sign, shared]]
    net = LayeredNetwork(
        F, OUT, n_layers=2, n_modules=[2, 3], hidden_features=H, module=modules
    )
    weights = [p for p in net.parameters() if p is shared.weight]
    assert len(weights) == 1, "shared between layers, listed once"
    net(torch.zeros(N, F))


def test_the_default_module_is_affine_and_tanh():
    module = affine_tanh(3, 4)
    z = torch.randn(5, 3)
    expected = torch.tanh(z @ module[0].weight.T + module[0].bias)
    torch.testing.assert_close(module(z), expected)


def test_every_module_and_layer_starts_with_weights_of_its_own():
    net = LayeredNetwork(F, OUT, n_layers=2, n_modules=M, hidden_features=H)
    weights = [p for k, p in net.named_parameters() if k.startswith("banks")]
    stacked = [w for w in weights if w.dim() == 3]
    assert len(stacked) == 2
    maps = torch.cat(stacked)
    for i in range(len(maps)):
        for j in range(i):
            assert not torch.equal(maps[i], maps[j])


def test_large_numbers_whose_sum_overflows_are_finite():
    net = make_net().float()
    x = torch.full((N, F), 3e38)
    assert torch.isinf(x.sum())
    net.check(x, torch.zeros(N, dtype=torch.long))
    x[2, 1] = torch.nan
    with pytest.raises(
        ValueError, match="x must be finite, got NaN or infinity at row 2"
    ):
        net.check(x)
