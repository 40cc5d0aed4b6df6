"""Programs made up at random, static and dynamic sites in any order, by brute force."""

import random
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from latentroute.inference import build, evaluate, log_marginal, route_posterior
from tests import brute_force as truth
from tests.exact.programs import Draw, Program

SUPPORTS = {
    "categorical": torch.arange,
    "one-hot": lambda m: torch.eye(m, dtype=torch.float64),
    "bernoulli": lambda m: torch.arange(m, dtype=torch.float64),
}


class Node(NamedTuple):
    """A routing site: what it is, and which earlier ones it sees."""

    name: str
    kind: str
    m: int
    static: bool
    sees: tuple[str, ...]


def make_nodes(rng):
    nodes = []
    for i in range(rng.randint(1, 4)):
        static, m = rng.random() < 0.4, rng.choice([1, 2, 2, 3])
        kind = rng.choice(list(SUPPORTS)) if m > 1 else "categorical"
        sees = tuple(n.name for n in nodes if n.static >= static and rng.random() < 0.6)
        m = 2 if kind == "bernoulli" else m
        nodes.append(Node(f"s{i}", kind, m, static, sees))
    return nodes


def sample(node, logits):
    """The site; its choice as an index."""
    if node.kind == "categorical":
        return pyro.sample(node.name, dist.Categorical(logits=logits))
    if node.kind == "one-hot":
        drawn = pyro.sample(node.name, dist.OneHotCategorical(logits=logits))
        return (drawn * torch.arange(node.m)).sum(-1).long()
    odds = logits[..., 1] - logits[..., 0]
    return pyro.sample(node.name, dist.Bernoulli(logits=odds)).long()


def make_program(seed):
    rng, draw = random.Random(seed), Draw(seed=seed)
    n, nodes = rng.choice([1, 2, 3, 4]), make_nodes(rng)
    sizes = {node.name: node.m for node in nodes}

    def table(names, *more):
        return names, draw.weight(*(sizes[name] for name in names), *more)

    tables = {node.name: table(node.sees, node.m) for node in nodes}
    slopes = {node.name: draw.weight(2, node.m) for node in nodes}
    mean = table([name for name in sizes if rng.random() < 0.8] or ["s0"])
    fixed = [node.name for node in nodes if node.static]
    outer = table(fixed) if fixed and rng.random() < 0.4 else None
    repeats, hides = rng.choice([1, 2]), rng.random() < 0.3
    seen = torch.arange(n) % 2 == 0

    def look_up(entry, choice):
        names, values = entry
        return values[tuple(choice[name] for name in names)] if names else values

    def model(x, y):
        plate, choice = pyro.plate("rows", len(x), dim=-1), {}
        for node in nodes:
            logits = look_up(tables[node.name], choice)
            if node.static:
                choice[node.name] = sample(node, logits)
                continue
            with plate:
                choice[node.name] = sample(node, logits + x @ slopes[node.name])
        if outer is not None:
            prior = dist.Normal(look_up(outer, choice), 1.0)
            pyro.sample("outside", prior, obs=x.new_tensor(0.2))
        value = dist.Normal(look_up(mean, choice) * x[:, 0], 1.0)
        with plate, poutine.mask(mask=seen if hides else True):
            if repeats == 1:
                return pyro.sample("y", value, obs=y[:, 0])
            with pyro.plate("repeats", 2, dim=-2):
                return pyro.sample("y", value, obs=y.T)

    sites = {
        node.name: truth.Choice(SUPPORTS[node.kind](node.m), node.static)
        for node in nodes
    }
    data = draw.data(n, 2), draw.data(n, repeats)
    return Program(model, data, sites, draw.parameters)


@pytest.mark.parametrize("seed", range(60))
def test_a_random_program(seed):
    model, args, sites, parameters = make_program(seed)
    table, n = truth.tabulate(model, args, sites), len(args[0])

    def agree(ours, expected):
        truth.assert_agree(ours, expected)
        truth.assert_agree(
            truth.gradient(ours.sum(), parameters),
            truth.gradient(expected.sum(), parameters),
        )

    agree(log_marginal(model, *args), truth.log_marginal(table))
    posterior = route_posterior(model, *args).log_probs.exp()
    truth.assert_agree(posterior, truth.log_posterior(table).exp())
    # A minibatch: the first n of three times as many examples.
    batch = (*args, torch.arange(n))
    common = {"parameters": parameters, "n_data": 3 * n}
    marginal = truth.log_marginal(table, data_scale=3.0 if any(table.static) else 1.0)
    expected = -marginal / (3 * n) if any(table.static) else -marginal.mean()
    agree(build("exact", model, **common)(*batch), expected)
    elbo = build("exact", model, target="router-elbo", **common)(*batch)
    agree(elbo, -truth.router_elbo(table, n_data=3 * n))
    if all(table.static) or not any(table.static):
        weights = {"capacity": len(table.routes), "w_fresh": 0.0, "w_buffer": 1.0}
        whole = build("topk-buffer", model, seed=0, **weights, **common)(*batch)
        truth.assert_agree(
            truth.gradient(whole, parameters), truth.gradient(expected, parameters)
        )
    seen, router = evaluate(model, *args, draws=2), truth.log_router(table)
    truth.assert_agree(seen.log_marginal, (router + table.likelihood).logsumexp(0))
    weight = truth.joint_posterior(table)
    truth.assert_agree(seen.route_probs, truth.site_marginals(table, weight))
    truth.assert_agree(seen.router_probs, truth.site_marginals(table, router.exp()))


def test_the_random_programs_are_of_every_kind():
    programs = [make_program(seed) for seed in range(60)]
    kinds = {tuple(s.static for s in p.sites.values()) for p in programs}
    assert {(True, False), (False, True)} <= {k[:2] for k in kinds}
    assert any(all(kind) for kind in kinds) and any(not any(k) for k in kinds)
    assert {len(p.args[0]) for p in programs} == {1, 2, 3, 4}
    assert {p.args[1].shape[1] for p in programs} == {1, 2}
