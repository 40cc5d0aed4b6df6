"""Regularisers: exact values where routers see x, and what each of them moves."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from latentroute.inference import METHODS, build, compare, fit
from latentroute.inference import regularisers as module
from latentroute.inference.regularisers import (
    LoadBalancing,
    MarginalEntropy,
    MutualInformation,
    Regulariser,
    StateEntropy,
    Tempering,
)
from latentroute.inference.schedules import Constant, Linear
from latentroute.models import GivenRouting, LayeredNetwork
from tests import brute_force as truth
from tests.inference.estimators.relaxed_nets import M, N, make_net, shifted
from tests.statistics import assert_mean

ALL = (StateEntropy, MarginalEntropy, MutualInformation, LoadBalancing)


def probabilities(net, x):
    """(L, N, M): routers that see x."""
    return torch.stack([router(x).probs for router in net.routers])


def entropy(p):
    return -(p * p.log()).sum(-1)


def bonus_by_hand(kind, p):
    state, use = entropy(p).mean(-1).sum(), p.mean(1)
    balance = (use.var(-1, unbiased=False) / use.mean(-1) ** 2).sum()
    return {
        StateEntropy: state,
        MarginalEntropy: entropy(use).sum(),
        MutualInformation: entropy(use).sum() - state,
        LoadBalancing: -balance,
    }[kind]


def test_the_list_here_is_whole():
    exported = {
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Regulariser)
    }
    assert exported == {*ALL, Tempering, Regulariser}


@pytest.mark.parametrize("kind", ALL)
def test_exact_where_routers_see_x(kind):
    net, args, _ = make_net(router_input="input")
    parameters = list(net.parameters())
    plain = build("exact", net)
    ours = build("exact", net, regularisers=[kind(Constant(0.7))])
    extra = ours(*args) - plain(*args)
    hand = -0.7 * bonus_by_hand(kind, probabilities(net, args[0]))
    truth.assert_agree(extra, hand, 1e-9)
    truth.assert_agree(
        truth.gradient(extra, parameters), truth.gradient(hand, parameters), 1e-9
    )


@pytest.mark.parametrize("kind", ALL)
def test_each_moves_what_it_says(kind):
    """A step along the bonus alone: what goes up, and that another goes down."""
    net, (x, _), _ = make_net(router_input="input")
    optimiser = torch.optim.SGD(net.routers.parameters(), lr=0.3)

    def measured():
        with torch.no_grad():
            p = probabilities(net, x)
            return {each: bonus_by_hand(each, p).item() for each in ALL}

    before = measured()
    for _ in range(20):
        optimiser.zero_grad()
        (-bonus_by_hand(kind, probabilities(net, x))).backward()
        optimiser.step()
    by_hand = measured()
    net, args, _ = make_net(router_input="input")
    optimiser = torch.optim.SGD(net.routers.parameters(), lr=0.3)
    plain = build("exact", net)
    ours = build("exact", net, regularisers=[kind(Constant(1.0))])
    for _ in range(20):
        optimiser.zero_grad()
        (ours(*args) - plain(*args)).backward()
        optimiser.step()
    after = measured()
    assert after[kind] > before[kind] + 0.01
    assert after == pytest.approx(by_hand, rel=1e-6)
    if kind is StateEntropy:
        assert after[MutualInformation] < before[MutualInformation]
    if kind is MutualInformation:
        assert after[StateEntropy] < before[StateEntropy]
    if kind in (MarginalEntropy, LoadBalancing):
        assert after[MarginalEntropy] > before[MarginalEntropy]


def test_state_entropy_is_that_of_whole_routes_in_the_mean():
    """Routers that see z: sum_l H(A_l | A_<l, X) = H(A | X), which h_a is not."""
    net, args, sites = make_net()
    log_p = truth.log_router(truth.tabulate(net, args, sites)).detach()
    joint = -(log_p.exp() * log_p).sum(0).mean()
    plain = build("exact", net)(*args)
    ours = build("exact", net, seed=0, regularisers=[StateEntropy(Constant(1.0))])
    drawn = torch.stack([(plain - ours(*args)).detach() for _ in range(600)])
    assert_mean(drawn, joint)
    probs = truth.site_marginals(truth.tabulate(net, args, sites), log_p.exp())
    h_a = entropy(probs).mean(0).sum()
    assert h_a - joint > 0.01


def test_static_sites_are_one_example():
    net, args, _ = make_net(routing="static")
    p = torch.stack([router().probs for router in net.routers]).unsqueeze(1)
    plain = build("exact", net)(*args)
    for kind in ALL:
        ours = build("exact", net, regularisers=[kind(Constant(1.0))])(*args)
        truth.assert_agree(plain - ours + 1, 1 + bonus_by_hand(kind, p), 1e-9)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("scale", [1e4, math.inf])
def test_certain_and_forbidding_routers(kind, scale):
    """0 log 0 is 0; nothing becomes NaN in float32."""
    logits = torch.tensor([scale, 0.0, -scale])
    logits = logits.nan_to_num(posinf=0.0).requires_grad_()

    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=logits.expand(len(x), 3)))
            pyro.factor("y", 0.0 * a.float())

    regularised = [kind(Constant(1.0))]
    objective = build("exact", model, parameters=[logits], regularisers=regularised)
    loss = objective(torch.zeros(5, 1))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()
    if kind is StateEntropy:
        expected = -math.log(2) if scale == math.inf else 0.0
        assert loss.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("method", ["exact", "score-function", "gumbel-softmax"])
def test_tempering_scales_every_log_likelihood(method):
    net, args, _ = make_net()

    tempered = build(method, net, seed=3, regularisers=[Tempering(Linear(0.2, 1, 2))])
    for scale in (0.2, 0.6, 1.0):
        by_hand = build(
            method, _Scaled(net, scale), parameters=list(net.parameters()), seed=3
        )
        by_hand.set_extra_state(
            {"step": tempered.step, "stream": tempered.get_extra_state()["stream"]}
        )
        one, two = tempered(*args), by_hand(*args)
        truth.assert_agree(one, two)
        parameters = list(net.parameters())
        truth.assert_agree(
            truth.gradient(one, parameters), truth.gradient(two, parameters)
        )
    # What is evaluated is the model itself.
    assert tempered.evaluated is net


class _Scaled:
    """A network whose target alone is scaled."""

    def __init__(self, net, scale):
        self.net, self.scale = net, scale

    def __call__(self, x, y=None):
        with _ScaleTarget(self.scale):
            return self.net(x, y)


class _ScaleTarget(pyro.poutine.messenger.Messenger):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def _pyro_sample(self, msg):
        if msg["name"] == "y":
            msg["scale"] = msg["scale"] * self.scale


def test_shift_invariance():
    net, args, _ = make_net()
    parameters = list(net.parameters())
    every = [kind() for kind in ALL] + [Tempering(Constant(0.5))]
    plain = build("score-function", net, seed=1, regularisers=every)
    moved = build(
        "score-function",
        shifted(net, -200.0),
        parameters=parameters,
        seed=1,
        regularisers=every,
    )
    one, two = plain(*args), moved(*args)
    truth.assert_agree(two, one + 100.0)
    truth.assert_agree(truth.gradient(two, parameters), truth.gradient(one, parameters))


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_takes_them(method):
    net, (x, y), _ = make_net(torch.float32)
    net = LayeredNetwork(
        2, 2, n_layers=1, n_modules=M, hidden_features=4, router_input="input"
    )
    every = [kind() for kind in ALL] + [Tempering(Linear(0.5, 1.0, 5))]
    result = fit(net, (x, y), method, steps=3, regularisers=every)
    assert all(math.isfinite(row["loss"]) for row in result.history)


def test_a_schedule_counts_the_steps():
    net, args, _ = make_net(router_input="input")
    plain = build("exact", net)(*args)
    ours = build("exact", net, regularisers=[StateEntropy(Linear(0.0, 1.0, 2))])
    extra = [(plain - ours(*args)).item() for _ in range(4)]
    assert extra[0] == pytest.approx(0, abs=1e-12)
    assert extra[1] == pytest.approx(extra[2] / 2) and extra[3] == extra[2] > 0.1


def test_they_are_recorded_and_resumed(tmp_path):
    net, args, _ = make_net(torch.float32)
    options = {"checkpoint": tmp_path, "seed": 1, "batch_size": 2}
    every = [StateEntropy(), Tempering()]
    fit(net, args, "exact", steps=2, regularisers=every, **options)
    fit(net, args, "exact", steps=4, regularisers=every, resume=True, **options)
    with pytest.raises(ValueError, match="regularisers"):
        fit(net, args, "exact", steps=5, resume=True, **options)


def test_compare_passes_them_on():
    tree = compare(
        "clusters", ["exact"], 1, steps=2, draws=2, regularisers=[LoadBalancing()]
    )
    assert "LoadBalancing" in tree.attrs["settings"]
    assert "LoadBalancing" in tree["exact/seed_0"].attrs["regularisers"]


def test_wrong_ones_are_refused():
    net, args, sites = make_net()
    for wrong in (["entropy"], [StateEntropy]):
        with pytest.raises(TypeError, match="regularisers must be values such as"):
            build("exact", net, regularisers=wrong)
    given = GivenRouting(net, torch.zeros(N, 2).long(), list(sites))
    with pytest.raises(ValueError, match="nothing to regularise"):
        build("exact", given, regularisers=[StateEntropy()])(*args)


def test_a_number_is_no_schedule_and_a_likelihood_is_not_turned_round():
    for kind in (*ALL, Tempering):
        with pytest.raises(TypeError, match=r"must be a schedule such as Constant"):
            kind(0.5)
    for schedule in (Constant(-1.0), Linear(1, -0.1, 10), Linear(-0.1, 1, 10)):
        with pytest.raises(ValueError, match="scale must be >= 0 at every step"):
            Tempering(schedule)
    assert Tempering(Linear(0.0, 1.0, 10)).likelihood_scale(5) == 0.5
