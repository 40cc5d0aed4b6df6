"""Every method of `inference.METHODS` keeps one contract: loss, seeds, rows, training.

The table is read here, so that a method added to it is tested with no line added. The
first four take every program. One added later may refuse static routing, or programs
without a module bank, in one clear line as it is built or first called: what it refuses
is asked no more; all else holds for it too.
"""

import copy
import dataclasses

import pyro
import pytest
import torch
from torch import nn

from latentroute import inference
from latentroute.inference import METHODS, Method, Objective, build, fit
from tests import brute_force as truth
from tests.contracts.methods import (
    TAKE_EVERYTHING,
    N,
    both_routings,
    every_method,
    make_bare,
    make_data,
    make_net,
    takes,
)

UNBIASED_FOR = {"marginal", "elbo", "importance", None}


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
