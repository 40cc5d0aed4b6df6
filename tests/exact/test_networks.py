"""Layered networks of every shape up to 1,024 routes, against brute force.

Shapes with few routes take every option; larger ones take turns.
"""

import copy
import itertools
import math
from typing import NamedTuple

import pytest
import torch

from latentroute.inference import build, log_marginal, route_posterior
from latentroute.models import LayeredNetwork
from tests import brute_force as truth

N, WIDTH, HIDDEN, OUT = 3, 2, 2, 2
MOST_ROUTES = 1024
FEW_ROUTES = 32
HEADS = ("categorical", "normal", "bernoulli")


class Case(NamedTuple):
    n_layers: int
    n_modules: int | tuple[int, ...]
    k: int
    routing: str
    head: str
    router_input: str = "activation"
    combine: str = "add"
    duplicates: str = "once"


def small_and_large():
    every = list(
        itertools.product(
            HEADS, ("activation", "input"), ("add", "concatenate"), ("once", "each")
        )
    )
    turn = itertools.cycle(every)
    for n_layers, m, k, routing in itertools.product(
        range(1, 5), range(1, 6), (1, 2), ("dynamic", "static")
    ):
        n_routes = m ** (n_layers * k)
        if k > m or n_routes > MOST_ROUTES:
            continue
        shape = (n_layers, m, k, routing)
        if n_routes > FEW_ROUTES and routing == "static":  # costly: one by one
            yield Case(*shape, *next(turn))
            continue
        for head, router_input, *_ in every[::4]:
            if routing == "dynamic" or router_input == "activation":
                yield Case(*shape, head, router_input, *next(turn)[2:])
    for routing in ("dynamic", "static"):  # 16 routes under all options at once
        yield from (Case(2, 2, 2, routing, *options) for options in every)
        yield Case(3, (2, 1, 3), 1, routing, "normal")


CASES = list(dict.fromkeys(small_and_large()))


def make(case, dtype=torch.float64):
    options = case._asdict()
    n_modules = options["n_modules"]
    options["n_modules"] = n_modules if isinstance(n_modules, int) else list(n_modules)
    net = LayeredNetwork(WIDTH, OUT, hidden_features=HIDDEN, **options).double()
    truth.randomise(net, seed=case.n_layers)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N, WIDTH, generator=generator, dtype=torch.float64)
    y = torch.randint(2, (N, OUT), generator=generator)
    y = y[:, 0] if case.head == "categorical" else y.double()
    return net.to(dtype), x.to(dtype), y


def sites_of(case):
    return truth.network_sites(case.n_layers, case.n_modules, case.k, case.routing)


def tabulate(case, net, x, y):
    sites = sites_of(case)
    many = math.prod(len(site.support) for site in sites.values()) > FEW_ROUTES
    rows = many and case.routing == "dynamic"
    return (truth.tabulate_rows if rows else truth.tabulate)(net, (x, y), sites)


def label(case):
    return "-".join(map(str, case)).replace(" ", "")


def test_the_grid_is_whole():
    shapes = {(c.n_layers, c.n_modules, c.k, c.routing) for c in CASES}
    for n_layers, m, k in itertools.product(range(1, 5), range(1, 6), (1, 2)):
        if k <= m and m ** (n_layers * k) <= MOST_ROUTES:
            assert (n_layers, m, k, "dynamic") in shapes
            assert (n_layers, m, k, "static") in shapes
    large = [c for c in CASES if (c.n_layers, c.n_modules) == (4, 5)]
    assert large
    for options in (HEADS, ("activation", "input")):
        for option in options:
            assert sum(option in case for case in CASES) > 10


@pytest.mark.parametrize("case", CASES, ids=label)
def test_float64(case):
    net, x, y = make(case)
    parameters = list(net.parameters())
    table = tabulate(case, net, x, y)
    expected = truth.log_marginal(table)
    truth.assert_agree(log_marginal(net, x, y), expected)
    posterior = route_posterior(net, x, y)
    assert torch.equal(posterior.routes, table.routes)
    truth.assert_agree(posterior.log_probs, truth.log_posterior(table))
    loss = build("exact", net)(x, y)
    expected_loss = -expected.sum() / N
    truth.assert_agree(loss, expected_loss)
    truth.assert_agree(
        truth.gradient(loss, parameters), truth.gradient(expected_loss, parameters)
    )


