"""Bad options get one line: the argument, what was given, what is accepted."""

import pytest
import torch
from torch import nn

from latentroute.inference import (
    build,
    fit,
)
from latentroute.models import GivenRouting
from tests.contracts.refusals import (
    CLASSES,
    N,
    every_method,
    make_data,
    make_net,
    one_line,
)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"k": 4}, ["^k must be at most", "n_modules = 3", "got 4"]),
        ({"k": 3, "n_modules": [4, 2]}, ["^k must", "n_modules = 2", "got 3"]),
        ({"k": 0}, ["^k must be a whole number >= 1, got 0"]),
        ({"n_layers": 0}, ["^n_layers must be a whole number >= 1, got 0"]),
        ({"n_layers": 2.5}, ["^n_layers must", "got 2.5"]),
        ({"n_modules": 0}, ["^n_modules must", "got 0"]),
        ({"n_modules": [3, 3, 3]}, ["^n_modules must", "2 layers", r"\[3, 3, 3\]"]),
        ({"hidden_features": -1}, ["^hidden_features must", "got -1"]),
        ({"hidden_features": True}, ["^hidden_features must", "got True"]),
        ({"routing": "dynamc"}, ["^routing must be one of dynamic, static", "dynamc"]),
        ({"router_input": "z"}, ["^router_input must be one of", "got 'z'"]),
        ({"head": "normla"}, ["^head must be one of", "did you mean 'normal'"]),
        ({"combine": "sum"}, ["^combine must be one of add, concatenate", "'sum'"]),
        ({"duplicates": "none"}, ["^duplicates must be one of once, each"]),
    ],
    ids=str,
)
def test_options_of_the_network(options, parts):
    one_line(lambda: make_net(**options), *parts)


def test_lists_of_modules_that_do_not_fit():
    modules = [[nn.Linear(4, 4) for _ in range(2)] for _ in range(2)]
    one_line(lambda: make_net(module=modules), "^module must list", r"\[2, 2\]")


def test_given_routes_that_do_not_fit():
    net = make_net()
    one_line(
        lambda: GivenRouting(net, torch.zeros(N, 3).long(), ["route_0", "route_1"]),
        "^routes must have one column",
        r"\(6, 3\)",
    )
    given = GivenRouting(net, torch.zeros(N, 2).long(), ["route_0", "route_1"])
    x, y = make_data(8)
    one_line(lambda: given(x, y), "6 examples, got 8", "index")


# Options of methods and of training.


def test_an_unknown_method():
    x, y = make_data()
    for call in (
        lambda: build("exct", make_net()),
        lambda: fit(make_net(), (x, y), "exct", steps=1),
    ):
        one_line(call, "^method must be one of exact", "got 'exct'", "did you mean")


@every_method
def test_an_unknown_option(method):
    x, y = make_data()
    for call in (
        lambda: build(method, make_net(), n_data=N, smaples=3),
        lambda: fit(make_net(), (x, y), method, steps=1, smaples=3),
    ):
        one_line(call, "has no option 'smaples'", "it takes")


@pytest.mark.parametrize(
    ("method", "options", "parts"),
    [
        ("exact", {"target": "elbo"}, ["^target must be one of", "got 'elbo'"]),
        ("score-function", {"n_samples": 1}, ["^n_samples must", "2", "got 1"]),
        ("score-function", {"n_samples": 2.0}, ["^n_samples must", "got 2.0"]),
        ("hard-em", {"n_samples": 0}, ["^n_samples must", ">= 1, got 0"]),
        ("hard-em", {"interval": 0}, ["^interval must", "got 0"]),
        ("hard-em", {"score": "x"}, ["^score must be one of joint, likelihood, prior"]),
        ("topk-buffer", {"capacity": 0}, ["^capacity must", "got 0"]),
        ("topk-buffer", {"w_fresh": -1.0}, ["^w_fresh must be >= 0, got -1.0"]),
        ("topk-buffer", {"w_buffer": float("nan")}, ["^w_buffer must", "got nan"]),
        ("topk-buffer", {"weights": "even"}, ["^weights must be one of"]),
    ],
    ids=str,
)
def test_options_of_methods(method, options, parts):
    one_line(lambda: build(method, make_net(), n_data=N, **options), *parts)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"steps": 0}, ["^steps must be a whole number >= 1, got 0"]),
        ({"steps": 10.0}, ["^steps must", "got 10.0"]),
        ({"batch_size": 0}, ["^batch_size must", "got 0"]),
        ({"lr": 0.0}, ["^lr must be positive, got 0.0"]),
        ({"lr": float("nan")}, ["^lr must be positive, got nan"]),
        ({"resume": True}, ["resume", "checkpoint="]),
    ],
    ids=str,
)
def test_options_of_training(options, parts):
    settings = {"steps": 1} | options
    one_line(lambda: fit(make_net(), make_data(), "exact", **settings), *parts)


@pytest.mark.parametrize(
    ("head", "lr"), [("categorical", 1e30), ("normal", 1e3), ("normal", 1e30)]
)
def test_training_that_diverges_is_stopped(head, lr):
    net, (x, y) = make_net(head=head), make_data()
    y = y if head == "categorical" else 1e30 * torch.ones(N, CLASSES)
    one_line(
        lambda: fit(net, (x, y), "exact", steps=50, lr=lr, log_every=50),
        "step [0-9]+",
        "lr",
        kind=FloatingPointError,
    )


def test_a_checkpoint_of_another_run(tmp_path):
    fit(make_net(), make_data(), "exact", steps=2, checkpoint=tmp_path, seed=1)
    for change, parts in [
        ({"seed": 2}, ["seed = 1, got 2"]),
        ({"batch_size": 3}, ["batch_size = 128, got 3"]),
        ({"target": "router-elbo"}, ["method"]),
    ]:
        settings = {"steps": 4, "seed": 1} | change
        one_line(
            lambda settings=settings: fit(
                make_net(),
                make_data(),
                "exact",
                checkpoint=tmp_path,
                resume=True,
                **settings,
            ),
            "checkpoint",
            *parts,
        )
    one_line(
        lambda: fit(
            make_net(hidden_features=5),
            make_data(),
            "exact",
            steps=4,
            seed=1,
            checkpoint=tmp_path,
            resume=True,
        ),
        "checkpoint",
        "another model",
    )


def test_a_checkpoint_that_is_no_checkpoint(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"not a checkpoint")
    one_line(
        lambda: fit(
            make_net(), make_data(), "exact", steps=1, checkpoint=tmp_path, resume=True
        ),
        "checkpoint .* cannot be read",
    )
