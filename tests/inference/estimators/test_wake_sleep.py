"""Each term of reweighted wake-sleep against its own expectation, by brute force."""

import pytest
import torch

from latentroute.inference import WakeSleep, build
from latentroute.inference.estimators.wake_sleep import importance_bound, wake_phi
from latentroute.inference.program import RoutedProgram
from latentroute.models import LayeredNetwork
from tests import brute_force as truth
from tests.exact import programs
from tests.exact.programs import Draw
from tests.inference.estimators.guided_nets import (
    made_guide,
    make_extreme,
    make_net,
    route_sets,
    shifted,
)
from tests.statistics import assert_unbiased, judge


class Pairs:
    """Every ordered pair of routes of one example, and what brute force says of it."""

    def __init__(self):
        self.net, self.args, sites = make_net(n=1)
        self.guide = made_guide(WakeSleep()(self.net, seed=0), self.args)
        self.table = truth.tabulate(self.net, self.args, sites)
        self.log_joint = (self.table.prior + self.table.likelihood).squeeze(-1)  # (P,)
        guided = truth.tabulate(self.guide, self.args, sites)
        self.log_q = truth.log_router(guided).squeeze(-1)
        self.sets = route_sets(self.table, 2)
        self.chance = self.log_q[self.sets].sum(-1).exp().detach()
        program = RoutedProgram(self.net)
        q_program = RoutedProgram(self.guide, program.structure(*self.args))
        # All pairs in one run: 2 samples of one example for each of 81 pairs.
        routes = self.table.routes[self.sets].reshape(-1, 1, 2)
        terms = program.given(*self.args, routes=routes)
        drawn = q_program.given(*self.args, routes=routes)
        joint = terms.likelihood + sum(terms.prior.values())
        self.ours = [
            values.reshape(-1, 2).T for values in (joint, sum(drawn.prior.values()))
        ]  # (2, pairs): every pair stands for an example

    def mean(self, values):
        return (self.chance * values).sum()


def test_wake_theta_is_the_gradient_of_the_bound_in_the_model_alone():
    pairs = Pairs()
    weight = (pairs.log_joint - pairs.log_q.detach()).exp()
    expected = pairs.mean(weight[pairs.sets].mean(-1).log())
    ours = pairs.mean(importance_bound(*pairs.ours))
    parameters = list(pairs.net.parameters())
    truth.assert_agree(ours, expected, tolerance=1e-12)
    truth.assert_agree(
        truth.gradient(ours, parameters),
        truth.gradient(expected, parameters),
        tolerance=1e-12,
    )
    assert not truth.gradient(ours, list(pairs.guide.parameters())).any()
    assert ours < truth.log_marginal(pairs.table)


def test_wake_phi_is_the_self_normalised_inclusive_kl():
    pairs = Pairs()
    weight = (pairs.log_joint - pairs.log_q).exp().detach()[pairs.sets]
    weight = weight / weight.sum(-1, keepdim=True)
    expected = -pairs.mean((weight * pairs.log_q[pairs.sets]).sum(-1))
    ours = pairs.mean(wake_phi(*pairs.ours))
    parameters = list(pairs.guide.parameters())
    truth.assert_agree(
        truth.gradient(ours, parameters),
        truth.gradient(expected, parameters),
        tolerance=1e-12,
    )
    assert not truth.gradient(ours, list(pairs.net.parameters())).any()


def test_wake_phi_over_all_routes_is_the_kl_itself():
    """The limit S = |A|, each route once from a uniform proposal."""
    pairs = Pairs()
    log_joint, log_q = pairs.log_joint.unsqueeze(-1), pairs.log_q.unsqueeze(-1)
    weight = log_joint.detach().softmax(0)
    flat = torch.zeros_like(log_q) + (log_q - log_q.detach())  # uniform, with a slope
    parameters = list(pairs.guide.parameters())
    truth.assert_agree(
        truth.gradient(wake_phi(log_joint, flat).sum(), parameters),
        truth.gradient(-(weight * log_q).sum(), parameters),
    )


def test_weights_joined_over_the_batch_fail_that_check():
    """The negative control, as in Pyro: one weight for all the examples."""
    generator = torch.Generator().manual_seed(0)
    log_joint, log_q = torch.randn(2, 2, 3, generator=generator, dtype=torch.float64)
    alone = torch.stack(
        [wake_phi(log_joint[:, [n]], log_q[:, [n]]).squeeze(-1) for n in range(3)]
    )
    truth.assert_agree(wake_phi(log_joint, log_q), alone)
    joined = (log_joint - log_q).sum(-1, keepdim=True).softmax(0)
    wrong = -(joined * log_q).sum(0)
    with pytest.raises(AssertionError, match="off by"):
        truth.assert_agree(wrong, alone, tolerance=1e-2)


def sleep_loss(net, guide, args, sites, classes=2):
    """The mean over examples of -E_{p(a, y | x)} log q(a | x, y)."""
    total = 0.0
    for y in range(classes):
        batch = (args[0], torch.full((len(args[0]),), y))
        table = truth.tabulate(net, batch, sites)
        log_q = truth.log_router(truth.tabulate(guide, batch, sites))
        weight = (table.prior + table.likelihood).exp().detach()
        total = total - (weight * log_q).sum(0).mean()
    return total


