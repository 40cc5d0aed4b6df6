"""Right posteriors over routes pass calibration, and wrong ones fail."""

from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from latentroute.analysis import GuidePosterior, route_calibration
from latentroute.guides import Decision, NormalPrior, RouterGuide
from latentroute.guides.amortised import AmortisedGuide
from latentroute.inference import (
    RoutePosterior,
    importance_posterior,
    route_posterior,
    sample_routes,
)
from latentroute.models import LayeredNetwork
from tests.analysis.calibration_programs import (
    BUGS,
    MEANS,
    QUANTITIES,
    SITES,
    exact,
    fails,
    inputs,
    passes,
    posterior,
    program,
)
from tests.brute_force import randomise, site_marginals, tabulate_rows

N = 2000


def test_the_exact_posterior_passes():
    found = route_calibration(program, inputs(N), seed=1)
    assert found.quantities == QUANTITIES
    assert found.pit.shape == (N, len(QUANTITIES))
    assert found.n_draws is None
    assert passes(found.pit)


def test_brute_force_passes_too():
    assert passes(route_calibration(program, inputs(N), posterior(exact)).pit)


@pytest.mark.parametrize("bug", BUGS)
def test_a_wrong_posterior_fails(bug):
    assert fails(route_calibration(program, inputs(N), posterior(BUGS[bug])).pit)


def test_only_quantities_of_the_data_see_that_the_data_was_ignored():
    """Modrák et al. 2023: the prior in the posterior's place ranks routes right."""
    ignored = posterior(BUGS["ignores the likelihood"])
    found = route_calibration(program, inputs(N), ignored)
    column = found.quantities.index("log_likelihood")
    assert passes(found.pit[:, :column])
    assert fails(found.pit[:, column])


def test_ties_that_are_not_broken_fail():
    """Negative control: the plain CDF of a discrete quantity is not uniform."""
    found = route_calibration(program, inputs(N), seed=1)
    true = found.routes[:, 0] == 0
    p = found.route_probs[:, 0, 0]
    assert fails(np.where(true, 1.0, 1 - p))


def test_pits_lie_where_brute_force_says():
    x = inputs(300)
    ys = []

    def watched(model, x, y):
        ys.append(y)
        return route_posterior(model, x, y)

    found = route_calibration(program, x, watched)
    table = tabulate_rows(program, (x, ys[0]), SITES)
    weight = exact(table).softmax(0).double()  # (P, N)
    one_hot = [
        table.routes[:, i : i + 1] == torch.arange(m) for i, m in ((0, 3), (1, 2))
    ]
    counts = torch.cat(one_hot, -1).double()[:, None].expand(-1, len(x), -1)
    logs = torch.stack([table.prior, table.likelihood, exact(table)], -1)
    values = torch.cat([counts, logs.double()], -1)  # (P, N, Q)
    row = (table.routes[None] == torch.as_tensor(found.routes)[:, None]).all(-1).int()
    at_truth = row.argmax(-1)
    truth = values[at_truth, torch.arange(len(x))]
    below = (weight[..., None] * (values < truth - 1e-9)).sum(0).numpy()
    upto = (weight[..., None] * (values <= truth + 1e-9)).sum(0).numpy()
    assert (found.pit >= below - 1e-5).all()
    assert (found.pit <= upto + 1e-5).all()
    np.testing.assert_allclose(
        found.route_probs, site_marginals(table, weight), rtol=1e-5, atol=1e-7
    )


def test_a_prior_over_weights_is_drawn_for_every_repeat_and_undone():
    net = LayeredNetwork(
        2, 1, n_layers=2, n_modules=2, hidden_features=3, head="normal"
    )
    before = [p.clone() for p in net.parameters()]
    seen = []

    def watched(model, x, y):
        seen.append(next(net.parameters()).sum().item())
        return route_posterior(model, x, y)

    found = route_calibration(
        net, inputs(100), watched, prior=NormalPrior(scale=2.0), repeats=8
    )
    assert found.pit.shape[0] == 800 and len(set(seen)) == 8
    assert all(map(torch.equal, before, net.parameters()))
    assert passes(found.pit)


