"""Recovery: the prior against its density, starts, what is held out, what is chosen."""

import pyro
import pytest
import torch
from pyro import poutine

from latentroute import tasks
from latentroute.analysis.matching import match_modules, one_hot
from latentroute.inference import (
    Exact,
    Recover,
    build,
    default_network,
    evaluate,
    fit,
    log_marginal,
    route_posterior,
    starts,
)
from latentroute.inference.starts import (
    StartsObjective,
    log_prior,
    shuffled,
    split_rows,
)
from latentroute.models import LayeredNetwork

SEED = 1  # at which the last start is not the best
SHORT = {"start_steps": 4, "batch_size": 8}
BRIEF = Recover(start_steps=40, batch_size=32, lr=0.03)  # 3 starts in 180 steps


def make_net(seed=0):
    torch.manual_seed(seed)
    return LayeredNetwork(
        2, 1, n_layers=1, n_modules=2, hidden_features=4, head="normal"
    )


def make_data(n=40):
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(1))
    return x, x.sum(1, keepdim=True).sin()


def matrices(net):
    return [p for n, p in net.named_parameters() if p.dim() > 1 and "bias" not in n]


def test_the_loss_is_the_marginal_and_the_prior_by_their_definitions():
    net, (x, y) = make_net(), make_data()
    method = Recover()
    loss = build(method, net, n_data=len(x))(x, y)
    normal = torch.distributions.Normal(0.0, method.prior_scale(0))
    zero = normal.log_prob(torch.zeros(()))
    prior = sum((normal.log_prob(w) - zero).sum() for w in matrices(net))
    expected = -log_marginal(net, x, y).mean() - prior / len(x)
    torch.testing.assert_close(loss, expected)
    own = log_prior(matrices(net), method.prior_scale(0))
    torch.testing.assert_close(own.detach(), prior.detach())


def test_scales_spread_over_their_range():
    method = Recover(smallest=0.1, largest=10.0)
    logs = torch.tensor([method.prior_scale(i) for i in range(8)]).log10().sort().values
    assert logs.min() > -1 and logs.max() < 1
    assert logs.diff().max() < 0.5  # no gap of more than a quarter of the range
    assert Recover(smallest=0.5, largest=0.5).prior_scale(3) == pytest.approx(0.5)


def test_a_start_keeps_a_tensors_entries_in_another_order():
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    new = shuffled(weight, 1)
    assert new.shape == weight.shape and not torch.equal(new, weight)
    assert torch.equal(new.flatten().sort().values, weight.flatten().sort().values)
    assert torch.equal(shuffled(weight, 1), new)
    assert not torch.equal(shuffled(weight, 2), new)
    assert torch.equal(shuffled(torch.zeros(3, 3), 1), torch.zeros(3, 3))


def test_held_out_rows_are_not_trained_on():
    seen, held = split_rows(50, 0.1, seed=3)
    assert len(held) == 5 and sorted([*seen.tolist(), *held.tolist()]) == [*range(50)]
    rows = set()
    objective = build(
        Recover(starts=2, **SHORT), make_net(), n_data=50, seed=3, example=None
    )
    objective.begin(20)
    inner = objective._inner.forward
    objective._inner.forward = lambda x, y, i: (
        rows.update(i.tolist()),
        inner(x, y, i),
    )[1]
    x, y = make_data(50)
    for _ in range(8):
        objective.advance(x, y, torch.arange(50))
    assert rows and not rows & set(held.tolist())
    for _ in range(12):  # nor in the last phase
        objective.advance(x, y, torch.arange(50))
    assert len(rows) > 35 and not rows & set(held.tolist())


def test_the_best_start_goes_on():
    """Each start is scored where it ends, and the last phase begins at the best."""
    (x, y), scores, weights = make_data(), [], []
    method = Recover(starts=4, **SHORT)
    objective = build(method, make_net(), n_data=40, seed=SEED)
    objective.begin(17)
    _, held = split_rows(40, method.held_out, SEED)
    for step in range(16):
        if step % 4 == 0 and step:
            scores.append(score(objective, x[held], y[held]))
            weights.append(copied(objective))
        objective.advance(x, y, torch.arange(40))
    scores.append(score(objective, x[held], y[held]))
    weights.append(copied(objective))
    objective._turn(x, y, held)
    best = scores.index(max(scores))
    assert len(set(scores)) == 4 and best != 3  # else nothing had to be put back
    assert objective._start == objective._leader.start == best
    assert objective._leader.score == pytest.approx(max(scores))
    for name, value in objective._weights().items():
        assert torch.equal(value, weights[best][name])


def test_the_last_phase_ends_at_its_best_weights():
    """At a rate that ruins the weights, those it began with are the best."""
    (x, y), method = make_data(), Recover(starts=1, start_steps=40, final=0.5, lr=0.1)
    objective = build(method, make_net(), n_data=40, seed=SEED)
    objective.begin(80)
    _, held = split_rows(40, method.held_out, SEED)
    for _ in range(41):  # one of the last phase
        objective.advance(x, y, torch.arange(40))
    best = objective._leader.weights
    objective._rate = lambda late: 10.0
    for _ in range(39):
        objective.advance(x, y, torch.arange(40))
    for name, value in objective._weights().items():
        assert torch.equal(value, best[name])
    kept = objective._leader.score
    assert score(objective, x[held], y[held]) == pytest.approx(kept)


def test_a_killed_run_goes_on_bit_for_bit(tmp_path, monkeypatch):
    """Killed in the second start, and in the last phase."""
    method, data = Recover(starts=2, **SHORT), make_data()
    killed_and_resumed(method, data, 15, ((7, 0), (6, 5)), tmp_path, monkeypatch)


