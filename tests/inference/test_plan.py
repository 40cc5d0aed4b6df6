"""Budgets by hand, and what an enumeration is said to take."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from latentroute.inference import build, log_marginal, plan_enumeration
from latentroute.inference.structure import read_structure
from latentroute.models import LayeredNetwork, route
from tests import brute_force as truth
from tests.exact import programs

x, y = torch.zeros(3, 2), torch.zeros(3, dtype=torch.long)
E, S = "enumerate", "sample"


def network(n_layers=3, n_modules=4, **options):
    shape = {"n_layers": n_layers, "n_modules": n_modules, "hidden_features": 2}
    return LayeredNetwork(2, 2, **shape, **options)


def treatments(plan):
    return "".join(how[0] for how in plan.values())


@pytest.mark.parametrize(
    ("budget", "expected", "evaluations"),
    [
        # Three sites of 4: e at site l multiplies what follows by 4.
        (3, "sss", 1 + 1 + 1),
        (5, "sss", 3),
        (6, "sse", 1 + 1 + 4),
        (8, "sse", 6),
        (9, "ses", 1 + 4 + 4),
        (11, "ses", 9),
        (12, "ess", 4 + 4 + 4),
        (23, "ess", 12),
        (24, "ese", 4 + 4 + 16),
        (36, "ees", 4 + 16 + 16),
        (83, "ees", 36),
        (84, "eee", 4 + 16 + 64),
        (10**9, "eee", 84),
    ],
)
def test_three_layers_of_four_modules(budget, expected, evaluations):
    plan = plan_enumeration(network(), x, y, budget=budget)
    assert list(plan) == ["route_0", "route_1", "route_2"]
    assert treatments(plan) == expected
    assert plan.evaluations == evaluations <= budget


def test_sites_of_several_sizes():
    plan = plan_enumeration(network(n_modules=[2, 3, 5]), x, y, budget=14)
    # e s s: 2 + 2 + 2; e e s: 2 + 6 + 6 = 14; e e e: 2 + 6 + 30.
    assert treatments(plan) == "ees" and plan.evaluations == 14


def test_a_single_choice_costs_nothing():
    plan = plan_enumeration(network(n_modules=[1, 4, 1]), x, y, budget=3)
    assert treatments(plan) == "ese" and plan.evaluations == 3


def test_slots_are_sites():
    plan = plan_enumeration(network(n_layers=1, k=2), x, y, budget=8)
    assert plan == {"route_0_0": E, "route_0_1": S} and plan.evaluations == 8


def test_static_sites_come_first_in_the_plan_too():
    model, args, _, _ = programs.static_then_dynamic(programs.Draw())
    plan = plan_enumeration(model, *args, budget=6)
    assert plan == {"s": E, "a": S} and plan.evaluations == 3 + 3


def pinned(first="auto", second="auto"):
    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            uniform = dist.Categorical(logits=torch.zeros(len(x), 3))
            a = route("a", uniform, plan=first)
            b = route("b", uniform, plan=second)
            return pyro.sample("y", dist.Normal(1.0 * a + b, 1.0), obs=y)

    return model


@pytest.mark.parametrize(
    ("pins", "budget", "expected", "evaluations"),
    [
        (("sample", "auto"), 100, "se", 1 + 3),
        (("sample", "sample"), 100, "ss", 2),
        (("auto", "enumerate"), 4, "se", 1 + 3),
        (("auto", "enumerate"), 11, "se", 4),
        (("auto", "enumerate"), 12, "ee", 3 + 9),
        (("enumerate", "auto"), 6, "es", 3 + 3),
        (("enumerate", "auto"), 12, "ee", 12),
        (("enumerate", "enumerate"), 12, "ee", 12),
    ],
)
def test_what_the_program_pins_is_kept(pins, budget, expected, evaluations):
    plan = plan_enumeration(pinned(*pins), x, y.float(), budget=budget)
    assert treatments(plan) == expected and plan.evaluations == evaluations


def test_pins_that_do_not_fit_the_budget_are_an_error():
    with pytest.raises(ValueError, match=r"budget must be at least 12 .*got 11"):
        plan_enumeration(pinned("enumerate", "enumerate"), x, y.float(), budget=11)


def test_a_pin_by_the_infer_key_alone():
    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            uniform = dist.Categorical(logits=torch.zeros(len(x), 3))
            a = pyro.sample("a", uniform, infer={"route": {"plan": "sample"}})
            return pyro.sample("y", dist.Normal(1.0 * a, 1.0), obs=y)

    assert plan_enumeration(model, x, y.float(), budget=100) == {"a": S}


def test_a_plan_is_a_mapping():
    plan = plan_enumeration(network(), x, y, budget=12)
    assert len(plan) == 3 and plan["route_0"] == E and "route_3" not in plan
    assert dict(plan) == {"route_0": E, "route_1": S, "route_2": S}
    assert "evaluations=12" in repr(plan)


class Made(TorchDispatchMode):
    """Bytes of all the tensors that are made."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            for t in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(t, torch.Tensor):
                    self.total += t.numel() * t.element_size()
        return out