def test_independent_draws_pass_as_ranks():
    draws = partial(sample_routes, n=9, seed=None)
    found = route_calibration(program, inputs(N), draws)
    assert found.n_draws == 9
    assert passes(found.pit)
    assert fails(
        route_calibration(
            program, inputs(N), lambda model, x, y: draws(model, x, y.flip(0))
        ).pit
    )


def test_importance_weights_are_taken_at_their_word():
    many = partial(importance_posterior, n_samples=2000, seed=None)
    assert passes(route_calibration(program, inputs(300), many).pit)
    few = partial(importance_posterior, n_samples=4, seed=None)
    assert fails(route_calibration(program, inputs(500), few).pit)


def test_a_guide_is_a_posterior():
    """The router as a guide is the prior."""
    x = inputs(500)
    guide = GuidePosterior(RouterGuide(program))
    ignored = route_calibration(program, x, posterior(BUGS["ignores the likelihood"]))
    listed = route_calibration(program, x, guide)
    np.testing.assert_allclose(listed.route_probs, ignored.route_probs, atol=1e-6)
    drawn = route_calibration(
        program, x, GuidePosterior(RouterGuide(program), n_draws=7)
    )
    assert drawn.n_draws == 7
    assert set(np.unique((7 * drawn.route_probs).round(6) % 1)) == {0.0}
    untrained = AmortisedGuide([Decision("a", 3), Decision("b", 2)], 2, y_features=1)
    assert fails(route_calibration(program, x, GuidePosterior(untrained)).pit)


def static_network():
    net = LayeredNetwork(
        2,
        1,
        n_layers=1,
        n_modules=3,
        hidden_features=2,
        head="normal",
        routing="static",
    )
    randomise(net, seed=0, scale=1.5)
    return net


def test_a_run_of_a_static_program_is_one_simulation():
    net = static_network()
    found = route_calibration(net, inputs(3), repeats=60)
    assert found.pit.shape == (60, 6)
    assert found.routes.shape == (60, 1) and found.route_probs.shape == (60, 1, 3)
    assert passes(found.pit)

    def even(model, x, y):
        listed = route_posterior(model, x, y)
        return listed._replace(log_probs=torch.zeros(1, 3).log_softmax(-1))

    assert fails(route_calibration(net, inputs(3), even, repeats=60).pit)


def test_the_seed_fixes_everything():
    draws = partial(sample_routes, n=3, seed=None)
    first, again, other = (
        route_calibration(program, inputs(20), draws, seed=seed).pit
        for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_target_is_what_the_model_returns_or_a_site():
    def silent(x, y=None):
        program(x, y)

    with pytest.raises(ValueError, match=r"returns nothing.*target="):
        route_calibration(silent, inputs(5))
    with pytest.raises(ValueError, match=r"got 'z', expected one of"):
        route_calibration(silent, inputs(5), target="z")
    named = route_calibration(silent, inputs(50), target="y")
    assert np.array_equal(named.pit, route_calibration(program, inputs(50)).pit)


def test_a_program_that_conditions_by_itself_is_refused():
    def given(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=x))
            pyro.factor("evidence", a.float())
            return pyro.sample("y", dist.Normal(MEANS[a, 0], 1.0), obs=y)

    with pytest.raises(ValueError, match="'evidence' is observed"):
        route_calibration(given, inputs(5))


@pytest.mark.parametrize(
    ("result", "error", "match"),
    [
        ("text", TypeError, "RoutePosterior.*got str"),
        (torch.zeros(4, 3, 2, dtype=torch.long), ValueError, r"\(draws, 5, 2\)"),
        (
            RoutePosterior(torch.zeros(1, 1).long(), torch.zeros(5, 1), ("a",)),
            ValueError,
            r"sites \['a'\], the model's are \['a', 'b'\]",
        ),
    ],
)
def test_what_is_no_posterior_is_refused(result, error, match):
    with pytest.raises(error, match=match):
        route_calibration(program, inputs(5), lambda model, x, y: result)


def test_repeats_and_priors_are_checked():
    with pytest.raises(ValueError, match="repeats"):
        route_calibration(program, inputs(5), repeats=0)
    with pytest.raises(ValueError, match="parameters="):
        route_calibration(program, inputs(5), prior=NormalPrior())
