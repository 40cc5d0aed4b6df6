"""Training on buffered routes: hard EM, and top-K buffers."""

import pytest
import torch

from latentroute.guides import BufferGuide
from latentroute.inference import TopKBuffer, build, fit
from latentroute.models import LayeredNetwork
from tests import brute_force as truth

N, L, M = 5, 2, 3


def make_net(routing="dynamic", dtype=torch.float64, seed=0):
    net = LayeredNetwork(
        2, 3, n_layers=L, n_modules=M, hidden_features=3, routing=routing
    ).to(dtype)
    truth.randomise(net, seed)
    return net


def make_data(dtype=torch.float64, n=N):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 2, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.randint(3, (n,), generator=generator)


both_routings = pytest.mark.parametrize("routing", ["dynamic", "static"])


@both_routings
def test_a_buffer_of_all_routes_has_the_exact_gradient(routing):
    net, (x, y) = make_net(routing), make_data()
    parameters = list(net.parameters())
    table = truth.tabulate(net, (x, y), truth.network_sites(L, M, 1, routing))
    marginal = -truth.log_marginal(table).sum() / N
    expected = truth.gradient(marginal, parameters)
    objective = build(
        "topk-buffer", net, n_data=N, seed=0, capacity=M**L, w_fresh=0.0, w_buffer=1.0
    )
    for _ in range(3):
        truth.assert_agree(truth.gradient(objective(x, y), parameters), expected)


def test_a_minibatch_of_a_static_model_with_all_routes():
    net, (x, y) = make_net("static"), make_data()
    parameters = list(net.parameters())
    table = truth.tabulate(net, (x, y), truth.network_sites(L, M, 1, "static"))
    marginal = -truth.log_marginal(table, data_scale=20 / N) / 20
    objective = build(
        "topk-buffer", net, n_data=20, seed=0, capacity=9, w_fresh=0.0, w_buffer=1.0
    )
    actual = truth.gradient(objective(x, y, torch.arange(N) + 3), parameters)
    truth.assert_agree(actual, truth.gradient(marginal, parameters))


@both_routings
@pytest.mark.parametrize("interval", [1, 3])
def test_capacity_one_is_hard_em_step_for_step(routing, interval):
    runs = []
    shared = {"interval": interval, "n_samples": 4}
    for method, options in [
        ("hard-em", shared),
        ("topk-buffer", {"capacity": 1, "w_fresh": 0.0, "w_buffer": 1.0, **shared}),
    ]:
        net = make_net(routing)
        result = fit(net, make_data(), method, steps=9, batch_size=2, seed=4, **options)
        runs.append((list(net.parameters()), [row["loss"] for row in result.history]))
    assert runs[0][1] == runs[1][1]
    for a, b in zip(runs[0][0], runs[1][0], strict=True):
        assert torch.equal(a, b)


def joint_table(net, args, routing="dynamic"):
    table = truth.tabulate(net, args, truth.network_sites(L, M, 1, routing))
    return table, table.likelihood + truth.log_router(table)


@pytest.mark.parametrize("score", ["joint", "likelihood", "prior"])
@both_routings
def test_what_is_kept_is_the_best_by_the_score(routing, score):
    """With ever more samples all routes are met: the best must have stayed."""
    net, (x, y) = make_net(routing), make_data()
    table, _ = joint_table(net, (x, y), routing)
    likelihood, prior = table.likelihood, table.prior
    if routing == "static":  # one route for all: the whole data speak
        likelihood = likelihood.sum(-1, keepdim=True)
        prior = table.static_prior.unsqueeze(-1)
    by = {"joint": likelihood + prior, "likelihood": likelihood, "prior": prior}[score]
    objective = build(
        "topk-buffer", net, n_data=N, seed=0, score=score, capacity=3, n_samples=400
    )
    with torch.no_grad():
        for _ in range(3):
            objective(x, y)
    buffer = objective.guide.buffer
    best = by.topk(3, dim=0)
    rows = len(buffer.routes)
    assert rows == (1 if routing == "static" else N)
    for row in range(rows):
        expected = table.routes[best.indices[:, row]].tolist()
        assert buffer.routes[row].tolist() == expected
    truth.assert_agree(buffer.scores.double(), best.values.T, 1e-6)


