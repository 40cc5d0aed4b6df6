"""Every method: training helps, repeats bit for bit, and goes on from a checkpoint."""

import math
from collections.abc import Mapping

import torch

from latentroute.inference import Method, build, fit, log_marginal
from latentroute.models import LayeredNetwork
from tests.contracts.methods import (
    RESUMED,
    SMALL,
    TAKE_EVERYTHING,
    F,
    N,
    every_method,
    make_bare,
    make_data,
    make_learnable,
    make_net,
    takes,
    trainings,
)


@trainings
def test_fit_raises_the_mean_log_marginal(method, routing):
    x, y = make_learnable()
    torch.manual_seed(0)
    net = LayeredNetwork(
        F, 2, n_layers=1, n_modules=2, hidden_features=6, routing=routing
    )

    def per_example():
        return log_marginal(net, x, y).sum().item() / len(x)

    before = per_example()
    options = {"steps": 80, "batch_size": 32, "lr": 0.05, "log_every": 80}
    result = fit(net, (x, y), method, **options, **SMALL.get(method, {}))
    after = per_example()
    assert after > before + 0.1
    if method in TAKE_EVERYTHING:
        assert after > -0.55  # half the labels are of each class: chance is -0.69
    assert result.model is net
    assert [row["step"] for row in result.history] == list(range(1, 81))
    assert isinstance(result.method, Method)
    first, last = (
        sum(row["loss"] for row in rows) / 20
        for rows in (result.history[:20], result.history[-20:])
    )
    assert last < first


@every_method
def test_fit_of_a_bare_function(method):
    if not takes(method, *make_bare()):
        return
    model, parameters = make_bare()
    x, y = make_data(48)
    y = (x[:, 0] > 0).long()
    before = log_marginal(model, x, y).mean().item()
    options = {"steps": 60, "batch_size": 16, "lr": 0.05, "log_every": 60}
    options |= SMALL.get(method, {})
    fit(model, (x, y), method, parameters=parameters, **options)
    assert log_marginal(model, x, y).mean().item() > before + 0.1


@trainings
def test_fit_is_reproducible_bit_for_bit(method, routing):
    def run(seed=5):
        net = make_net(routing)
        torch.manual_seed(int(torch.randint(1000, ())))  # whatever state torch is in
        result = fit(
            net, make_data(), method, steps=5, batch_size=5, seed=seed, log_every=5
        )
        return net, [row["loss"] for row in result.history]

    (one, first), (two, second), (_, other) = run(), run(), run(6)
    assert first == second
    assert first != other
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)


@trainings
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(method, routing, tmp_path):
    settings = {"batch_size": 5, "lr": 0.02, "seed": 3, "log_every": 4}
    settings |= RESUMED.get(method, {})
    whole = make_net(routing)
    uninterrupted = fit(whole, make_data(), method, steps=11, **settings)
    fit(
        make_net(routing), make_data(), method, steps=4, checkpoint=tmp_path, **settings
    )
    # The process is another one: another start of the weights, another torch state.
    torch.manual_seed(999)
    parts = make_net(routing, seed=77)
    resumed = fit(
        parts,
        make_data(),
        method,
        steps=11,
        checkpoint=tmp_path,
        resume=True,
        **settings,
    )
    assert [row["loss"] for row in resumed.history] == [
        row["loss"] for row in uninterrupted.history
    ]
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(a, b)
    assert same(uninterrupted.objective.state_dict(), resumed.objective.state_dict())


def same(one, other):
    """Equality of nested containers, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@every_method
def test_resuming_a_bare_function(method, tmp_path):
    if not takes(method, *make_bare()):
        return
    settings = {"batch_size": 5, "seed": 3, "log_every": 5, **RESUMED.get(method, {})}

    def run(steps, folder, **more):
        model, parameters = make_bare(leaves=torch.Tensor)
        fit(
            model,
            make_data(),
            method,
            parameters=parameters,
            steps=steps,
            checkpoint=folder,
            **settings,
            **more,
        )
        return parameters

    whole = run(8, tmp_path / "whole")
    run(3, tmp_path / "parts")
    parts = run(8, tmp_path / "parts", resume=True)
    for a, b in zip(whole, parts, strict=True):
        assert torch.equal(a, b)


@every_method
def test_checkpoints_hold_no_pickled_objects(method, tmp_path):
    fit(make_net(), make_data(), method, steps=3, checkpoint=tmp_path)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["step"] == 3 and len(state["history"]["losses"]) == 3


@every_method
def test_a_state_dict_carries_the_stream_and_the_guide(method):
    """Save after two calls, load into a fresh objective: both go on alike."""
    net, (x, y) = make_net(), make_data()
    one = build(method, net, n_data=N, seed=1, example=(x, y))
    one(x, y), one(x, y)
    two = build(method, make_net(seed=9), n_data=N, seed=2, example=(x, y))
    two.load_state_dict(one.state_dict())
    for _ in range(3):
        assert torch.equal(one(x, y), two(x, y))


@every_method
def test_history_follows_the_router(method):
    net, (x, y) = make_net(), make_data()
    result = fit(net, (x, y), method, steps=6, log_every=3)
    logged = [row for row in result.history if "h_a" in row]
    assert [row["step"] for row in logged] == [3, 6]
    for row in logged:
        assert 0 <= row["h_a"] <= row["h_b"] + 1e-6 <= math.log(3) + 1e-5
        assert len(row["h_a_layers"]) == len(row["h_b_layers"]) == 2
        assert row["seconds"] > 0
