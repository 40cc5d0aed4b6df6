"""Every method of `inference.METHODS` keeps one contract: loss, seeds, rows, training.

The table is read here, so that a method added to it is tested with no line added. The
first four take every program. One added later may refuse static routing, or programs
without a module bank, in one clear line as it is built or first called: what it refuses
is asked no more; all else holds for it too.
"""

import copy
import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from latentroute import inference
from latentroute.inference import METHODS, Method, Objective, build, fit, log_marginal
from latentroute.models import LayeredNetwork
from tests import brute_force as truth

UNBIASED_FOR = {"marginal", "elbo", "importance", None}
TAKE_EVERYTHING = ("exact", "score-function", "hard-em", "topk-buffer")
N, F, CLASSES = 12, 2, 3

every_method = pytest.mark.parametrize("method", list(METHODS))
# Costly ones: static routing under the methods that must take it.
trainings = pytest.mark.parametrize(
    ("method", "routing"),
    [(method, "dynamic") for method in METHODS]
    + [(method, "static") for method in TAKE_EVERYTHING],
)
both_routings = pytest.mark.parametrize("routing", ["dynamic", "static"])


def takes(method, model, parameters=None):
    """Whether a method takes a program; a refusal must be one clear line."""
    x, y = make_data()
    try:
        objective = build(
            method, model, parameters=parameters, n_data=N, example=(x[:3], y[:3])
        )
        objective(x, y)
    except ValueError as refusal:
        assert method not in TAKE_EVERYTHING, refusal
        assert "\n" not in str(refusal) and len(str(refusal)) > 20
        return False
    return True


def make_net(routing="dynamic", seed=0, **options):
    shape = {"n_layers": 2, "n_modules": 3, "hidden_features": 4} | options
    net = LayeredNetwork(F, CLASSES, routing=routing, **shape)
    truth.randomise(net, seed)
    return net


def make_data(n=N, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, F, generator=generator)
    return x, torch.randint(CLASSES, (n,), generator=generator)


class Bare(NamedTuple):
    """A bare Pyro function with two categorical sites, and what it trains."""

    model: object
    parameters: list


def make_bare(*, leaves=nn.Parameter):
    generator = torch.Generator().manual_seed(2)

    def weight(*shape):
        values = torch.randn(shape, generator=generator)
        return leaves(values) if leaves is nn.Parameter else values.requires_grad_()

    first, second, out = weight(F, 3), weight(3, 2), weight(3, 2, CLASSES)

    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=x @ first))
            b = pyro.sample("b", dist.Categorical(logits=second[a]))
            return pyro.sample("y", dist.Categorical(logits=out[a, b]), obs=y)

    return Bare(model, [first, second, out])


def make_learnable(n=96):
    """Two clusters, one rotated and one mirrored: a task for two modules."""
    generator = torch.Generator().manual_seed(3)
    side = torch.arange(n) % 2
    x = torch.randn(n, F, generator=generator) + 3.0 * (2 * side - 1).unsqueeze(-1)
    y = torch.where(side == 0, x[:, 0] > -3, x[:, 1] < 3).long()
    return x, y


def grads(loss, parameters):
    return truth.gradient(loss, list(parameters))


# The table itself.


def test_the_table_holds_every_exported_method():
    classes = {type(method) for method in METHODS.values()}
    exported = {
        value
        for value in vars(inference).values()
        if isinstance(value, type) and issubclass(value, Method) and value is not Method
    }
    assert exported <= classes
    assert {"exact", "score-function", "hard-em", "topk-buffer"} <= set(METHODS)


@every_method
def test_a_method_is_a_value_that_says_what_it_is(method):
    value = METHODS[method]
    assert isinstance(value, Method)
    assert value.unbiased_for in UNBIASED_FOR
    assert value.summary and "\n" not in value.summary and value.wiring
    assert value == copy.deepcopy(value) and hash(value) == hash(copy.deepcopy(value))
    with pytest.raises(dataclasses.FrozenInstanceError):
        for field in dataclasses.fields(value):
            setattr(value, field.name, None)
    assert dataclasses.replace(value) == value


@every_method
def test_a_method_is_built_by_name_and_by_value(method):
    x, y = make_data()
    losses = [
        build(way, make_net(), n_data=N, seed=5)(x, y)
        for way in (method, METHODS[method])
    ]
    assert torch.equal(*losses)
    with pytest.raises(TypeError, match="method must be a name or a Method"):
        build(METHODS[method].__class__, make_net())


# The loss.