def test_hard_em_trains_on_the_joint_at_the_best_route():
    net, (x, y) = make_net(), make_data()
    parameters = list(net.parameters())
    _, joint = joint_table(net, (x, y))
    expected = -joint.max(0).values.mean()
    objective = build("hard-em", net, n_data=N, seed=0, n_samples=500)
    loss = objective(x, y)
    truth.assert_agree(loss, expected)
    truth.assert_agree(
        truth.gradient(loss, parameters), truth.gradient(expected, parameters)
    )


@pytest.mark.parametrize("weights", ["posterior", "uniform"])
def test_buffered_routes_are_weighted_and_never_pushed_down(weights):
    net, (x, y) = make_net(), make_data()
    parameters = list(net.parameters())
    _, joint = joint_table(net, (x, y))
    best = joint.topk(2, dim=0).values
    weight = best.detach().softmax(0) if weights == "posterior" else best * 0 + 0.5
    expected = -(weight.detach() * best).sum(0).mean()
    objective = build(
        "topk-buffer",
        net,
        n_data=N,
        seed=0,
        capacity=2,
        n_samples=500,
        weights=weights,
        w_fresh=0.0,
        w_buffer=1.0,
    )
    loss = objective(x, y)
    truth.assert_agree(loss, expected)
    truth.assert_agree(
        truth.gradient(loss, parameters), truth.gradient(expected, parameters)
    )


@both_routings
def test_no_weight_on_the_buffer_is_the_score_function(routing):
    net, (x, y) = make_net(routing), make_data()
    parameters = list(net.parameters())
    buffered = build(
        "topk-buffer", net, n_data=N, seed=6, n_samples=5, w_fresh=1.0, w_buffer=0.0
    )
    plain = build("score-function", net, n_data=N, seed=6, n_samples=5)
    for _ in range(3):
        one, two = buffered(x, y), plain(x, y)
        truth.assert_agree(one, two)
        truth.assert_agree(
            truth.gradient(one, parameters), truth.gradient(two, parameters)
        )


@both_routings
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"include_incumbent": False, "capacity": 6, "n_samples": 2},
        {"interval": 2},
        {"interval": 2, "include_incumbent": False},
    ],
    ids=str,
)
def test_the_two_parts_are_added_with_their_weights(options, routing):
    """With both parts in one run, and with none fresh, where the buffer has its own."""
    net, (x, y) = make_net(routing), make_data()
    parameters = list(net.parameters())

    def losses(w_fresh, w_buffer):
        weights = {"w_fresh": w_fresh, "w_buffer": w_buffer}
        objective = build("topk-buffer", net, n_data=N, seed=6, **weights, **options)
        # Two steps: with nothing fresh, none is drawn in the second of an interval.
        return [truth.gradient(objective(x, y), parameters) for _ in range(2)]

    parts = zip(losses(0.3, 2.0), losses(1.0, 0.0), losses(0.0, 1.0), strict=True)
    for both, fresh, buffered in parts:
        truth.assert_agree(both, 0.3 * fresh + 2.0 * buffered)


def test_scores_are_computed_anew_with_the_parameters_of_now():
    """An incumbent that has become worse than a fresh route must go."""
    net, (x, y) = make_net(), make_data()
    objective = build("topk-buffer", net, n_data=N, seed=0, capacity=3, n_samples=300)
    with torch.no_grad():
        objective(x, y)
        truth.randomise(net, 50)
        for _ in range(3):
            objective(x, y)
    _, joint = joint_table(net, (x, y))
    best = joint.topk(3, dim=0).values
    truth.assert_agree(objective.guide.buffer.scores.double(), best.T, 1e-6)


