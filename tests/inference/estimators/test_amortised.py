"""The amortised guide's ELBO and its gradient, against brute force."""

import pytest
import torch

from latentroute.inference import Amortised, build, fit, log_marginal
from latentroute.inference.baselines import LearnedBaseline, leave_one_out
from latentroute.inference.program import RoutedProgram
from latentroute.inference.score_function import elbo_of, score_function
from latentroute.models import GivenRouting
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

ENUMERATE = Amortised(estimator="enumerate")
# Forbidden routes have an infinite ELBO under a guide of full support.
FIT = [m for m in programs.BROADCASTING if m is not programs.impossible_routes]


def true_loss(model, guide, args, sites, **options):
    tables = (truth.tabulate(program, args, sites) for program in (model, guide))
    return -truth.guide_elbo(*tables, **options)


@pytest.mark.parametrize("make", FIT, ids=lambda make: make.__name__)
def test_enumerated_is_exact_for_users_programs(make):
    model, args, sites, parameters = make(Draw())
    objective = ENUMERATE(model, parameters=parameters, seed=0)
    guide = made_guide(objective, args)
    every = list(objective.parameters())
    assert len(every) > len(parameters)
    loss, expected = objective(*args), true_loss(model, guide, args, sites)
    truth.assert_agree(loss, expected)
    truth.assert_agree(truth.gradient(loss, every), truth.gradient(expected, every))


@pytest.mark.parametrize("routing", ["dynamic", "static"])
def test_enumerated_is_exact_for_networks(routing):
    net, args, sites = make_net(routing=routing)
    objective = ENUMERATE(net, seed=0)
    guide = made_guide(objective, args)
    every = list(objective.parameters())
    loss, expected = objective(*args), true_loss(net, guide, args, sites)
    truth.assert_agree(loss, expected)
    truth.assert_agree(truth.gradient(loss, every), truth.gradient(expected, every))


def test_a_minibatch_counts_static_terms_once_for_all_the_data():
    model, args, sites, parameters = programs.static_all(Draw())
    objective = ENUMERATE(model, parameters=parameters, n_data=12)
    index = torch.tensor([3, 1, 11])
    objective.prepare(*args, index)
    truth.randomise(objective.guide, 7)
    expected = true_loss(model, objective.guide, args, sites, n_data=12)
    truth.assert_agree(objective(*args, index), expected)


def sample_set(program, guide, args, rows, table):
    """Terms and log q of given routes, one example at a time."""
    routes = table.routes[rows].unsqueeze(1).expand(-1, len(args[0]), -1)
    return program.given(*args, routes=routes), guide.given(*args, routes=routes).prior


def surrogate(kind, terms, log_q):
    elbo = elbo_of(terms, log_q, static=set(), n_data=1)
    advantage = {
        "right": leave_one_out(elbo.detach()),
        "its own sample in the baseline": elbo.detach() - elbo.detach().mean(0),
        "no score term": torch.zeros_like(elbo),
    }[kind]
    return score_function(elbo, advantage, log_q, static=set())


def expectation(kind):
    """The mean gradient over every ordered pair of routes, and the truth."""
    net, args, sites = make_net(n=1)
    objective = Amortised(n_samples=2)(net, seed=0)
    guide = made_guide(objective, args)
    every = [*net.parameters(), *guide.parameters()]
    table = truth.tabulate(net, args, sites)
    q = truth.log_router(truth.tabulate(guide, args, sites)).exp().squeeze(-1).detach()
    program, q_program = RoutedProgram(net), RoutedProgram(guide)
    q_program = RoutedProgram(guide, program.structure(*args))
    total = sum(
        q[rows].prod()
        * truth.gradient(
            -surrogate(kind, *sample_set(program, q_program, args, rows, table)), every
        )
        for rows in route_sets(table, 2)
    )
    return total, truth.gradient(true_loss(net, guide, args, sites), every)


def test_the_exact_expectation_over_all_pairs_of_samples():
    truth.assert_agree(*expectation("right"), tolerance=1e-12)


@pytest.mark.parametrize("kind", ["its own sample in the baseline", "no score term"])
def test_a_wrong_estimator_fails_that_check(kind):
    with pytest.raises(AssertionError, match="off by"):
        truth.assert_agree(*expectation(kind), tolerance=1e-3)


