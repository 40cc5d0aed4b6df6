"""The importance-weighted bound: exact over all samples, whatever the guide."""

import itertools
import math

import pytest
import torch

from latentroute.inference import Importance, build
from latentroute.inference.estimators.importance import (
    importance_bound,
    leave_one_out_bound,
)
from latentroute.inference.tables import logsumexp
from tests import brute_force as truth
from tests.exact import programs
from tests.exact.programs import Draw
from tests.inference.estimators.elbo_checks import (
    assert_extremes,
    assert_shift_moves_nothing,
    drawer,
    elbo_gradient,
)
from tests.inference.estimators.guided_nets import make_net, route_sets
from tests.statistics import assert_unbiased

both = pytest.mark.parametrize("control", ["geometric", "arithmetic"])


def exact_bound(table, n_samples):
    """(N,) E log mean_s p(y | x, a_s), every tuple of routes summed."""
    rows = route_sets(table, n_samples)  # (sets, S)
    weight = truth.log_router(table)[rows].sum(1).exp()
    bound = table.likelihood[rows].logsumexp(1) - math.log(n_samples)
    return (weight * bound).sum(0)


def expectation(estimate, n_samples, *, own_guide):
    """(estimate's exact mean gradient, exact gradient) in p, q and likelihood."""
    generator = torch.Generator().manual_seed(3)
    draws = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    logits, guide, likelihood = (row.clone().requires_grad_() for row in draws)
    log_p = logits.log_softmax(0)
    log_q = guide.log_softmax(0) if own_guide else log_p
    log_w = likelihood + (log_p - log_q if own_guide else 0)
    ours = exact = torch.zeros(1, dtype=torch.float64)
    for s in itertools.product(range(4), repeat=n_samples):
        s = list(s)
        chance = log_q[s].sum().exp()
        value = log_w[s].logsumexp(0) - math.log(n_samples)
        exact = exact + chance * value
        estimated = estimate(log_w[s].unsqueeze(-1), log_q[s].unsqueeze(-1))
        ours = ours + chance.detach() * estimated
        truth.assert_agree(estimated.sum(), value, 1e-12)
    leaves = [logits, guide, likelihood]
    return truth.gradient(ours.sum(), leaves), truth.gradient(exact.sum(), leaves)


@pytest.mark.parametrize("own_guide", [False, True])
@pytest.mark.parametrize("n_samples", [2, 3, 4])
@both
def test_the_exact_mean_over_all_samples(control, n_samples, own_guide):
    def estimate(log_w, log_q):
        return importance_bound(log_w, log_q, control=control)

    ours, exact = expectation(estimate, n_samples, own_guide=own_guide)
    truth.assert_agree(ours, exact, 1e-12)


def test_a_control_that_sees_its_own_sample_is_refused():
    def wrong(log_w, log_q):
        bound = logsumexp(log_w, 0).squeeze(0) - math.log(len(log_w))
        learnt = bound.detach() - log_w.detach()
        return bound + (learnt * (log_q - log_q.detach())).sum(0)

    ours, exact = expectation(wrong, 3, own_guide=False)
    assert (ours - exact).norm() > 0.01 * exact.norm()


@both
def test_the_gradient_of_the_bound(control):
    net, args, _ = make_net(n_modules=2)
    sites = truth.network_sites(2, 2)
    parameters = list(net.parameters())
    expected = -exact_bound(truth.tabulate(net, args, sites), 3).mean()
    draw = drawer(
        Importance(n_samples=3, control=control), net, args, parameters, copies=32
    )
    assert_unbiased(draw, truth.gradient(expected, parameters))


def test_static_routes_have_joint_weights():
    net, args, _ = make_net(n_modules=2, routing="static")
    sites = truth.network_sites(2, 2, routing="static")
    parameters = list(net.parameters())
    table = truth.tabulate(net, args, sites)
    joint = table._replace(
        likelihood=table.likelihood.sum(-1, keepdim=True),
        prior=torch.zeros(4, 1, dtype=torch.float64),
    )
    expected = -exact_bound(joint, 4).sum() / len(args[0])
    draw = drawer(Importance(n_samples=4), net, args, parameters, calls=3000, copies=1)
    assert_unbiased(draw, truth.gradient(expected, parameters))


def test_the_control_without_cancellation():
    log_w = torch.tensor([[-1e6], [-3.0], [-4.0]])
    geometric = leave_one_out_bound(log_w)
    first = torch.tensor([-3.5, -3.0, -4.0]).logsumexp(0) - math.log(3)
    truth.assert_agree(geometric[0], first.reshape(1))
    arithmetic = leave_one_out_bound(log_w, control="arithmetic")
    second = torch.tensor([-3.0, -4.0]).logsumexp(0) - math.log(2)
    truth.assert_agree(arithmetic[0], second.reshape(1))


def test_samples_that_are_impossible():
    log_w = torch.tensor([[-math.inf], [-math.inf], [0.5]])
    log_q = torch.zeros(3, 1, requires_grad=True)
    for control in ("geometric", "arithmetic"):
        bound = importance_bound(log_w, log_q, control=control)
        truth.assert_agree(bound, torch.tensor([0.5 - math.log(3)]))
        assert torch.isfinite(torch.autograd.grad(bound.sum(), log_q)[0]).all()


def test_many_samples_come_near_the_marginal():
    net, args, sites = make_net()
    table = truth.tabulate(net, args, sites)
    with torch.no_grad():
        few, many = (build("importance", net, n_samples=s, seed=0) for s in (2, 512))
        marginal = -truth.log_marginal(table).mean()
        losses = [
            torch.stack([f(*args) for _ in range(50)]).mean() for f in (few, many)
        ]
    assert marginal < losses[1] + 0.01 < losses[0]
    assert losses[1] - marginal < 0.02


def test_a_constant_added_to_the_log_likelihood_moves_no_gradient():
    assert_shift_moves_nothing(Importance(n_samples=3), *make_net()[:2])


def test_extremes():
    assert_extremes(Importance(n_samples=4))


def test_one_choice_leaves_nothing_to_chance():
    model, args, sites, parameters = programs.one_choice_alone(Draw())
    loss = build("importance", model, parameters=parameters)(*args)
    expected = elbo_gradient(model, args, sites, parameters)
    truth.assert_agree(truth.gradient(loss, parameters), expected)


def test_what_is_refused():
    with pytest.raises(ValueError, match="n_samples must be"):
        Importance(n_samples=1)
    with pytest.raises(ValueError, match="control must be one of"):
        Importance(control="harmonic")
    program = programs.static_then_dynamic(Draw())
    with pytest.raises(ValueError, match="all dynamic or all static"):
        build(
            "importance",
            program.model,
            parameters=program.parameters,
            example=program.args,
        )