def test_incumbents_stay_while_nothing_better_is_proposed():
    """A router that proposes only one route: the better one found before stays."""
    net, (x, y) = make_net(), make_data()
    objective = build(
        "hard-em", net, n_data=N, seed=0, n_samples=300, score="likelihood"
    )
    with torch.no_grad():
        objective(x, y)
        best = objective.guide.buffer.routes.clone()
        for router in net.routers:  # from now on, nothing but module 0
            router.linear.bias[0] += 1e6
        objective(x, y)
        assert torch.equal(objective.guide.buffer.routes, best)
        forgets = build(
            "hard-em",
            net,
            n_data=N,
            seed=0,
            n_samples=3,
            score="likelihood",
            include_incumbent=False,
        )
        forgets(x, y)
        assert not forgets.guide.buffer.routes.any()


def test_between_equals_the_incumbent_stays():
    """All modules alike and the router uniform: no route is better than another."""
    net, (x, y) = make_net(), make_data()
    with torch.no_grad():
        for bank in net.banks:
            for parameter in bank.parameters():
                parameter.copy_(parameter[:1].expand_as(parameter))
        for router in net.routers:
            for parameter in router.parameters():
                parameter.zero_()
    objective = build("hard-em", net, n_data=N, seed=0, example=(x[:2], y[:2]))
    start = objective.guide.buffer.routes.clone()
    with torch.no_grad():
        for _ in range(5):
            objective(x, y)
    assert torch.equal(objective.guide.buffer.routes, start)


def test_without_incumbents_an_e_step_forgets_them():
    net, (x, y) = make_net(), make_data()
    objective = build(
        "topk-buffer",
        net,
        n_data=N,
        seed=0,
        capacity=5,
        n_samples=2,
        include_incumbent=False,
    )
    with torch.no_grad():
        for _ in range(4):
            objective(x, y)
            assert objective.guide.buffer.filled.sum(1).max() <= 2


def test_e_steps_come_at_their_interval():
    net, (x, y) = make_net(), make_data()
    objective = build("hard-em", net, n_data=N, seed=0, n_samples=3, interval=3)
    changed, before = [], None
    with torch.no_grad():
        for i in range(9):
            truth.randomise(net, 100 + i)  # other scores at every step
            objective(x, y)
            now = objective.guide.buffer.scores.clone()
            changed.append(before is None or not torch.equal(now, before))
            before = now
    assert changed == [True, False, False] * 3


def test_each_example_has_its_own_row():
    net, (x, y) = make_net(), make_data(n=8)
    objective = build("hard-em", net, n_data=8, seed=0, n_samples=400)
    start = build("hard-em", net, n_data=8, seed=0, example=(x[:2], y[:2]))
    first = start.guide.buffer.routes.clone()
    rows = torch.tensor([6, 1, 3])
    with torch.no_grad():
        objective(x[rows], y[rows], rows)
    table, joint = joint_table(net, (x, y))
    best = table.routes[joint.argmax(0)]
    routes = objective.guide.buffer.routes[:, 0].long()
    assert torch.equal(routes[rows], best[rows])
    others = torch.tensor([0, 2, 4, 5, 7])
    assert torch.equal(routes[others], first[others, 0].long())


def test_a_buffer_guide_of_ones_own_is_used():
    net, (x, y) = make_net(), make_data()
    guide = BufferGuide(["route_0", "route_1"], [M, M], N, capacity=2, seed=0)
    objective = TopKBuffer()(net, guide, n_data=N, seed=1)
    objective(x, y)
    assert objective.guide is guide and torch.isfinite(guide.buffer.scores[:, 0]).all()
    with pytest.raises(TypeError, match="takes a BufferGuide, got function"):
        TopKBuffer()(net, lambda x, y: None, n_data=N)


def test_a_buffer_needs_to_know_how_many_examples_there_are():
    for method in ("hard-em", "topk-buffer"):
        with pytest.raises(ValueError, match="pass n_data="):
            build(method, make_net())


def test_programs_of_both_static_and_dynamic_sites_are_refused_in_one_line():
    from tests.exact import programs

    model, args, _, parameters = programs.static_then_dynamic(programs.Draw())
    for method in ("hard-em", "topk-buffer"):
        objective = build(method, model, parameters=parameters, n_data=3)
        with pytest.raises(ValueError, match="all dynamic or all static") as error:
            objective(*args)
        assert "'s'" in str(error.value) and "\n" not in str(error.value)