@pytest.mark.parametrize("case", CASES[::6], ids=label)
def test_float32(case):
    net, x, y = make(case, torch.float32)
    double = copy.deepcopy(net).double()
    table = tabulate(case, double, x.double(), y)
    truth.assert_agree(log_marginal(net, x, y), truth.log_marginal(table))
    loss = build("exact", net)(x, y)
    assert loss.dtype == torch.float32
    expected = -truth.log_marginal(table).sum() / N
    truth.assert_agree(loss, expected)
    truth.assert_agree(
        truth.gradient(loss, list(net.parameters())),
        truth.gradient(expected, list(double.parameters())),
    )


def test_both_ways_of_brute_force_agree():
    case = Case(2, 3, 1, "dynamic", "categorical")
    net, x, y = make(case)
    loop = truth.tabulate(net, (x, y), sites_of(case))
    rows = truth.tabulate_rows(net, (x, y), sites_of(case))
    for one, other in zip(loop, rows, strict=True):
        if isinstance(one, torch.Tensor):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("routing", ["dynamic", "static"])
@pytest.mark.parametrize("head", HEADS)
def test_a_batch_of_one(head, routing):
    case = Case(2, 3, 2, routing, head)
    net, x, y = make(case)
    x, y = x[:1], y[:1]
    table = truth.tabulate(net, (x, y), sites_of(case))
    truth.assert_agree(log_marginal(net, x, y), truth.log_marginal(table))
    posterior = route_posterior(net, x, y).log_probs
    truth.assert_agree(posterior, truth.log_posterior(table))
    truth.assert_agree(build("exact", net)(x, y), -truth.log_marginal(table).sum())


@pytest.mark.parametrize(
    "method", ["exact", "score-function", "hard-em", "topk-buffer"]
)
def test_a_last_batch_that_is_smaller(method):
    """The objective read a larger batch first; what it remembers must not matter."""
    case = Case(2, 3, 1, "dynamic", "categorical")
    net, x, y = make(case)
    warm = build(method, net, n_data=N, seed=0)
    warm(x, y, torch.arange(N))
    for rows in (torch.tensor([1]), torch.tensor([2, 0])):
        loss = warm(x[rows], y[rows], rows)
        assert loss.shape == () and torch.isfinite(loss)
        if method == "exact":
            table = truth.tabulate(net, (x[rows], y[rows]), sites_of(case))
            truth.assert_agree(loss, -truth.log_marginal(table).mean())


def test_one_module_is_a_plain_network():
    """M = 1: the likelihood of encoder, modules and head alone, by hand."""
    case = Case(3, 1, 1, "dynamic", "categorical")
    net, x, y = make(case)
    z = net.encoder(x)
    state = net.state_dict()
    for layer in range(3):
        weight = next(
            v
            for k, v in state.items()
            if k.startswith(f"banks.{layer}.") and v.dim() == 3
        )
        bias = next(
            v
            for k, v in state.items()
            if k.startswith(f"banks.{layer}.") and v.dim() == 2
        )
        z = torch.tanh(z @ weight[0] + bias[0])
    logits = net.head.linear(z)
    expected = logits.log_softmax(-1)[torch.arange(N), y]
    truth.assert_agree(log_marginal(net, x, y), expected)


@pytest.mark.parametrize("routing", ["dynamic", "static"])
def test_relabelling_the_modules_of_a_layer_changes_nothing(routing):
    """The same network with its modules and their logits in another order."""
    case = Case(2, 3, 1, routing, "normal")
    net, x, y = make(case)
    other = copy.deepcopy(net)
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        for part in (other.banks[0], other.routers[0]):
            for parameter in part.parameters():
                parameter.copy_(parameter[order])
    truth.assert_agree(log_marginal(other, x, y), log_marginal(net, x, y))
    if routing == "dynamic":
        first = route_posterior(net, x, y).log_probs.reshape(N, 3, 3)
        second = route_posterior(other, x, y).log_probs.reshape(N, 3, 3)
        truth.assert_agree(second, first[:, order])