@pytest.mark.usefixtures("label_named_in_x")
def test_a_killed_run_whose_guess_was_confirmed_goes_on_bit_for_bit(
    tmp_path, monkeypatch
):
    """Killed in the first start, and where the search has ended with the second."""
    deaths = ((35, 0), (70, 5))  # in steps 35 and 100, with a checkpoint every 30
    objective = killed_and_resumed(
        BRIEF, labelled_data(), 180, deaths, tmp_path, monkeypatch, labelled_net, 30
    )
    assert objective._settled and objective._ended == 2 < objective._room


def killed_and_resumed(
    method, data, steps, deaths, tmp_path, monkeypatch, make=make_net, every=1
):
    """The last run's objective; the whole run and its parts are seen to be the same."""
    objectives = []

    def run(net, **more):
        return fit(net, data, method, steps=steps, log_every=50, **more)

    whole = make()
    uninterrupted = run(whole)
    advance = StartsObjective.advance
    left = [0]

    def killed(self, *args):
        objectives.append(self)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return advance(self, *args)

    monkeypatch.setattr(StartsObjective, "advance", killed)
    for left[0], seed in deaths:
        with pytest.raises(KeyboardInterrupt):
            run(make(seed), checkpoint=tmp_path, checkpoint_every=every, resume=True)
    left[0] = steps + 1  # lives
    torch.manual_seed(9)
    parts = make(7)
    resumed = run(parts, checkpoint=tmp_path, resume=True)
    losses = [[row["loss"] for row in r.history] for r in (uninterrupted, resumed)]
    assert losses[0] == losses[1] and len(losses[0]) == len(uninterrupted.history)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(a, b)
    return objectives[-1]


@pytest.fixture
def label_named_in_x(monkeypatch):
    """What a guess comes to on labelled data, in no time; guesses have own tests."""

    def guess_routes(x, n_choices, *, seed):
        return x[:, 1:].argmax(-1, keepdim=True)

    monkeypatch.setattr(starts, "guess_routes", guess_routes)


def labelled_data(n=400):
    """Four labels, named in x, each with a slope of its own."""
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(4, (n,), generator=generator)
    x = torch.cat([torch.randn(n, 1, generator=generator), torch.eye(4)[label]], -1)
    return x, torch.tensor([1.0, -1.0, 0.3, -2.0])[label].unsqueeze(-1) * x[:, :1]


def labelled_net(seed=0):
    torch.manual_seed(seed)
    sizes = {"n_layers": 1, "n_modules": 4, "hidden_features": 8}
    return LayeredNetwork(5, 1, head="normal", **sizes)


@pytest.mark.usefixtures("label_named_in_x")
def test_a_confirmed_guess_ends_the_search_and_guides_the_last_phase():
    x, y = labelled_data()
    objective = build(BRIEF, labelled_net(), n_data=len(x), seed=0)
    objective.begin(180)
    rows = torch.arange(len(x))
    for _ in range(81):
        assert not objective._settled
        objective.advance(x, y, rows)
    assert objective._settled and objective._start == 1
    guess = objective._guess
    joint = log_joint(objective.evaluated, x[:9], y[:9], guess[:9])
    torch.testing.assert_close(objective(x[:9], y[:9], rows[:9]), -joint.mean())


@pytest.mark.usefixtures("label_named_in_x")
def test_a_guess_that_y_does_not_confirm_guides_starts_alone():
    """Clusters that say nothing of y: no guided start is better than the free one."""
    x, _ = labelled_data()
    rows, y = torch.arange(len(x)), x[:, :1].sin()
    objective = build(BRIEF, labelled_net(), n_data=len(x), seed=0)
    objective.begin(180)
    for _ in range(150):
        objective.advance(x, y, rows)
    assert not objective._settled and objective._starts == objective._room == 3


def log_joint(net, x, y, routes):
    """log p(y, a | x) of each example, by Pyro's own conditioning."""
    given = pyro.condition(net, data={"route_0": routes[:, 0]})
    trace = poutine.trace(given).get_trace(x, y)
    trace.compute_log_prob()
    return trace.nodes["route_0"]["log_prob"] + trace.nodes["y"]["log_prob"]


def score(objective, x, y):
    return evaluate(objective.evaluated, x, y, draws=1).log_marginal.mean().item()


def copied(objective):
    return {name: w.clone() for name, w in objective._weights().items()}


def test_refusals_say_what_to_do():
    for options, message in (
        ({"final": 0.0}, "final must lie in"),
        ({"held_out": 1.0}, "held_out must lie in"),
        ({"smallest": 1.0, "largest": 0.5}, "in this order"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"starts": 0}, "starts must"),
    ):
        with pytest.raises(ValueError, match=message):
            Recover(**options)
    with pytest.raises(ValueError, match="3 starts of 4 steps take 12 steps"):
        fit(make_net(), make_data(), Recover(starts=3, **SHORT), steps=12)
    with pytest.raises(ValueError, match="n_data"):
        build("recover", make_net())


def test_two_clusters_are_told_apart_and_thirteen_of_fifteen_modules_are_idle():
    task = tasks.load("clusters", seed=1, n_train=300, n_test=100)
    torch.manual_seed(1)
    net = default_network(task, n_modules=15)
    method = Recover(inner=Exact(), start_steps=150, starts=2)
    fit(net, task, method, steps=450, seed=1, log_every=450)
    posterior = route_posterior(net, task.test.x, task.test.y)
    modes = posterior.routes[posterior.log_probs.argmax(-1)][:, 0].numpy()
    true = task.test.routes[:, 0].numpy()
    for module in set(modes.tolist()):
        assert len(set(true[modes == module].tolist())) == 1
    labels = match_modules(one_hot(true, 2), one_hot(modes, 15))
    assert (labels >= 0).sum() == 2
