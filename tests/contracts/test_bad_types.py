"""What is of a type that nobody meant gets one line too, by us, before any training."""

import traceback

import numpy as np
import pytest
import torch

from latentroute import tasks
from latentroute.cli import raised_here
from latentroute.inference import compare, fit, log_marginal, route_posterior
from latentroute.models import LayeredNetwork
from tests.contracts.refusals import F, make_data, make_net, one_line

x, y = make_data()
CLUSTERS = tasks.load("clusters", n_train=20, n_valid=8, n_test=8)


def refused(call, kind, *parts):
    """In one line, raised by our own code: exit code 2 needs that."""
    one_line(call, *parts, kind=kind)
    try:
        call()
    except kind as error:
        assert raised_here(error.__traceback__), traceback.format_exc()


def parameter_twice():
    return [torch.ones(2, requires_grad=True)] * 2


@pytest.mark.parametrize(
    ("change", "kind", "part"),
    [
        ({"model": None}, TypeError, "^the model must be a Pyro program .* got None"),
        ({"model": LayeredNetwork}, TypeError, r"got the class LayeredNetwork: make"),
        ({"model": torch.nn.Linear(F, 3)}, TypeError, "got Linear, which takes"),
        ({"data": None}, TypeError, r"^data must be a task or a tuple .* got NoneType"),
        ({"data": "digits"}, TypeError, r"got 'digits': .*tasks\.load"),
        ({"data": x}, TypeError, "got Tensor$"),
        ({"data": (x, y, y)}, TypeError, "got tuple of Tensor, Tensor, Tensor"),
        ({"data": (x.numpy(), y.numpy())}, TypeError, "got tuple of ndarray, ndarray"),
        ({"data": ()}, TypeError, "got tuple of nothing"),
        ({"data": (x.to_sparse(), y)}, ValueError, "^x must hold .*sparse_coo"),
        ({"data": (x.to("meta"), y)}, ValueError, "^x must hold .* a meta tensor"),
        ({"method": None}, TypeError, "^method must be a name or a Method, got None"),
        ({"parameters": 3}, TypeError, "^parameters must be tensors to train, got 3"),
        ({"parameters": "w"}, TypeError, "^parameters must be leaf .* got str"),
        ({"parameters": parameter_twice()}, ValueError, "got one again at place 1"),
        ({"seed": 2**70}, ValueError, "^seed must be a whole number of 64 bits"),
        ({"seed": "a"}, ValueError, "^seed must be a whole number .* got 'a'"),
        ({"lr": "a"}, ValueError, "^lr must be positive, got 'a'"),
        ({"strategy": "ddp"}, TypeError, "^strategy must be SingleProcess.* 'ddp'"),
        ({"checkpoint": 3}, TypeError, "^checkpoint must be the path of a folder"),
        ({"checkpoint": ""}, TypeError, "^checkpoint must be the path of a folder"),
        ({"checkpoint": __file__}, ValueError, "^checkpoint must .*: it is a file"),
        ({"checkpoint": "a\0b"}, ValueError, "^checkpoint must .*: embedded null"),
        ({"checkpoint": "a" * 9000}, ValueError, "^checkpoint must .* name too long"),
        ({"tensorboard": __file__}, ValueError, "^tensorboard must .*: it is a file"),
        ({"regularisers": 3}, TypeError, "^regularisers must be values .* got 3"),
    ],
)
def test_arguments_of_fit(change, kind, part):
    settings = {"model": make_net(), "data": (x, y), "method": "exact", "steps": 1}
    refused(lambda: fit(**settings | change), kind, part)


@pytest.mark.parametrize("ask", [log_marginal, route_posterior])
def test_questions(ask):
    refused(lambda: ask(None, x, y), TypeError, "^the model must .* got None")
    refused(lambda: ask(LayeredNetwork, x, y), TypeError, "got the class LayeredNet")
    refused(lambda: ask(make_net(), x.numpy(), y), TypeError, "^x must be a tensor")


@pytest.mark.parametrize(
    ("change", "kind", "part"),
    [
        ({"task": None}, TypeError, "^task must be a task or .* got NoneType"),
        ({"task": (x, y)}, TypeError, "^task must be a task or .* got tuple"),
        ({"methods": None}, TypeError, "^methods must be a sequence of names"),
        ({"methods": {3: "exact"}}, TypeError, "label must be some text, got 3"),
        ({"methods": {"a\0b": "exact"}}, ValueError, "^a method's label names a node"),
        ({"methods": {"é" * 50: "exact"}}, ValueError, "names a file: it must be sho"),
        ({"seeds": None}, TypeError, "^seeds must be whole numbers, .* got None"),
        ({"seeds": 1.5}, TypeError, "^seeds must be whole numbers, .* got 1.5"),
        ({"seeds": ["a"]}, TypeError, "^seeds must be whole numbers, .* got "),
        ({"seeds": [-1]}, ValueError, "^seeds must be >= 0 and below"),
        ({"seeds": [2**70]}, ValueError, "^seeds must be >= 0 and below"),
        ({"network": "a"}, TypeError, "^network must be a mapping of options, got 'a'"),
        ({"network": {"n_module": 3}}, ValueError, "no option 'n_module'; it takes"),
        ({"model": 3}, TypeError, "^model must be a function that makes .* got int"),
        ({"model": make_net()}, TypeError, "anew for each run, got LayeredNetwork"),
        ({"model": lambda task: None}, TypeError, "^the model must .* got None"),
        ({"model": lambda task: (1, 2, 3)}, ValueError, "got a tuple of 3"),
        ({"folder": 3}, TypeError, "^folder must be the path of a folder, got 3"),
        ({"folder": __file__}, ValueError, "^folder must .*: it is a file"),
    ],
)
def test_arguments_of_compare(change, kind, part):
    settings = {"task": CLUSTERS, "methods": ["exact"], "seeds": 1, "steps": 1}
    refused(lambda: compare(**settings | change), kind, part)


def test_what_is_meant_is_accepted(tmp_path):
    """Seeds of NumPy, names as a view, a folder in a folder that is not there."""
    folder = tmp_path / "in" / "out"
    methods = {"exact": 1}.keys()
    tree = compare(CLUSTERS, methods, np.arange(2), steps=1, draws=2, folder=folder)
    assert list(tree["exact"].children) == ["seed_0", "seed_1"]


def test_a_number_of_steps_beyond_any_memory_is_no_problem():
    """It is trained until somebody stops it."""
    calls = []

    class Stop(Exception):
        pass

    def stop(*_):
        calls.append(1)
        if len(calls) == 4:
            raise Stop

    net = make_net()
    net.register_forward_pre_hook(stop)
    with pytest.raises(Stop):
        fit(net, (x, y), "exact", steps=10**30)
