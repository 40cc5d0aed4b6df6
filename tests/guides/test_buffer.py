"""Buffers of routes: what they keep, and the guide that they make."""

import itertools
import math

import pyro
import pytest
import torch
from pyro import poutine

from latentroute.guides import BufferGuide, RouteBuffer
from latentroute.inference import build
from latentroute.models import LayeredNetwork
from tests import brute_force as truth
from tests.statistics import assert_frequencies

N, L, M = 5, 2, 3


def buffer_of(routes, n_choices=(M, M), capacity=None):
    """A buffer whose example 0 .. holds the given routes."""
    routes = torch.tensor(routes)
    buffer = RouteBuffer(
        len(routes), n_choices, capacity=capacity or routes.shape[1], seed=0
    )
    scores = -torch.arange(routes.shape[1], dtype=torch.float32)
    index = torch.arange(len(routes))
    buffer.keep_best(
        index, routes.transpose(0, 1), scores[:, None].expand(-1, len(routes))
    )
    return buffer


def kept(buffer, row=0):
    """The routes and scores of one example, as plain Python."""
    return [
        (tuple(route), score)
        for route, score, filled in zip(
            buffer.routes[row].tolist(),
            buffer.scores[row].tolist(),
            buffer.filled[row].tolist(),
            strict=True,
        )
        if filled
    ]


# RouteBuffer.


@pytest.mark.parametrize(
    ("most", "dtype"), [(2, torch.int8), (127, torch.int8), (128, torch.int16)]
)
def test_small_integers_hold_every_choice(most, dtype):
    buffer = RouteBuffer(1, [2, most], capacity=2, seed=0)
    assert buffer.routes.dtype == dtype
    last = torch.tensor([[[1, most - 1]]])
    buffer.keep_best(torch.tensor([0]), last, torch.zeros(1, 1))
    routes, _ = buffer.rows(torch.tensor([0]))
    assert routes[0, 0].tolist() == [1, most - 1] and routes.dtype == torch.int64


def test_it_starts_with_one_random_route_an_example():
    buffer = RouteBuffer(2000, [3, 4], capacity=5, seed=0)
    assert buffer.filled.sum(1).eq(1).all() and buffer.filled[:, 0].all()
    assert torch.isneginf(buffer.scores).all()
    pairs = buffer.routes[:, 0, 0].long() * 4 + buffer.routes[:, 0, 1].long()
    assert_frequencies(pairs, torch.full((12,), 1 / 12))
    again = RouteBuffer(2000, [3, 4], capacity=5, seed=0)
    other = RouteBuffer(2000, [3, 4], capacity=5, seed=1)
    assert torch.equal(buffer.routes, again.routes)
    assert not torch.equal(buffer.routes, other.routes)


@pytest.mark.parametrize("capacity", [6, 7, 100])
def test_it_starts_full_where_it_holds_all_routes(capacity):
    buffer = RouteBuffer(2, [2, 3], capacity=capacity)
    assert buffer.capacity == 6 and buffer.filled.all()
    every = [list(route) for route in itertools.product(range(2), range(3))]
    assert sorted(buffer.routes[1].tolist()) == every


def test_memory_is_as_documented():
    buffer = RouteBuffer(10, [3] * 7, capacity=4, seed=0)
    taken = sum(b.numel() * b.element_size() for b in buffer.buffers())
    assert taken == 10 * 4 * (7 + 5)


def test_the_best_distinct_candidates_are_kept():
    buffer = buffer_of([[[0, 0]]], capacity=3)
    candidates = [[0, 1], [2, 2], [0, 1], [1, 1], [2, 0]]
    scores = [3.0, 1.0, 3.0, 5.0, 2.0]
    buffer.keep_best(
        torch.tensor([0]),
        torch.tensor(candidates)[:, None],
        torch.tensor(scores)[:, None],
    )
    assert kept(buffer) == [((1, 1), 5.0), ((0, 1), 3.0), ((2, 0), 2.0)]


def test_duplicates_leave_room_to_no_one():
    """Fewer distinct candidates than places: the rest stays empty."""
    buffer = buffer_of([[[0, 0]]], capacity=3)
    buffer.keep_best(
        torch.tensor([0]), torch.tensor([[[1, 1]]] * 4), torch.tensor([[1.0]] * 4)
    )
    assert kept(buffer) == [((1, 1), 1.0)]
    places, filled = buffer.rows(torch.tensor([0]))
    assert filled.flatten().tolist() == [True, False, False]
    assert places.shape == (3, 1, 2)


