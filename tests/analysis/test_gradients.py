"""The report on gradients: its truth, its statistics, and what it must flag."""

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import pytest
import torch

from latentroute.analysis import brute_force, gradient_report
from latentroute.analysis import importance_bound as bound
from latentroute.analysis.gradient_bench import Bench
from latentroute.analysis.gradient_statistics import gradient_statistics
from latentroute.analysis.importance_bound import Truth
from latentroute.analysis.plots import gradient_league
from latentroute.inference import METHODS, Exact, Method, Objective, ScoreFunction
from latentroute.inference.baselines import NoBaseline
from latentroute.models import LayeredNetwork
from latentroute.tasks import from_tensors
from tests import brute_force as truth
from tests.exact import programs
from tests.exact.programs import Draw

N, DRAWS = 4, 2000


def make_net(n=N, **options):
    shape = {"n_layers": 2, "n_modules": 3, "hidden_features": 2} | options
    net = LayeredNetwork(2, 2, **shape).double()
    truth.randomise(net, 4, scale=1.2)
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return net, (x, torch.randint(2, (n,), generator=generator))


# Negative controls, which the report must flag, and a right one made by hand.


@dataclass(frozen=True)
class ByHand(Method):
    """A score-function estimator of the router ELBO, right or wrong."""

    kind: str = "right"
    summary: ClassVar[str] = "by hand"
    wiring: ClassVar[str] = "router-as-guide ELBO"
    unbiased_for: ClassVar[str | None] = "elbo"

    def objective(self, model, guide, **options):
        return _ByHand(self.kind, model, **options)


class _ByHand(Objective):
    def __init__(self, kind, model, **options):
        super().__init__(model, **options)
        self.kind = kind

    def _loss(self, x, y, index):
        terms = self._program.sample(x, y, n_samples=2)
        value, reward = terms.likelihood, terms.likelihood.detach()
        weight = {
            "right": reward - reward.flip(0),
            "its own sample in the baseline": reward - reward.mean(0),
            "no score term": 0 * reward,
            "reward with the wrong sign": reward.flip(0) - reward,
        }[self.kind]
        return -(value + weight * sum(terms.prior.values())).mean()


WRONG = [
    "its own sample in the baseline",
    "no score term",
    "reward with the wrong sign",
]


@pytest.fixture(scope="module")
def controls():
    net, data = make_net()
    methods = {kind: ByHand(kind) for kind in ["right", *WRONG]}
    methods |= {"leave one out": ScoreFunction(), "exact": Exact()}
    methods["plain"] = ScoreFunction(n_samples=8, baseline=NoBaseline())
    return gradient_report(net, data, methods, DRAWS).set_index("method")


def test_wrong_estimators_are_refuted(controls):
    assert sorted(controls.attrs["refuted"]) == sorted(WRONG)
    assert (controls.loc[WRONG, "verdict"] == "biased").all()
    assert (controls.loc[WRONG, "router_verdict"] == "biased").all()
    assert (controls.loc[WRONG, "far"] > 0.01).all()
    assert controls.loc[WRONG, "rank"].isna().all()


def test_right_estimators_are_not(controls):
    right = ["right", "leave one out", "exact", "plain"]
    assert not (controls.loc[right, "verdict"] == "biased").any()
    assert controls.loc["leave one out", "verdict"] == "unbiased"
    assert (controls.loc[right, "cosine"] > 0.95).all()


def test_an_exact_method_has_no_bias_and_no_variance(controls):
    exact = controls.loc["exact"]
    assert exact["bias"] < 1e-10 and exact["variance"] == 0 and exact["draws"] == 8
    assert exact["rank"] == 1 and exact["target"] == "marginal"


def test_the_size_of_a_bias_is_measured(controls):
    """The wrong sign turns the router's gradient g into -g: a bias of 2 |g|."""
    wrong = controls.loc["reward with the wrong sign"]
    assert wrong["router_bias"] == pytest.approx(2, abs=4 * wrong["router_bias_error"])
    own = controls.loc["its own sample in the baseline"]  # of two: half of it is lost
    assert own["router_bias"] == pytest.approx(0.5, abs=4 * own["router_bias_error"])
    none = controls.loc["no score term"]
    assert none["router_bias"] == pytest.approx(1) and none["router_variance"] == 0


def test_costs_are_relative_to_plain_score_function(controls):
    plain = controls.loc["plain"]
    assert plain["relative_cost"] == pytest.approx(plain["relative_time"], rel=1e-9)
    cost = controls["variance"] * controls["time"]
    ratio = cost / controls["relative_cost"]
    assert ratio.dropna().max() == pytest.approx(ratio.dropna().min())