@pytest.mark.parametrize(
    "options",
    [
        {"n_layers": 2, "n_modules": 3},
        {"n_layers": 4, "n_modules": 4},
        {"n_layers": 6, "n_modules": 3, "head": "normal"},
        {"n_layers": 2, "n_modules": 3, "k": 2},
        {"n_layers": 4, "n_modules": 3, "routing": "static"},
    ],
    ids=str,
)
def test_what_an_enumeration_is_said_to_take_bounds_what_it_takes(options):
    """Memory is refused by this number: it must not be less than what is made.

    What one forward pass makes in all bounds what it holds at once; a run that checks
    broadcasting is left aside by asking twice.
    """
    net = network(**options)
    data = torch.zeros(16, 2), torch.zeros(16, dtype=torch.long)
    if options.get("head") == "normal":
        data = data[0], torch.zeros(16, 2)
    said = read_structure(net, *data).enumeration_bytes(16)
    objective = build("exact", net)
    objective(*data)
    with Made() as made:
        objective(*data)
    assert made.total <= said
    assert said < 20 * made.total, "so loose that it refuses what would fit"


def test_what_a_route_takes_does_not_grow_with_the_number_of_modules():
    """Though the plain run that it is read from may evaluate them all."""
    wide = {"n_layers": 2, "hidden_features": 64}
    few, many = (LayeredNetwork(2, 2, n_modules=m, **wide) for m in (2, 64))
    last = [read_structure(net, x, y).stage_bytes[-1] for net in (few, many)]
    assert last[1] < 1.5 * last[0]


def test_what_is_said_grows_with_the_batch():
    structure = read_structure(network(), x, y)
    one, many = (structure.enumeration_bytes(n) for n in (30, 300))
    assert many == pytest.approx(10 * one, rel=0.01)


def test_a_batch_just_within_the_limit_is_taken():
    net = network()
    limit = read_structure(net, x, y).enumeration_bytes(3)
    assert torch.isfinite(log_marginal(net, x, y, memory_limit=limit)).all()


@pytest.mark.parametrize("share", [2, 4, 16])
@pytest.mark.parametrize("make", programs.BROADCASTING, ids=lambda m: m.__name__)
def test_less_memory_gives_the_same_sum_or_a_refusal(make, share):
    model, args, sites, parameters = make(programs.Draw())
    table = truth.tabulate(model, args, sites)
    limit = read_structure(model, *args).enumeration_bytes(3) // share
    objective = build("exact", model, parameters=parameters, memory_limit=limit)
    try:
        marginal = log_marginal(model, *args, memory_limit=limit)
        loss = objective(*args)
    except ValueError as refusal:
        assert "would take about" in str(refusal)
        return
    expected = truth.log_marginal(table)
    truth.assert_agree(marginal, expected)
    truth.assert_agree(
        truth.gradient(marginal.sum(), parameters),
        truth.gradient(expected.sum(), parameters),
    )
    truth.assert_agree(loss, -expected.sum() / 3)


@pytest.mark.parametrize("routing", ["dynamic", "static"])
def test_a_sum_in_parts_holds_no_more_than_one_part(routing):
    """Eight parts: routes of one choice at the first sites, the others enumerated."""
    net = network(n_layers=5, n_modules=3, routing=routing).double()
    truth.randomise(net, 0)
    data = programs.Draw().data(4, 2), torch.tensor([0, 1, 1, 0])
    parameters = list(net.parameters())
    widest = []
    net.head.register_forward_pre_hook(lambda _, args: widest.append(args[0].numel()))
    whole = build("exact", net)(*data)
    most, expected = max(widest), truth.gradient(whole, parameters)
    widest.clear()
    limit = read_structure(net, *data).enumeration_bytes(4) // 3
    parts = build("exact", net, memory_limit=limit)(*data)
    truth.assert_agree(parts, whole)
    truth.assert_agree(truth.gradient(parts, parameters), expected)
    assert max(widest) <= most / 3