def test_ties_keep_the_earlier_candidate():
    for order in itertools.permutations([[0, 0], [1, 1], [2, 2]]):
        buffer = buffer_of([[[0, 0]]], capacity=2)
        buffer.keep_best(
            torch.tensor([0]), torch.tensor(order)[:, None], torch.zeros(3, 1)
        )
        assert [list(route) for route, _ in kept(buffer)] == list(order)[:2]


def test_scores_that_are_no_number_lose():
    buffer = buffer_of([[[0, 0]]], capacity=2)
    candidates = torch.tensor([[0, 0], [1, 1], [2, 2], [0, 2]])[:, None]
    scores = torch.tensor([math.nan, -math.inf, -1e30, 0.0])[:, None]
    buffer.keep_best(torch.tensor([0]), candidates, scores)
    assert [route for route, _ in kept(buffer)] == [(0, 2), (2, 2)]


def test_only_the_rows_of_the_batch_change():
    buffer = buffer_of([[[0, 0]], [[1, 1]], [[2, 2]]], capacity=2)
    candidates = torch.tensor([[[0, 1], [1, 0]]])  # one candidate for rows 2 and 0
    buffer.keep_best(torch.tensor([2, 0]), candidates, torch.tensor([[1.0, 2.0]]))
    assert kept(buffer, 0) == [((1, 0), 2.0)]
    assert kept(buffer, 1) == [((1, 1), 0.0)]
    assert kept(buffer, 2) == [((0, 1), 1.0)]


def test_a_score_of_minus_infinity_is_kept_where_nothing_better_is():
    buffer = buffer_of([[[0, 0]]], capacity=3)
    candidates = torch.tensor([[0, 0], [0, 0], [1, 1]])[:, None]
    scores = torch.tensor([1.0, 1.0, -math.inf])[:, None]
    buffer.keep_best(torch.tensor([0]), candidates, scores)
    assert [route for route, _ in kept(buffer)] == [(0, 0), (1, 1)]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_rows_are_numbered_by_any_whole_numbers(dtype):
    buffer = buffer_of([[[0, 0]], [[1, 1]]], capacity=1)
    index = torch.tensor([1], dtype=dtype)
    buffer.keep_best(index, torch.tensor([[[2, 2]]]), torch.ones(1, 1))
    assert kept(buffer, 1) == [((2, 2), 1.0)]
    assert buffer.rows(index)[0].tolist() == [[[2, 2]]]


@pytest.mark.parametrize("few", [8, 0], ids=["by passes", "sorted"])
def test_random_candidates_against_plain_python(few, monkeypatch):
    monkeypatch.setattr("latentroute.guides.buffer._FEW", few)
    generator = torch.Generator().manual_seed(0)
    for capacity in (1, 2, 4, 9):
        buffer = RouteBuffer(N, [M, M], capacity=capacity, seed=0)
        candidates = torch.randint(M, (7, N, L), generator=generator)
        scores = torch.randint(4, (7, N), generator=generator).float()
        buffer.keep_best(torch.arange(N), candidates, scores)
        for row in range(N):
            routes = map(tuple, candidates[:, row].tolist())
            found = zip(routes, scores[:, row].tolist(), strict=True)
            best = {}
            for route, score in sorted(found, key=lambda item: -item[1]):
                best.setdefault(route, score)
            assert kept(buffer, row) == list(best.items())[:capacity]


# BufferGuide as a Pyro program.


