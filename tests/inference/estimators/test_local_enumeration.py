"""Local expectation gradients: exact over all that the other sites may be."""

import itertools

import pytest
import torch

from latentroute.guides import RouterGuide
from latentroute.inference import LocalEnumeration, build
from latentroute.inference.estimators.local_enumeration import local_expectation
from latentroute.inference.estimators.mixed import Weighted
from tests import brute_force as truth
from tests.exact import programs
from tests.exact.programs import Draw
from tests.inference.estimators.elbo_checks import (
    assert_elbo,
    assert_extremes,
    assert_golden,
    assert_shift_moves_nothing,
    elbo_gradient,
)
from tests.inference.estimators.guided_nets import make_net

M = 3


def expectation(estimate):
    """(estimate's exact mean gradient, exact gradient) of two sites, S = 1."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(2 * M + 1, M, generator=generator, dtype=torch.float64)
    first, second, reward = drawn[0], drawn[1 : M + 1], drawn[M + 1 :]
    leaves = [t.clone().requires_grad_() for t in (first, second, reward)]
    first, second, reward = leaves
    p, q = first.softmax(0), second.softmax(-1)
    total = torch.zeros((), dtype=torch.float64)
    for a, *b in itertools.product(range(M), repeat=M + 1):  # of pass 1; of pass 0
        suffix = torch.arange(M)
        chance = p[a] * q[suffix, b].prod()
        passes = [
            Weighted(p.reshape(M, 1, 1), reward[suffix, b].reshape(M, 1, 1)),
            Weighted(q[a].reshape(M, 1, 1), reward[a].reshape(M, 1, 1)),
        ]
        total = total + chance.detach() * estimate(passes)
    exact = (p.unsqueeze(-1) * q * reward).sum()
    return truth.gradient(total, leaves), truth.gradient(exact, leaves)


def test_the_exact_mean_over_all_prefixes_and_suffixes():
    truth.assert_agree(*expectation(local_expectation), 1e-12)


def test_averaging_the_scores_too_is_refused():
    def wrong(passes):
        return sum((w * r).sum() for w, r in passes) / len(passes)

    ours, exact = expectation(wrong)
    assert (ours - exact).norm() > 0.1 * exact.norm()


@pytest.mark.parametrize("options", [{}, {"router_input": "input"}], ids=str)
def test_networks(options):
    net, args, sites = make_net(**options)
    method = LocalEnumeration(n_samples=4)
    assert_elbo(method, net, args, sites, list(net.parameters()))


@pytest.mark.parametrize(
    "make", [programs.two_sites, programs.static_around_dynamic], ids=["a", "static"]
)
def test_users_programs(make):
    model, args, sites, parameters = make(Draw())
    plan = {"calls": 400, "copies": 1}
    method = LocalEnumeration(n_samples=32)
    assert_elbo(method, model, args, sites, parameters, **plan)


@pytest.mark.parametrize("make", [programs.marked, programs.one_choice_alone])
def test_one_site_leaves_nothing_to_chance(make):
    model, args, sites, parameters = make(Draw())
    loss = build("local-enumeration", model, parameters=parameters)(*args)
    expected = elbo_gradient(model, args, sites, parameters)
    truth.assert_agree(truth.gradient(loss, parameters), expected)


def test_a_constant_added_to_the_log_likelihood_moves_no_gradient():
    assert_shift_moves_nothing(LocalEnumeration(), *make_net()[:2])


def test_golden_values():
    assert_golden(LocalEnumeration())


def test_extremes():
    assert_extremes(LocalEnumeration())


def test_what_is_refused():
    net, _, _ = make_net()
    with pytest.raises(ValueError, match="takes no guide"):
        LocalEnumeration()(net, RouterGuide(net))
    with pytest.raises(ValueError, match="n_samples must be"):
        LocalEnumeration(n_samples=0)