def test_ranks_count_within_one_objective(controls):
    elbo = controls[controls["target"] == "elbo"].dropna(subset="rank")
    assert sorted(elbo["rank"]) == [1, 2, 3]
    assert elbo.sort_values("rank")["relative_cost"].is_monotonic_increasing


# The truth.


@pytest.mark.parametrize(
    "make",
    [
        programs.two_sites,
        programs.other_plate_and_supports,
        programs.repeated_target,
        programs.static_around_dynamic,
        programs.static_all,
        programs.by_masks,
    ],
    ids=lambda make: make.__name__,
)
def test_brute_force_is_the_suites_own(make):
    model, args, sites, parameters = make(Draw())
    table = brute_force.tabulate(model, *args)
    expected = truth.tabulate(model, args, sites)
    marginal = truth.log_marginal(expected)
    marginal = marginal.mean() if marginal.dim() else marginal / len(args[0])
    for ours, theirs in (
        (brute_force.marginal(table), marginal),
        (brute_force.elbo(table), truth.router_elbo(expected)),
    ):
        truth.assert_agree(ours, theirs)
        truth.assert_agree(
            bound.flat_gradient(ours, parameters), truth.gradient(theirs, parameters)
        )


def bound_by_product(log_w, log_q, n_samples):
    total = 0.0
    for picks in itertools.product(range(len(log_w)), repeat=n_samples):
        chance = log_q[list(picks)].sum(0).exp()
        value = log_w[list(picks)].logsumexp(0) - math.log(n_samples)
        total = total + chance * value
    return total.mean()


@pytest.mark.parametrize("n_samples", [1, 2, 4])
def test_the_bound_sums_over_all_ordered_samples(n_samples):
    model, args, _, parameters = programs.two_sites(Draw())
    table = brute_force.tabulate(model, *args)
    expected = bound_by_product(table.likelihood, table.prior, n_samples)
    found = bound.importance_gradient(table, n_samples, parameters)
    truth.assert_agree(found.gradient, truth.gradient(expected, parameters))
    assert not found.error.any()


def test_a_long_run_stands_in_for_the_sum(monkeypatch):
    model, args, _, parameters = programs.two_sites(Draw())
    table = brute_force.tabulate(model, *args)
    exact = bound.importance_gradient(table, 3, parameters)
    monkeypatch.setattr(bound, "MOST_SETS", 1)
    monkeypatch.setattr(bound, "_RUN", 2**16)
    found = bound.importance_gradient(table, 3, parameters)
    assert (found.error[exact.gradient != 0] > 0).all()
    off = (found.gradient - exact.gradient).abs()
    assert (off <= 6 * found.error + 1e-12).all()
    assert found.error.norm() < 0.05 * exact.gradient.norm()


def test_the_routers_parameters_are_found():
    net, (x, y) = make_net()
    bench = Bench(net, x, y, None, {}, 10, None)
    flags = torch.cat(
        [
            torch.full((p.numel(),), "router" in name)
            for name, p in net.named_parameters()
        ]
    )
    assert torch.equal(bench._router, flags.nonzero().squeeze(-1))


# The statistics.


def test_a_bias_is_debiased_and_its_error_honest():
    """300 reports on draws with a known bias of length 0.3."""
    g = torch.tensor([1.0, 0.0, 0.0, 0.0]).double()
    bias = torch.tensor([0.0, 0.3, 0.0, 0.0]).double()
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(300):
        noise = torch.randn(300, 4, generator=generator, dtype=torch.double)
        found.append(gradient_statistics(g + bias + noise, exactly(g)))
    squared = torch.tensor([one.squared_bias for one in found])
    claimed = torch.tensor([one.squared_bias_error for one in found])
    spread = squared.std().item()
    assert squared.mean().item() == pytest.approx(0.09, abs=5 * spread / 300**0.5)
    assert claimed.mean().item() == pytest.approx(spread, rel=0.15)
    assert torch.tensor([one.variance for one in found]).mean() == pytest.approx(
        4, 0.05
    )


def exactly(g):
    return Truth(g, torch.zeros_like(g))


def test_noise_alone_is_no_bias_and_few_draws_decide_nothing():
    g = torch.ones(5).double()
    generator = torch.Generator().manual_seed(1)
    noise = 0.1 * torch.randn(1000, 5, generator=generator, dtype=torch.double)
    assert gradient_statistics(g + noise, exactly(g)).verdict == "unbiased"
    assert gradient_statistics(g + noise[:100], exactly(g)).verdict == "unclear"
    loud = gradient_statistics(g + 30 * noise, exactly(g))
    assert loud.verdict == "unclear"
    off = gradient_statistics(1.05 * g + noise, exactly(g))
    assert off.verdict == "biased" and off.bias == pytest.approx(0.05, rel=0.1)


