"""Coordinate ascent on a factorised posterior, against plain loops and brute force."""

import itertools
import math

import pyro
import pytest
import torch

from latentroute.guides import Decision, MeanFieldGuide
from latentroute.inference import Amortised, MeanField, build
from latentroute.inference.estimators.mean_field import (
    coordinate_ascent,
    factorised_elbo,
)
from tests import brute_force as truth
from tests.exact import programs
from tests.exact.programs import Draw
from tests.inference.estimators.guided_nets import make_extreme, make_net, shifted

SIZES = (3, 2, 4)


def make_joint(n=5, sizes=SIZES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    joint = 2 * torch.randn(n, *sizes, generator=generator, dtype=torch.float64)
    start = [
        torch.randn(n, m, generator=generator, dtype=torch.float64).log_softmax(-1)
        for m in sizes
    ]
    return joint, start


def by_loops(joint, log_q, site):
    """The update of one site of one example, as it is written in the textbook."""
    scores = []
    for choice in range(len(log_q[site])):
        score = 0.0
        for route in itertools.product(*(range(len(q)) for q in log_q)):
            if route[site] != choice:
                continue
            others = [log_q[k][m] for k, m in enumerate(route) if k != site]
            score = score + math.exp(sum(others)) * joint[route]
        scores.append(score)
    return torch.stack(scores).log_softmax(-1)


def test_a_sweep_is_the_textbooks():
    joint, start = make_joint(n=2)
    ours = coordinate_ascent(joint, start, 1)
    for n in range(2):
        log_q = [q[n] for q in start]
        for site in range(len(SIZES)):
            log_q[site] = by_loops(joint[n], log_q, site)
            truth.assert_agree(ours[site][n], log_q[site])


def test_no_update_lowers_the_elbo_and_none_exceeds_the_marginal():
    joint, log_q = make_joint(n=50)
    marginal = joint.flatten(1).logsumexp(-1)
    values = [factorised_elbo(joint, log_q)]
    for _ in range(6):
        log_q = coordinate_ascent(joint, log_q, 1)
        values.append(factorised_elbo(joint, log_q))
        assert (values[-1] >= values[-2] - 1e-12).all()
    assert (values[-1] <= marginal + 1e-12).all()
    assert (values[-1] > values[0] + 0.1).all()


def test_updating_all_sites_at_once_would_lower_it():
    """The negative control: two sites that must agree, updated from one another."""
    joint = torch.tensor([[[0.0, -9.0], [-9.0, 0.0]]], dtype=torch.float64)
    start = [torch.tensor([[0.9, 0.1]]).double().log() for _ in range(2)]
    start[1] = start[1].flip(-1)
    alone = [coordinate_ascent(joint, start, 1)[0]]
    swapped = coordinate_ascent(joint.transpose(1, 2), start[::-1], 1)
    alone.append(swapped[0])
    before = factorised_elbo(joint, start)
    assert factorised_elbo(joint, alone) < before - 1
    assert factorised_elbo(joint, coordinate_ascent(joint, start, 1)) > before


def test_the_gradient_is_that_of_the_expected_joint():
    net, args, sites = make_net()
    objective = build("mean-field", net, n_data=len(args[0]), seed=0)
    loss = objective(*args)
    table = truth.tabulate(net, args, sites)
    log_q = objective.guide.rows(torch.arange(len(args[0])))
    weight = torch.stack(
        [
            torch.stack([q[:, m] for q, m in zip(log_q, route, strict=True)]).sum(0)
            for route in table.routes.tolist()
        ]
    )  # (P, N)
    joint = table.prior + table.likelihood
    expected = -(weight.exp() * (joint - weight)).sum(0).mean()
    parameters = list(net.parameters())
    truth.assert_agree(loss, expected)
    truth.assert_agree(
        truth.gradient(loss, parameters), truth.gradient(expected, parameters)
    )
    assert loss > -truth.log_marginal(table).mean()


@pytest.mark.parametrize(
    "make",
    [programs.marked, programs.repeated_target, programs.by_factor, programs.masked],
    ids=lambda make: make.__name__,
)
def test_with_one_site_it_is_exact_em(make):
    model, args, sites, parameters = make(Draw())
    if len(sites) > 1:
        sites = dict(list(sites.items())[:1])
        model = _first_site_alone(model, args)
    objective = MeanField(n_sweeps=1)(
        model, parameters=parameters, n_data=len(args[0]), seed=0
    )
    marginal = -truth.log_marginal(truth.tabulate(model, args, sites)).mean()
    for _ in range(2):
        loss = objective(*args)
        truth.assert_agree(loss, marginal)
        truth.assert_agree(
            truth.gradient(loss, parameters), truth.gradient(marginal, parameters)
        )


def _first_site_alone(model, args):
    return pyro.condition(model, data={"b": torch.zeros(len(args[0])).long()})


def test_a_batch_updates_its_own_rows():
    net, (x, y), _ = make_net(n=4)
    objective = build("mean-field", net, n_data=9, seed=0)
    rows = torch.tensor([7, 2, 8, 0])
    objective.prepare(x, y, rows)
    before = objective.guide.log_probs.clone()
    objective(x, y, rows)
    changed = (objective.guide.log_probs != before).any(-1)
    assert changed.nonzero().squeeze(-1).tolist() == [0, 2, 7, 8]
    assert torch.allclose(
        objective.guide.rows(rows)[0].exp().sum(-1), torch.ones(4).double()
    )


def test_the_table_is_a_guide_for_other_objectives():
    net, args, _ = make_net()
    objective = build("mean-field", net, n_data=len(args[0]), seed=0)
    loss = objective(*args)
    as_guide = Amortised(estimator="enumerate")(net, objective.guide)
    truth.assert_agree(as_guide(*args), loss)


def test_one_hot_sites_are_sampled_as_vectors():
    guide = MeanFieldGuide([Decision("a", 3, one_hot=True), Decision("b", 2)], 4)
    assert guide(torch.zeros(4, 1)).shape == (4, 2)


@pytest.mark.parametrize("constant", [7.0, -300.0])
def test_a_constant_added_to_the_log_likelihood_moves_no_gradient(constant):
    net, args, _ = make_net()
    parameters = list(net.parameters())
    plain = MeanField()(net, n_data=3, seed=0)
    moved = MeanField()(shifted(net, constant), parameters=parameters, n_data=3, seed=0)
    one, two = plain(*args), moved(*args)
    truth.assert_agree(two, one - constant)
    truth.assert_agree(truth.gradient(two, parameters), truth.gradient(one, parameters))


def test_extreme_numbers_stay_finite():
    model, args, parameters = make_extreme()
    objective = MeanField()(model, parameters=parameters, n_data=4, seed=0)
    for _ in range(2):
        loss = objective(*args)
        assert torch.isfinite(loss)
        gradient = truth.gradient(loss, parameters)
        assert torch.isfinite(gradient).all() and gradient.abs().max() > 0


def test_forbidden_routes_get_no_weight():
    model, args, _, parameters = programs.impossible_routes(Draw())
    objective = MeanField()(model, parameters=parameters, n_data=3, seed=0)
    loss = objective(*args)
    assert (
        torch.isfinite(loss) and torch.isfinite(truth.gradient(loss, parameters)).all()
    )
    assert (objective.guide.rows(torch.arange(3))[0][:, 1] == -torch.inf).all()


def test_what_does_not_fit_is_refused():
    net, args, _ = make_net(routing="static")
    with pytest.raises(ValueError, match="couples the examples: use exact"):
        build("mean-field", net, n_data=3, example=args)
    net, args, _ = make_net()
    with pytest.raises(ValueError, match="may be used"):
        build("mean-field", net, n_data=3, example=args, memory_limit=10)
    with pytest.raises(ValueError, match="pass n_data="):
        build("mean-field", net)
    with pytest.raises(TypeError, match="takes a MeanFieldGuide"):
        MeanField()(net, lambda x, y: None, n_data=3)
    with pytest.raises(ValueError, match="all of them dynamic"):
        MeanFieldGuide([Decision("s", 2, static=True)], 3)
