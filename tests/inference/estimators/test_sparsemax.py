"""Sparse routers: the maps by bisection, the sum over the support by brute force."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from latentroute.inference import (
    METHODS,
    build,
    compare,
    evaluate,
    fit,
    log_marginal,
    route_posterior,
)
from latentroute.inference.estimators.sparsemax import support
from latentroute.inference.program import RoutedProgram
from latentroute.models import GivenRouting, LayeredNetwork, SparseRouting
from latentroute.models.sparse import sparse_log_probs
from tests import brute_force as truth
from tests.exact import programs
from tests.exact.programs import Draw
from tests.inference.estimators.relaxed_nets import M, N, make_net, shifted

MAPPINGS = ("sparsemax", "entmax15")
every_mapping = pytest.mark.parametrize("mapping", MAPPINGS)


def by_bisection(scores, mapping):
    """p_m = [(alpha - 1) s_m - tau]_+^(1 / (alpha - 1)), tau so that they add up."""
    alpha = {"sparsemax": 2.0, "entmax15": 1.5}[mapping]
    scaled = (alpha - 1) * scores

    def probs(tau):
        return (scaled - tau).clamp_min(0) ** (1 / (alpha - 1))

    low = scaled.max(-1, keepdim=True).values - 1
    high = low + 1
    for _ in range(80):
        middle = (low + high) / 2
        too_many = probs(middle).sum(-1, keepdim=True) > 1
        low = torch.where(too_many, middle, low)
        high = torch.where(too_many, high, middle)
    return probs(low)


@every_mapping
def test_the_map(mapping):
    generator = torch.Generator().manual_seed(0)
    scores = 2 * torch.randn(50, 5, generator=generator, dtype=torch.float64)
    log_probs = sparse_log_probs(scores, mapping)
    probs = by_bisection(scores, mapping)
    truth.assert_agree(log_probs.exp(), probs, 1e-9)
    assert torch.equal(torch.isneginf(log_probs), log_probs.exp() == 0)
    assert 0.1 < torch.isneginf(log_probs).double().mean() < 0.9
    # The scores' level does not matter, so log-probabilities do as well.
    truth.assert_agree(sparse_log_probs(scores + 5, mapping).exp(), probs, 1e-9)


@every_mapping
@pytest.mark.parametrize("low", [-1e4, -torch.inf])
def test_extreme_scores(mapping, low):
    scores = torch.tensor([1e4, 1e4 - 0.25, low], requires_grad=True)
    log_probs = sparse_log_probs(scores, mapping)
    assert log_probs[2] == -torch.inf
    log_probs[0].backward()
    assert torch.isfinite(scores.grad).all()
    assert scores.grad[0] > 0 and scores.grad[1] < 0 and scores.grad[2] == 0


def by_hand(net, args, sites, mapping):
    """log p(y | x) of a one-layer net: bisected probabilities, all routes."""
    table = truth.tabulate(net, args, sites)
    probs = by_bisection(table.prior.T, mapping).T
    return (probs.log() + table.likelihood).logsumexp(0)


@every_mapping
def test_one_layer_by_hand(mapping):
    net, args, sites = make_net(n_layers=1, n_modules=5)
    expected = by_hand(net, args, sites, mapping)
    objective = build(mapping, net)
    truth.assert_agree(objective(*args), -expected.mean(), 1e-9)
    truth.assert_agree(log_marginal(objective.evaluated, *args), expected, 1e-9)
    softmax = truth.log_marginal(truth.tabulate(net, args, sites)).mean()
    assert abs(softmax + objective(*args)) > 1e-3


@every_mapping
@pytest.mark.parametrize(
    "options",
    [{}, {"k": 2, "n_layers": 1}, {"router_input": "input"}, {"routing": "static"}],
    ids=str,
)
@pytest.mark.parametrize("target", ["marginal", "router-elbo"])
def test_against_every_route_of_the_sparse_program(mapping, options, target):
    net, args, sites = make_net(**options)
    parameters = list(net.parameters())
    table = truth.tabulate(SparseRouting(net, mapping), args, sites)
    if target == "marginal":
        expected = -truth.log_marginal(table).sum() / N
    else:
        weight = truth.log_router(table).exp()
        expected = -(weight * table.likelihood).sum(0).mean()
    assert (torch.isneginf(truth.log_router(table))).any(), "nothing is sparse here"
    ours = build(mapping, net, target=target)(*args)
    truth.assert_agree(ours, expected)
    truth.assert_agree(
        truth.gradient(ours, parameters),
        torch.nan_to_num(truth.gradient(expected, parameters)),
    )


@every_mapping
def test_the_support_is_found_and_no_more(mapping):
    net, args, sites = make_net(n_layers=3)
    program = RoutedProgram(SparseRouting(net, mapping))
    structure = program.structure(*args)
    found = support(program, args, structure)
    inside = truth.tabulate(program.model, args, sites).prior.isfinite()  # (P, N)
    assert len(found.routes) == inside.sum(0).max() < 27
    place = (found.routes * torch.tensor([9, 3, 1])).sum(-1)
    for n in range(N):
        listed = place[found.is_in[:, n], n].tolist()
        assert len(set(listed)) == len(listed)
        assert set(listed) == set(inside[:, n].nonzero().flatten().tolist())


@every_mapping
def test_shift_and_numerics(mapping):
    net, args, _ = make_net()
    parameters = list(net.parameters())
    one = build(mapping, net)(*args)
    two = build(mapping, shifted(net, -300.0), parameters=parameters)(*args)
    truth.assert_agree(two, one + 300)
    truth.assert_agree(truth.gradient(two, parameters), truth.gradient(one, parameters))
    net, (x, y), _ = make_net(torch.float32)
    with torch.no_grad():
        for router in net.routers:
            router.linear.weight.mul_(1e4)
    far = shifted(net, -1e6)
    loss = build(mapping, far, parameters=list(net.parameters()))(x, y)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


def test_a_module_outside_every_support_has_no_gradient():
    torch.manual_seed(0)
    modules = [[torch.nn.Linear(2, 2).double() for _ in range(M)]]
    modules[0].append(torch.nn.Identity())  # so that the bank keeps a list
    net = LayeredNetwork(
        2, 2, n_layers=1, n_modules=M + 1, hidden_features=2, module=modules
    ).double()
    with torch.no_grad():
        net.routers[0].linear.bias.copy_(torch.tensor([0.0, 0.0, -9.0, 0.0]))
    args = make_net()[1]
    build("sparsemax", net)(*args).backward()
    assert modules[0][0].weight.grad.abs().sum() > 0
    grad = modules[0][2].weight.grad
    assert grad is None or not grad.any()
    assert net.routers[0].linear.bias.grad[2].abs() < 1e-15


# What is evaluated.


@every_mapping
def test_everything_takes_the_sparse_program(mapping):
    net, args, sites = make_net()
    sparse = SparseRouting(net, mapping)
    table = truth.tabulate(sparse, args, sites)
    truth.assert_agree(log_marginal(sparse, *args), truth.log_marginal(table))
    posterior = route_posterior(sparse, *args)
    expected = truth.log_posterior(table).exp()
    truth.assert_agree(posterior.log_probs.exp(), expected)
    seen = evaluate(sparse, *args, draws=20)
    truth.assert_agree(seen.log_marginal, truth.log_marginal(table).detach())
    router = truth.site_marginals(table, truth.log_router(table).exp())
    truth.assert_agree(seen.router_probs, router.detach())
    for other in ("exact", "score-function", "hard-em"):
        loss = build(other, sparse, n_data=N, seed=0)(*args)
        assert torch.isfinite(loss)
    truth.assert_agree(build("exact", sparse)(*args), build(mapping, net)(*args))
    assert sparse(args[0]).shape == (N,)


@every_mapping
def test_fit_and_compare_evaluate_what_was_trained(mapping):
    net, (x, y), _ = make_net(torch.float32)
    result = fit(net, (x, y), mapping, steps=2, log_every=1)
    assert result.model is net
    assert isinstance(result.evaluated, SparseRouting)
    assert result.evaluated.model is net and result.evaluated.mapping == mapping
    assert fit(net, (x, y), "exact", steps=1).evaluated is net
    network = {"n_modules": 6}
    tree = compare("clusters", [mapping, "exact"], 1, steps=3, draws=2, network=network)
    probs = tree[f"{mapping}/seed_0"]["routing"]["router_probs"].values
    assert (probs == 0).any()
    assert (tree["exact/seed_0"]["routing"]["router_probs"].values > 0).all()


@every_mapping
def test_bare_programs(mapping):
    model, args, sites, parameters = programs.two_sites(Draw())
    named = SparseRouting(model, mapping, sites=list(sites))
    expected = truth.log_marginal(truth.tabulate(named, args, sites))
    objective = build(mapping, model, parameters=parameters)
    truth.assert_agree(objective(*args), -expected.mean())
    with pytest.raises(ValueError, match="no routing site was met"):
        SparseRouting(model, mapping)(*args)


@pytest.mark.filterwarnings("ignore:the program does not broadcast")
def test_programs_that_do_not_broadcast():
    model, args, sites, parameters = programs.by_loop(Draw())
    named = SparseRouting(model, sites=list(sites))
    expected = truth.log_marginal(truth.tabulate(named, args, sites))
    ours = build("sparsemax", model, parameters=parameters)(*args)
    truth.assert_agree(ours, -expected.mean())


@every_mapping
def test_refusals(mapping, monkeypatch):
    net, args, sites = make_net()
    model, other, _, parameters = programs.other_plate_and_supports(Draw())
    with pytest.raises(ValueError, match=r"'b' is a Bernoulli"):
        build(mapping, model, parameters=parameters, example=other)
    given = GivenRouting(net, torch.zeros(N, 2).long(), list(sites))
    with pytest.raises(ValueError, match="every routing site is given"):
        build(mapping, given, example=args)
    with pytest.raises(ValueError, match="takes no guide"):
        METHODS[mapping](net, lambda x, y=None: None)
    with pytest.raises(ValueError, match="mapping must be one of"):
        SparseRouting(net, "softmax")
    with pytest.raises(ValueError, match="target must be one of"):
        build(mapping, net, target="elbo")
    monkeypatch.setattr(
        "latentroute.inference.estimators.sparsemax.free_memory", lambda: 10
    )
    with pytest.raises(ValueError, match="the support has") as error:
        build(mapping, net)(*args)
    assert "\n" not in str(error.value)


def test_a_target_with_a_plate_of_its_own():
    model, args, sites, parameters = programs.repeated_target(Draw())
    named = SparseRouting(model, sites=list(sites))
    expected = truth.log_marginal(truth.tabulate(named, args, sites))
    ours = build("sparsemax", model, parameters=parameters)(*args)
    truth.assert_agree(ours, -expected.mean())


def test_one_hot_sites():
    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample(
                "a", dist.OneHotCategorical(logits=logits.expand(len(x), 3))
            )
            pyro.factor("y", a @ values)

    logits = torch.tensor([0.2, 0.0, -2.0], requires_grad=True)
    values = torch.tensor([1.0, -1.0, 50.0])
    expected = (torch.tensor([0.6, 0.4]).log() + values[:2]).logsumexp(0)
    loss = build("sparsemax", model, parameters=[logits])(torch.zeros(2, 1))
    truth.assert_agree(loss, -expected)