@both_routings
@every_method
def test_the_loss_is_a_differentiable_scalar(method, routing):
    if not takes(method, make_net(routing)):
        return
    net, (x, y) = make_net(routing), make_data()
    objective = build(method, net, n_data=N, seed=0)
    assert isinstance(objective, nn.Module) and isinstance(objective, Objective)
    loss = objective(x, y)
    assert loss.shape == () and loss.dtype == torch.float32
    assert torch.isfinite(loss)
    loss.backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    moved = [p for p in net.parameters() if p.grad.abs().sum() > 0]
    assert len(moved) > 0.7 * len(list(net.parameters()))


@both_routings
@every_method
def test_float64_and_odd_widths(method, routing):
    if not takes(method, make_net(routing)):
        return
    net = make_net(routing, hidden_features=3, n_modules=5).double()
    x, y = make_data(7)
    loss = build(method, net, n_data=7, seed=0)(x.double(), y)
    assert loss.dtype == torch.float64 and torch.isfinite(loss)
    loss.backward()


@every_method
def test_the_loss_is_a_mean_over_the_batch(method):
    """A batch and four copies of it have losses of one size."""
    net, (x, y) = make_net(), make_data(64)

    def mean_loss(copies):
        objective = build(method, net, n_data=256, seed=0)
        batch = x.repeat(copies, 1), y.repeat(copies), torch.arange(64 * copies)
        with torch.no_grad():
            return sum(objective(*batch).item() for _ in range(10)) / 10

    assert mean_loss(4) == pytest.approx(mean_loss(1), rel=0.25)


@pytest.mark.parametrize("method", TAKE_EVERYTHING)
def test_no_loss_lies_below_minus_the_best_routes_likelihood(method):
    """-loss is no more than mean max_a log p(y | x, a)."""
    net, (x, y) = make_net(), make_data()
    table = truth.tabulate_rows(net, (x, y), truth.network_sites(2, 3))
    objective = build(method, net, n_data=N, seed=0)
    for _ in range(5):
        assert -objective(x, y) <= table.likelihood.max(0).values.mean() + 1e-5


# Parameters.


@both_routings
@every_method
def test_parameters_are_the_models(method, routing):
    if not takes(method, make_net(routing)):
        return
    net, example = make_net(routing), make_data(3)
    objective = build(method, net, n_data=N, example=example)
    own = {id(p) for p in net.parameters()}
    listed = {id(p) for p in objective.parameters()}
    assert own <= listed
    # What more there is belongs to a guide, and is there before an optimiser is made.
    if method in TAKE_EVERYTHING:
        assert own == listed
    objective(*make_data()).backward()
    assert listed == {id(p) for p in objective.parameters()}
    chosen = {id(p) for p in net.head.parameters()}
    objective = build(
        method, net, parameters=net.head.parameters(), n_data=N, example=example
    )
    now = {id(p) for p in objective.parameters()}
    assert chosen <= now
    if method in TAKE_EVERYTHING:
        assert chosen == now


@every_method
@pytest.mark.parametrize("leaves", [nn.Parameter, torch.Tensor], ids=["nn", "plain"])
def test_a_bare_pyro_function_with_parameters_passed_in(method, leaves):
    if not takes(method, *make_bare()):
        return
    model, parameters = make_bare(leaves=leaves)
    x, y = make_data()
    objective = build(
        method, model, parameters=parameters, n_data=N, seed=0, example=(x, y)
    )
    listed = [id(p) for p in objective.parameters()]
    assert {id(p) for p in parameters} <= set(listed)
    assert len(set(listed)) == len(listed), "listed twice"
    objective(x, y).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters)
    optimiser = torch.optim.SGD(objective.parameters(), lr=0.1)
    before = [p.detach().clone() for p in parameters]
    optimiser.step()
    assert not any(torch.equal(p, b) for p, b in zip(parameters, before, strict=True))


@every_method
def test_a_generator_of_parameters_is_used_up_only_once(method):
    if not takes(method, *make_bare()):
        return
    model, parameters = make_bare()
    objective = build(method, model, parameters=(p for p in parameters), n_data=N)
    listed = list(objective.parameters())
    assert len(listed) == len(list(objective.parameters())) >= 3


@every_method
def test_a_bare_function_without_parameters_is_refused(method):
    with pytest.raises(ValueError, match="parameters="):
        build(method, make_bare().model, n_data=N)


@every_method
def test_nothing_enters_pyros_parameter_store(method):
    pyro.clear_param_store()
    fit(make_net(), make_data(), method, steps=2)
    assert not list(pyro.get_param_store())


# Random numbers.


def losses_of(objective, x, y, n=4):
    with torch.no_grad():
        return torch.stack([objective(x, y) for _ in range(n)])