def filled_guide(*, seed=0, capacity=4, scored=True, n_rows=N):
    guide = BufferGuide(["a", "b"], [M, M], n_rows, capacity=capacity, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    if scored:
        candidates = torch.randint(M, (6, n_rows, L), generator=generator)
        scores = torch.randn(6, n_rows, generator=generator)
        guide.buffer.keep_best(torch.arange(n_rows), candidates, scores)
    return guide


def buffered_probabilities(guide, row):
    """q of every route, from what the buffer holds: softmax of the scores."""
    probs = torch.zeros(M, M)
    routes = kept(guide.buffer, row)
    weights = torch.tensor([score for _, score in routes]).softmax(0)
    for (route, _), weight in zip(routes, weights.tolist(), strict=True):
        probs[route] += weight
    return probs


def test_joint_probabilities_of_buffered_routes():
    """Every route that all examples hold: its log_prob in a trace is its weight."""
    guide = filled_guide()
    x = torch.zeros(N, 1)
    for place in range(guide.buffer.capacity):
        full = guide.buffer.filled[:, place]
        routes = torch.where(
            full[:, None], guide.buffer.routes[:, place], guide.buffer.routes[:, 0]
        ).long()
        data = {"a": routes[:, 0], "b": routes[:, 1]}
        trace = poutine.trace(pyro.condition(guide, data=data)).get_trace(x)
        trace.compute_log_prob()
        log_q = trace.nodes["a"]["log_prob"] + trace.nodes["b"]["log_prob"]
        expected = [
            buffered_probabilities(guide, row)[tuple(routes[row].tolist())]
            for row in range(N)
        ]
        truth.assert_agree(log_q.exp(), torch.stack(expected))


def test_it_samples_what_it_holds_as_often_as_it_should():
    guide, rows = filled_guide(), torch.tensor([3, 0])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        with pyro.plate("draws", 3000, dim=-2):
            drawn = guide(torch.zeros(2, 1), None, rows)
    assert drawn.shape == (3000, 2, L)
    for i, row in enumerate(rows.tolist()):
        probs = buffered_probabilities(guide, row)
        pairs = drawn[:, i, 0] * M + drawn[:, i, 1]
        assert_frequencies(pairs, probs.reshape(-1))


def test_its_sites_stand_in_the_data_plate():
    trace = poutine.trace(filled_guide()).get_trace(torch.zeros(N, 1))
    for name in ("a", "b"):
        (frame,) = trace.nodes[name]["cond_indep_stack"]
        assert frame.dim == -1 and frame.size == N


@pytest.mark.parametrize("n", [1, 3])
def test_of_a_static_model_its_sites_stand_outside_every_plate(n):
    """Also where the batch holds one example, which is row 7 of the data."""
    net = LayeredNetwork(
        1, 2, n_layers=2, n_modules=M, hidden_features=2, routing="static"
    )
    x, y = torch.zeros(8, 1), torch.zeros(8, dtype=torch.long)
    guide = build("hard-em", net, n_data=8, example=(x, y)).guide
    index = torch.arange(8)[-n:]
    trace = poutine.trace(guide).get_trace(x[:n], y[:n], index)
    for name in ("route_0", "route_1"):
        assert trace.nodes[name]["cond_indep_stack"] == ()
        assert trace.nodes[name]["value"].shape == ()


def test_a_dynamic_guide_of_one_row_is_dynamic():
    trace = poutine.trace(filled_guide(n_rows=1)).get_trace(torch.zeros(1, 1))
    assert trace.nodes["a"]["cond_indep_stack"][0].dim == -1


def test_before_any_score_it_samples_what_it_starts_with():
    guide = filled_guide(scored=False)
    drawn = guide(torch.zeros(N, 1))
    assert torch.equal(drawn, guide.buffer.routes[:, 0].long())


def test_a_route_it_does_not_hold_has_probability_zero():
    """The joint of such a route, as another program may ask for it."""
    guide = filled_guide(n_rows=1)
    held = [route for route, _ in kept(guide.buffer)]
    for route in itertools.product(range(M), repeat=L):
        if route in held:
            continue
        data = {"a": torch.tensor([route[0]]), "b": torch.tensor([route[1]])}
        trace = poutine.trace(pyro.condition(guide, data=data)).get_trace(
            torch.zeros(1, 1)
        )
        trace.compute_log_prob()
        log_q = trace.nodes["a"]["log_prob"] + trace.nodes["b"]["log_prob"]
        # Pyro's Categorical knows no probability below the least of its floats.
        assert log_q.item() < -10


def test_bad_guides():
    for options, text in [
        ({"capacity": 0}, "capacity must be a whole number >= 1, got 0"),
        ({"n_samples": 0}, "n_samples must be a whole number >= 1, got 0"),
        ({"interval": 0.5}, "interval must be a whole number >= 1, got 0.5"),
        ({"score": "jiont"}, "score must be one of joint, likelihood, prior"),
    ]:
        with pytest.raises(ValueError) as error:
            BufferGuide(["a"], [2], 4, **options)
        assert text in str(error.value) and "\n" not in str(error.value)


def test_what_is_kept_of_an_example_that_stands_twice_in_a_batch():
    """Each time its own candidates and flags, whatever the other time writes."""
    generator = torch.Generator().manual_seed(0)
    candidates = torch.randint(2, (4, 2, 2), generator=generator)
    candidates[:, 0] = 1  # one route four times
    scores = torch.randn(4, 2, generator=generator)
    both = RouteBuffer(1, (2, 2), capacity=3, seed=0)
    order, filled = both.keep_best(torch.tensor([0, 0]), candidates, scores)
    for i in range(2):
        alone = RouteBuffer(1, (2, 2), capacity=3, seed=0)
        found = alone.keep_best(torch.tensor([0]), candidates[:, [i]], scores[:, [i]])
        assert torch.equal(found[0], order[:, [i]])
        assert torch.equal(found[1], filled[:, [i]])
    assert filled[:, 0].tolist() == [True, False, False]
