"""Routes guessed from inputs: the objective by its definition, clusters, orders."""

import itertools
import math

import numpy as np
import pyro.poutine as poutine
import pytest
import torch

from latentroute.analysis.matching import match_modules, one_hot
from latentroute.inference import Recover, build
from latentroute.inference.guesses import clarity, guess_routes, orders, whitened
from latentroute.inference.starts import guided_before
from latentroute.models import LayeredNetwork


def blocks(n=600, sizes=(3, 4), width=3, seed=0):
    """Inputs and a noisy one-hot block a decision; the columns are then mixed."""
    rng = np.random.default_rng(seed)
    routes = np.stack([rng.integers(m, size=n) for m in sizes], 1)
    parts = [3 * rng.standard_normal((n, width))]
    for column, m in zip(routes.T, sizes, strict=True):
        parts.append(np.eye(m)[column] + 0.15 * rng.standard_normal((n, m)))
    x = np.concatenate(parts, 1)
    mix = rng.standard_normal((x.shape[1], x.shape[1]))
    return torch.from_numpy((x @ mix).astype(np.float32)), torch.from_numpy(routes)


def agreement(found, true, m):
    labels = match_modules(one_hot(true.numpy(), m), one_hot(found.numpy(), m))
    return float((labels[found.numpy()] == true.numpy()).mean())


def test_clarity_is_information_less_that_of_pairs():
    """Against tables of joint probabilities, one entry at a time."""
    logits = torch.randn(2, 3, 7, 4, generator=torch.Generator().manual_seed(0))
    probs = torch.softmax(logits.double(), -1)
    found = clarity(probs)
    for r in range(2):
        p = probs[r].numpy()  # (L, N, M)
        value = sum(information(p[k] / 7) for k in range(3))
        for k, j in itertools.combinations(range(3), 2):
            value -= information(sum(np.outer(p[k, n], p[j, n]) for n in range(7)) / 7)
        assert found[r].item() == pytest.approx(value, rel=1e-9)


def information(table):
    """I of a joint table, by its definition."""
    a, b = table.sum(1), table.sum(0)
    return sum(
        table[i, j] * math.log(table[i, j] / (a[i] * b[j]))
        for i in range(len(a))
        for j in range(len(b))
        if table[i, j] > 0
    )


def test_white_inputs_have_unit_covariance_in_the_directions_that_vary():
    x, _ = blocks(200)
    twice = torch.cat([x, x[:, :2] + x[:, 1:3], torch.ones(200, 1)], 1)
    white = whitened(twice)
    assert white.shape == x.shape
    torch.testing.assert_close(
        white.T @ white / 200, torch.eye(x.shape[1]), atol=1e-3, rtol=0
    )
    assert whitened(torch.ones(5, 3)).shape == (5, 0)


def test_blocks_of_the_inputs_are_found_one_for_each_site():
    x, routes = blocks()
    found = guess_routes(x, (3, 4), seed=0)
    for site, m in enumerate((3, 4)):
        assert agreement(found[:, site], routes[:, site], m) > 0.97
    assert torch.equal(found, guess_routes(x, (3, 4), seed=0))


def test_orders_move_labellings_among_sites_with_as_many_choices():
    every = orders((2, 3, 2, 3), 24, seed=0)
    assert sorted(every) == [(0, 1, 2, 3), (0, 3, 2, 1), (2, 1, 0, 3), (2, 3, 0, 1)]
    some = orders((2,) * 9, 24, seed=0)
    assert len(set(some)) == 24
    assert all(sorted(order) == list(range(9)) for order in some)
    assert some != orders((2,) * 9, 24, seed=1)


def make_net():
    torch.manual_seed(0)
    return LayeredNetwork(
        10, 1, n_layers=2, n_modules=3, hidden_features=4, head="normal"
    )


def started(method, start):
    """An objective at the first step of a start, and its data."""
    x, _ = blocks(40, (3, 4))
    y = x.sum(1, keepdim=True).float()
    objective = build(method, make_net(), n_data=40, seed=3)
    objective.begin(100)
    for _ in range(1 + start * method.start_steps):
        objective.advance(x, y, torch.arange(40))
    return objective, x, y


def test_a_guided_step_is_of_the_joint_at_the_guessed_routes():
    objective, x, y = started(Recover(starts=3, start_steps=4), 1)
    guess, order, rows = objective._guess, objective._order, torch.arange(7)
    assert order is not None
    net = objective.evaluated
    values = {f"route_{i}": guess[rows, order[i]] for i in range(2)}
    trace = poutine.trace(poutine.condition(net, data=values)).get_trace(
        x[rows], y[rows]
    )
    trace.compute_log_prob()
    nodes = [trace.nodes[name]["log_prob"] for name in ("route_0", "route_1", "y")]
    expected = -sum(node.reshape(7, -1).sum() for node in nodes) / 7
    found = objective._guided_loss(x[rows], y[rows], rows, order)
    torch.testing.assert_close(found, expected)


def test_two_starts_in_three_are_guided_for_three_quarters_of_their_steps():
    objective, x, y = started(Recover(starts=7, start_steps=4), 0)
    seen = []
    for _ in range(27):
        seen.append(objective._order)
        objective.advance(x, y, torch.arange(40))
    seen.append(objective._order)
    guided = [[o is not None for o in seen[i : i + 4]] for i in range(0, 28, 4)]
    # after the step at a start's first move, _order is that of the second
    assert [any(g) for g in guided] == [False, True, True, False, True, True, False]
    used = [o for o in seen if o is not None]
    assert set(used) == {(0, 1), (1, 0)} and used[0] != used[2]
    assert [guided_before(s) for s in (1, 2, 4, 5, 7)] == [0, 1, 2, 3, 4]


def test_starts_are_free_without_guesses():
    objective, *_ = started(Recover(starts=3, start_steps=4, guesses=0), 1)
    assert objective._order is None and objective._guess is None