@both_routings
@every_method
def test_a_seed_starts_one_stream(method, routing):
    if not takes(method, make_net(routing)):
        return
    net, (x, y) = make_net(routing), make_data()
    one, two, other = (build(method, net, n_data=N, seed=s) for s in (7, 7, 8))
    torch.manual_seed(0)
    first = losses_of(one, x, y)
    torch.manual_seed(123)
    torch.rand(5)
    assert torch.equal(first, losses_of(two, x, y))
    assert torch.isfinite(losses_of(other, x, y)).all()


@every_method
def test_successive_calls_are_independent_draws(method):
    """Where the seed matters, calls in a row differ; else they are the same."""
    net, (x, y) = make_net(), make_data()

    def drawn(seed):
        objective = build(method, net, n_data=N, seed=seed)
        return [grads(objective(x, y), net.parameters()) for _ in range(3)]

    first, other = drawn(7), drawn(8)
    random = not torch.equal(first[0], other[0])
    assert random == (not torch.equal(first[0], first[1]))
    if not random:
        assert METHODS[method].unbiased_for in ("marginal", None)


@both_routings
@every_method
def test_a_seed_leaves_the_global_random_state_alone(method, routing):
    if not takes(method, make_net(routing)):
        return
    net, (x, y) = make_net(routing), make_data()
    torch.manual_seed(4)
    state = torch.get_rng_state()
    objective = build(method, net, n_data=N, seed=7, example=(x, y))
    objective(x, y).backward()
    objective(x, y)
    assert torch.equal(state, torch.get_rng_state())
    fit(net, (x, y), method, steps=2, seed=3)
    assert torch.equal(state, torch.get_rng_state())


@every_method
def test_without_a_seed_torchs_own_state_is_drawn_from(method):
    net, (x, y) = make_net(), make_data()

    def drawn(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return losses_of(build(method, net, n_data=N), x, y)

    def differ(losses):
        return len({tuple(each.tolist()) for each in losses}) > 1

    assert torch.equal(drawn(1), drawn(1))
    seeded = [build(method, net, n_data=N, seed=seed) for seed in range(5)]
    seeds_matter = differ([losses_of(objective, x, y) for objective in seeded])
    assert seeds_matter == differ([drawn(seed) for seed in range(5)])


# Which rows a batch holds.


@every_method
def test_no_index_means_all_rows_in_order(method):
    net, (x, y) = make_net(), make_data()
    one, two = (build(method, net, n_data=N, seed=1) for _ in range(2))
    for _ in range(3):
        assert torch.equal(one(x, y), two(x, y, torch.arange(N)))


@every_method
def test_no_index_for_a_part_of_the_rows_is_an_error(method):
    net, (x, y) = make_net(), make_data()
    objective = build(method, net, n_data=N, seed=1)
    with pytest.raises(ValueError, match="index is needed") as error:
        objective(x[:5], y[:5])
    text = str(error.value)
    assert "5" in text and str(N) in text and "\n" not in text
    longer = x.repeat(2, 1), y.repeat(2)
    with pytest.raises(ValueError, match="index is needed"):
        objective(*longer)


@every_method
@pytest.mark.parametrize("rows", [[0, N], [-1, 2]])
def test_an_index_out_of_range_is_an_error(method, rows):
    net, (x, y) = make_net(), make_data()
    objective = build(method, net, n_data=N, seed=1)
    with pytest.raises(ValueError, match=r"index must lie in 0 \.\. 11, got") as error:
        objective(x[:2], y[:2], torch.tensor(rows))
    assert "\n" not in str(error.value)


@every_method
@pytest.mark.parametrize("index", [torch.arange(3), torch.zeros(2, 1).long()])
def test_an_index_of_another_shape_is_an_error(method, index):
    net, (x, y) = make_net(), make_data()
    objective = build(method, net, n_data=N, seed=1)
    with pytest.raises(ValueError, match=r"index must have shape \(2,\)"):
        objective(x[:2], y[:2], index)


@both_routings
@every_method
def test_minibatches_in_any_order_and_a_last_one_that_is_smaller(method, routing):
    if not takes(method, make_net(routing)):
        return
    net, (x, y) = make_net(routing), make_data()
    objective = build(method, net, n_data=N, seed=1)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    for rows in order.split(5):  # 5, 5, 2
        loss = objective(x[rows], y[rows], rows)
        loss.backward()
        assert torch.isfinite(loss)
    one = torch.tensor([4])
    assert torch.isfinite(objective(x[one], y[one], one))


# Training.


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
    result = fit(net, (x, y), method, steps=80, batch_size=32, lr=0.05, log_every=80)
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
    settings = {"batch_size": 5, "seed": 3, "log_every": 5}

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
    (file,) = [p for p in tmp_path.rglob("*") if p.is_file()]
    state = torch.load(file, weights_only=True)
    assert state["step"] == 3 and len(state["history"]) == 3


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