def test_copies_share_out_the_variance():
    g = torch.ones(2).double()
    draws = g + torch.randn(400, 2, dtype=torch.double)
    one = gradient_statistics(draws, exactly(g))
    assert gradient_statistics(draws, exactly(g), copies=7).variance == pytest.approx(
        7 * one.variance
    )


# What it is given.


def test_every_method_has_a_row_or_a_reason():
    net, data = make_net(n=2)
    table = gradient_report(net, data, draws=20)
    left_out = table.attrs["left_out"]
    assert set(table["method"]) | set(left_out) == set(METHODS)
    assert not set(table["method"]) & set(left_out)
    assert all("\n" not in reason for reason in left_out.values())
    assert table.attrs["refuted"] == []
    assert {"exact", "score-function", "hard-em"} <= set(table["method"])
    assert {"method", "bias", "variance", "time"} <= set(table.columns)
    assert (table["time"] > 0).all()
    figure = gradient_league(table)
    assert "brute force" in figure.get_suptitle()
    assert len(gradient_league(table, router=True).axes) == 3


def test_a_users_program_and_its_parameters():
    model, args, _, parameters = programs.two_sites(Draw())
    methods = ["exact", "score-function", "hard-em"]
    table = gradient_report(model, args, methods, 500, parameters=parameters)
    table = table.set_index("method")
    assert table.loc["exact", "bias"] < 1e-10
    assert table.loc["score-function", "verdict"] != "biased"
    assert table.loc["hard-em", "verdict"] == "biased"
    assert table.attrs["refuted"] == [] and table.attrs["n_routes"] == 6
    with pytest.raises(ValueError, match="pass parameters="):
        gradient_report(model, args, methods, 500)


def test_static_routes_are_drawn_one_call_at_a_time():
    net, data = make_net(routing="static")
    table = gradient_report(net, data, ["exact", "score-function"], 300)
    table = table.set_index("method")
    assert table.loc["exact", "bias"] < 1e-10
    assert table.loc["score-function", "verdict"] == "unbiased"


def test_a_task_and_its_first_examples():
    x = torch.randn(60, 2)
    task = from_tensors(x, x[:, 0].gt(0).long())
    net = make_net()[0].float()
    table = gradient_report(net, task, ["exact"], 10)
    assert table.attrs["n_examples"] == 8
    table = gradient_report(net, task, ["exact"], 10, n_examples=3)
    assert table.attrs["n_examples"] == 3 and table.loc[0, "verdict"] == "unbiased"


def test_another_objective_can_be_named():
    net, data = make_net()
    methods = {"exact": Exact()}
    wrong = gradient_report(net, data, methods, 10, targets={"exact": "elbo"})
    elbo = {"exact": Exact(target="router-elbo")}
    right = gradient_report(net, data, elbo, 10)
    assert wrong.attrs["refuted"] == ["exact"]
    assert right.attrs["refuted"] == [] and right.loc[0, "bias"] < 1e-10
    with pytest.raises(ValueError, match="targets must be one of"):
        gradient_report(net, data, methods, 10, targets={"exact": "elb"})


@dataclass(frozen=True)
class Refuses(ByHand):
    def objective(self, model, guide, **options):
        raise ValueError("this one takes a moon")


def test_methods_that_do_not_apply_say_so():
    net, data = make_net()
    methods = {"fussy": Refuses(), "exact": Exact()}
    table = gradient_report(net, data, methods, 10)
    assert list(table["method"]) == ["exact"]
    assert table.attrs["left_out"] == {"fussy": "this one takes a moon"}
    with pytest.raises(ValueError, match=r"no method applies.*moon"):
        gradient_report(net, data, {"fussy": Refuses()}, 10)


def test_nothing_is_changed():
    net, data = make_net()
    before = [p.clone() for p in net.parameters()]
    state = torch.get_rng_state()
    one, two = (gradient_report(net, data, ["score-function"], 20) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(
        torch.equal(*pair) for pair in zip(before, net.parameters(), strict=True)
    )
    assert all(p.grad is None for p in net.parameters())
    same = [c for c in one if "time" not in c and "cost" not in c]
    pd.testing.assert_frame_equal(one[same], two[same])


def test_too_many_routes_are_refused():
    net, data = make_net(n_layers=4, n_modules=9)
    with pytest.raises(ValueError, match="6,561 routes are more than 4,096"):
        gradient_report(net, data, ["exact"], 10)