def test_sleep_phi_is_unbiased_for_the_models_own_examples():
    net, args, sites = make_net()
    method = WakeSleep(w_wake=0.0, w_sleep=1.0, n_samples=32, hidden_features=2)
    guide = made_guide(method(net, seed=0), args)
    parameters = list(guide.parameters())
    expected = truth.gradient(sleep_loss(net, guide, args, sites), parameters)
    drawn = []

    def draw(seed):
        objective = method(net, guide, seed=seed)
        batch = tuple(arg.repeat(8, *(1,) * (arg.dim() - 1)) for arg in args)
        drawn.append(
            torch.stack(
                [truth.gradient(objective(*batch), parameters) for _ in range(250)]
            )
        )
        return drawn[-1]

    assert_unbiased(draw, expected)
    table, guided = (truth.tabulate(p, args, sites) for p in (net, guide))
    seen = truth.joint_posterior(table).detach() * truth.log_router(guided)
    wake = truth.gradient(-seen.sum(0).mean(), parameters)
    assert not judge(drawn[0], wake).unbiased  # another objective's gradient


@pytest.mark.parametrize("weights", [(0.0, 0.0), (0.5, 0.0), (0.0, 2.0), (0.5, 2.0)])
def test_the_weights_touch_the_guide_alone(weights):
    if not any(weights):
        with pytest.raises(ValueError, match="the guide is not trained"):
            WakeSleep(w_wake=0.0, w_sleep=0.0)
        return
    net, args, _ = make_net()
    w_wake, w_sleep = weights
    plain = WakeSleep(w_wake=1.0, w_sleep=0.0)
    guide = made_guide(plain(net, seed=0), args)
    theta, phi = list(net.parameters()), list(guide.parameters())

    def gradients(method):
        loss = method(net, guide, seed=3)(*args)
        return loss, truth.gradient(loss, theta), truth.gradient(loss, phi)

    one = gradients(plain)
    two = gradients(WakeSleep(w_wake=w_wake, w_sleep=w_sleep))
    truth.assert_agree(two[0], one[0])
    truth.assert_agree(two[1], one[1])
    if not w_sleep:
        truth.assert_agree(two[2], w_wake * one[2])


@pytest.mark.parametrize("constant", [7.0, -300.0])
def test_a_constant_added_to_the_log_likelihood_moves_no_gradient(constant):
    net, args, _ = make_net()
    method = WakeSleep(w_sleep=0.0)
    guide = made_guide(method(net, seed=0), args)
    plain = method(net, guide, seed=3)
    parameters = list(net.parameters())
    moved = method(shifted(net, constant), guide, parameters=parameters, seed=3)
    every = [*parameters, *guide.parameters()]
    one, two = plain(*args), moved(*args)
    truth.assert_agree(two, one - constant)
    truth.assert_agree(truth.gradient(two, every), truth.gradient(one, every))


@pytest.mark.parametrize(
    "make",
    [programs.two_sites, programs.other_plate_and_supports, programs.marked],
    ids=lambda make: make.__name__,
)
def test_users_programs_draw_targets_too(make):
    model, args, _, parameters = make(Draw())
    objective = WakeSleep()(model, parameters=parameters, seed=0)
    objective(*args).backward()
    assert all(p.grad.abs().sum() > 0 for p in parameters)
    assert objective.guide.networks[0].out_bias.grad.abs().sum() > 0


@pytest.mark.parametrize("head", ["normal", "bernoulli"])
@pytest.mark.parametrize("flat", [True, False])
def test_targets_of_other_heads(head, flat):
    net, (x, y), _ = make_net(head=head)
    y = y.double() if flat else torch.stack([y, 1 - y], -1).double()
    if flat:
        net = LayeredNetwork(
            2, 1, n_layers=1, n_modules=2, hidden_features=2, head=head
        ).double()
    objective = build("wake-sleep", net, seed=0, example=(x, y))
    loss = objective(x, y)
    assert torch.isfinite(loss) and objective.guide.y_features == (1 if flat else 2)


def test_extreme_numbers_stay_finite_and_move_the_guide():
    model, args, parameters = make_extreme()
    objective = WakeSleep(w_sleep=0.0)(model, parameters=parameters, seed=0)
    objective.prepare(*args)
    loss = objective(*args)
    loss.backward()
    assert torch.isfinite(loss)
    for parameter in objective.parameters():
        assert torch.isfinite(parameter.grad).all()
    assert objective.guide.networks[0].out_bias.grad.abs().max() > 0


def test_what_does_not_fit_is_refused():
    net, args, _ = make_net(routing="static")
    with pytest.raises(ValueError, match="couples the examples: use amortised"):
        build("wake-sleep", net, example=args)
    model, args, _, parameters = programs.by_factor(Draw())
    with pytest.raises(ValueError, match=r"scores by a factor.*set w_sleep=0") as error:
        build("wake-sleep", model, parameters=parameters, example=args)
    assert "\n" not in str(error.value)
    build("wake-sleep", model, parameters=parameters, w_sleep=0.0, example=args)
    with pytest.raises(ValueError, match="n_samples must be a whole number >= 2"):
        WakeSleep(n_samples=1)
