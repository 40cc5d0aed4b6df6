"""Bad x and y get one line: the argument, what was given, what is accepted."""

import re

import pytest
import torch

from latentroute.inference import (
    build,
    evaluate,
    fit,
    log_marginal,
    route_posterior,
)
from latentroute.models import route_sites
from tests.contracts.refusals import (
    CLASSES,
    F,
    N,
    make_data,
    make_net,
    one_line,
)

QUESTIONS = {
    "forward": lambda net, x, y: net(x, y),
    "log_marginal": log_marginal,
    "route_posterior": route_posterior,
    "evaluate": evaluate,
    "route_sites": route_sites,
    "exact": lambda net, x, y: build("exact", net)(x, y),
    "score-function": lambda net, x, y: build("score-function", net)(x, y),
    "hard-em": lambda net, x, y: build("hard-em", net, n_data=len(x))(x, y),
    "fit": lambda net, x, y: fit(net, (x, y), "exact", steps=1),
}
every_question = pytest.mark.parametrize("ask", QUESTIONS.values(), ids=QUESTIONS)


@pytest.mark.parametrize(
    "shape", [(N, F + 1), (N,), (0, F), (N, 1, F + 3), (N, F, 2)], ids=str
)
@every_question
def test_x_of_a_wrong_shape(ask, shape):
    x = torch.zeros(shape)
    y = torch.zeros(shape[0], dtype=torch.long)
    if shape[0] == 0 and ask is QUESTIONS["fit"]:
        one_line(lambda: ask(make_net(), x, y), "data must hold at least one example")
        return
    one_line(
        lambda: ask(make_net(), x, y), "^x must", rf"\(N, {F}\)", re.escape(str(shape))
    )


@pytest.mark.parametrize("router_input", ["activation", "input"])
def test_x_with_a_dimension_too_many(router_input):
    """(N, 1, F) has as many numbers as (N, F), and is something else."""
    x, _ = make_data()
    net = make_net(router_input=router_input)
    one_line(lambda: net(x.unsqueeze(1)), "^x must")


@every_question
def test_y_of_another_length(ask):
    x, y = make_data()
    if ask is QUESTIONS["fit"]:
        one_line(lambda: ask(make_net(), x, y[:-1]), "x and y", "6 and 5")
        return
    one_line(lambda: ask(make_net(), x, y[:-1]), "^y must", r"\(6,\)", r"got \(5,\)")


@pytest.mark.parametrize("bad", [torch.nan, torch.inf], ids=str)
@every_question
def test_x_that_is_not_finite(ask, bad):
    x, y = make_data()
    x[4, 1] = bad
    one_line(lambda: ask(make_net(), x, y), "^x must be finite", "row 4")


@pytest.mark.parametrize("head", ["normal", "bernoulli"])
@every_question
def test_y_that_is_not_finite(ask, head):
    x, _ = make_data()
    y = torch.zeros(N, CLASSES)
    y[3, 2] = torch.nan
    one_line(lambda: ask(make_net(head=head), x, y), "^y must", "(?i)nan", "row 3")


@every_question
def test_a_target_outside_the_classes(ask):
    x, y = make_data()
    y[1] = CLASSES
    one_line(
        lambda: ask(make_net(), x, y), r"y must hold classes 0 \.\. 2", "got 3", "row 1"
    )


def test_a_bad_target_late_in_the_data_is_found_before_training():
    """The docstring of fit: wrong data is refused before training; by its own row."""
    net, (x, y) = make_net(), make_data(40)
    y[37] = 5
    before = [p.detach().clone() for p in net.parameters()]
    one_line(
        lambda: fit(net, (x, y), "exact", steps=50, batch_size=4),
        "y must hold classes",
        "got 5",
        "row 37",
    )
    for p, b in zip(net.parameters(), before, strict=True):
        assert torch.equal(p, b), "trained before it looked"


def test_data_that_is_no_data():
    x, y = make_data()
    for data in (x, x.numpy(), (x.numpy(), y.numpy()), [x.tolist(), y], None, {}):
        one_line(
            lambda data=data: fit(make_net(), data, "exact", steps=1),
            "^data must be",
            kind=TypeError,
        )


def test_x_of_another_type_than_the_weights():
    x, y = make_data()
    for asked in QUESTIONS.values():
        call = lambda ask=asked: ask(make_net(), x.double(), y)  # noqa: E731
        one_line(call, "^x must be float32, as the weights are, got float64")
    one_line(lambda: make_net().double()(x, y), "float64, as the weights are, got")


def test_x_on_another_device_than_the_weights():
    x, y = make_data()
    net = make_net().to("meta")
    one_line(lambda: net(x, y), "^x must be on meta, as the weights are, got cpu")


def test_a_single_number_is_no_data():
    one_line(
        lambda: fit(make_net(), (torch.tensor(1.0), None), steps=1), "^x must hold"
    )