@pytest.mark.parametrize(
    ("make", "copies", "n_samples"),
    [(make_net, 8, 32), (programs.static_then_dynamic, 1, 128)],
    ids=["network", "static and dynamic"],
)
def test_sampled_routes_are_unbiased(make, copies, n_samples):
    """250 calls; where arguments are rows, each of `copies` draws side by side."""
    if make is make_net:
        net, args, sites = make_net()
        parameters = list(net.parameters())
    else:
        net, args, sites, parameters = make(Draw())
    small = Amortised(hidden_features=2)
    guide = made_guide(small(net, parameters=parameters, seed=0), args)
    every = [*parameters, *guide.parameters()]
    assert sum(p.numel() for p in every) <= 150  # what the stated failure rate is of
    expected = truth.gradient(true_loss(net, guide, args, sites), every)
    drawn = []

    def draw(seed):
        objective = Amortised(n_samples=n_samples)(
            net, guide, parameters=parameters, seed=seed
        )
        batch = tuple(a.repeat(copies, *(1,) * (a.dim() - 1)) for a in args)
        drawn.append(
            torch.stack([truth.gradient(objective(*batch), every) for _ in range(250)])
        )
        return drawn[-1]

    assert_unbiased(draw, expected)
    assert not judge(drawn[0], 1.2 * expected).unbiased


@pytest.mark.parametrize("estimator", ["enumerate", "score-function"])
@pytest.mark.parametrize("constant", [7.0, -300.0])
def test_a_constant_added_to_the_log_likelihood_moves_no_gradient(estimator, constant):
    net, args, _ = make_net()
    parameters = list(net.parameters())
    method = Amortised(estimator=estimator)
    guide = made_guide(method(net, seed=0), args)
    plain = method(net, guide, seed=3)
    moved = method(shifted(net, constant), guide, parameters=parameters, seed=3)
    every = [*parameters, *guide.parameters()]
    one, two = plain(*args), moved(*args)
    truth.assert_agree(two, one - constant)
    truth.assert_agree(truth.gradient(two, every), truth.gradient(one, every))


def test_the_guide_learns_the_posterior_of_a_fixed_model():
    """The gap between ELBO and marginal closes."""
    net, _, _ = make_net()
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(16, 2, generator=generator, dtype=torch.float64)
    y = torch.randint(2, (16,), generator=generator)
    options = {"steps": 120, "batch_size": 16, "lr": 0.05, "log_every": 120}
    result = fit(net, (x, y), ENUMERATE, parameters=[], **options)
    marginal = log_marginal(net, x, y).mean().item()
    gaps = [marginal + row["loss"] for row in result.history]
    assert all(gap > -1e-9 for gap in gaps)
    assert gaps[0] > 0.3 and gaps[-1] < 0.05 * gaps[0]


def test_one_module_leaves_nothing_to_chance():
    net, args, _ = make_net(n_modules=1)
    for estimator in ("enumerate", "score-function"):
        ours = build("amortised", net, estimator=estimator, seed=0)(*args)
        truth.assert_agree(ours, build("exact", net)(*args))


@pytest.mark.parametrize("estimator", ["enumerate", "score-function"])
def test_extreme_numbers_stay_finite_and_move_the_guide(estimator):
    model, args, parameters = make_extreme()
    objective = Amortised(estimator=estimator)(model, parameters=parameters, seed=0)
    objective.prepare(*args)
    loss = objective(*args)
    loss.backward()
    assert torch.isfinite(loss)
    for parameter in objective.parameters():
        assert torch.isfinite(parameter.grad).all()
    assert objective.guide.networks[0].out_bias.grad.abs().max() > 0


def test_a_learned_baseline_is_trained_beside_the_guide():
    net, args, _ = make_net()
    method = Amortised(baseline=LearnedBaseline(hidden_features=4))
    objective = method(net, seed=0)
    objective.prepare(*args)
    objective(*args).backward()
    assert all(p.grad.abs().sum() > 0 for p in objective.baseline.parameters())


def test_what_does_not_fit_is_refused():
    net, args, _ = make_net()
    with pytest.raises(ValueError, match="estimator must be one of"):
        Amortised(estimator="reparametrise")
    with pytest.raises(ValueError, match="may be used") as error:
        build("amortised", net, example=args, estimator="enumerate", memory_limit=10)
    assert "\n" not in str(error.value)
    model, (x, y), _, parameters = programs.two_sites(Draw())
    with pytest.raises(ValueError, match="y as a tensor with one row an example"):
        build(
            "amortised",
            lambda x, y=None: model(x, y[0]),
            parameters=parameters,
            example=(x, y.unsqueeze(0)),
        )
    given = torch.zeros(len(args[0]), 2, dtype=torch.long)
    with pytest.raises(ValueError, match="use exact"):
        build(
            "amortised", GivenRouting(net, given, ["route_0", "route_1"]), example=args
        )
