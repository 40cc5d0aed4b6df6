"""Programs that cannot be routed are refused in one line, however one asks."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from latentroute.inference import (
    build,
    evaluate,
    log_marginal,
    plan_enumeration,
    route_posterior,
)
from latentroute.models import route, route_sites
from tests.contracts.refusals import (
    N,
    make_net,
    one_line,
    x,
    y,
)


def ask_everything(model, *parts, args=(x, y)):
    """Every way to ask about a program refuses it in the same line."""
    for call in (
        lambda: log_marginal(model, *args),
        lambda: route_posterior(model, *args),
        lambda: evaluate(model, *args),
        lambda: plan_enumeration(model, *args, budget=9),
        lambda: build("exact", model, parameters=[])(*args),
        lambda: build("score-function", model, parameters=[])(*args),
        lambda: build("topk-buffer", model, parameters=[], n_data=N, example=args),
    ):
        one_line(call, *parts)


def test_a_model_without_a_routing_site():
    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("y", dist.Normal(x[:, 0], 1.0), obs=y)

    ask_everything(model, "no routing site", "y")


def test_a_model_that_observes_nothing():
    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            route("a", dist.Categorical(logits=torch.zeros(len(x), 2)))

    ask_everything(model, "observes nothing", "pass y")


def test_y_forgotten():
    ask_everything(
        make_net(), "(y|'y') .*neither observed|observes nothing", args=(x, None)
    )


def test_a_latent_continuous_site():
    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=torch.zeros(len(x), 2)))
            u = pyro.sample("u", dist.Normal(torch.zeros(len(x)), 1.0))
            return pyro.sample("y", dist.Normal(u + a, 1.0), obs=y.float())

    ask_everything(model, "site 'u'", "Normal", "neither observed nor a routing site")


def test_a_sequential_plate():
    def model(x, y=None):
        for i in pyro.plate("data", len(x)):
            a = pyro.sample(f"a_{i}", dist.Categorical(logits=torch.zeros(2)))
            pyro.sample(f"y_{i}", dist.Normal(1.0 * a, 1.0), obs=y[i].float())

    ask_everything(model, "sequential plate", "'data'", "with pyro.plate")


def test_plates_that_disagree():
    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=torch.zeros(len(x), 2)))
        with pyro.plate("other", 4, dim=-1):
            pyro.sample("seen", dist.Normal(torch.zeros(4), 1.0), obs=torch.zeros(4))
        with pyro.plate("again", len(x), dim=-1):
            return pyro.sample("y", dist.Normal(1.0 * a, 1.0), obs=y.float())

    ask_everything(model, "plates at dim -1 disagree", "'other': 4", "'data': 6")


def test_a_site_with_more_dimensions_than_its_plates():
    def no_plate(x, y=None):
        a = pyro.sample("a", dist.Categorical(logits=torch.zeros(len(x), 2)))
        return pyro.sample("y", dist.Normal(1.0 * a, 1.0), obs=y.float())

    def no_event(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=torch.zeros(len(x), 2)))
            mean = torch.zeros(2, len(x)) + a
            return pyro.sample("y", dist.Normal(mean, 1.0), obs=torch.zeros(2, len(x)))

    ask_everything(no_plate, "site 'a'", r"batch shape \(6,\)", "pyro.plate")
    ask_everything(no_event, "site 'y'", r"batch shape \(2, 6\)", "to_event")


def test_a_routing_site_in_an_inner_plate():
    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1), pyro.plate("steps", 2, dim=-2):
            a = pyro.sample("a", dist.Categorical(logits=torch.zeros(2, len(x), 2)))
            return pyro.sample(
                "y", dist.Normal(1.0 * a, 1.0), obs=y.float().expand(2, -1)
            )

    ask_everything(model, "routing site 'a'", "plate 'steps'", "dim -2")


def test_something_observed_outside_the_plate_of_a_dynamic_model():
    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=torch.zeros(len(x), 2)))
            pyro.sample("y", dist.Normal(1.0 * a, 1.0), obs=y.float())
        pyro.sample("sum", dist.Normal(0.0, 1.0), obs=torch.tensor(1.0))

    ask_everything(model, "site 'sum' is observed outside the data plate")


def test_two_sites_of_one_name():
    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            for _ in range(2):
                a = pyro.sample("a", dist.Categorical(logits=torch.zeros(len(x), 2)))
            return pyro.sample("y", dist.Normal(1.0 * a, 1.0), obs=y.float())

    ask_everything(model, "'a'", "two sample statements")


@pytest.mark.parametrize(
    ("infer", "parts"),
    [
        ({"enumrate": "parallel"}, ["'enumrate'", "did you mean 'enumerate'"]),
        ({"rotue": {}}, ["'rotue'", "did you mean 'route'"]),
        ({"route": {"paln": "sample"}}, ["'paln'", "accepted: 'plan'"]),
        ({"route": {"plan": "enumerated"}}, ["plan must be one of", "'enumerated'"]),
        ({"route": "enumerate"}, [r"infer\['route'\] must be a dict", "'enumerate'"]),
    ],
    ids=str,
)
def test_a_misspelt_infer_option(infer, parts):
    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            logits = torch.zeros(len(x), 2)
            a = pyro.sample("a", dist.Categorical(logits=logits), infer=infer)
            return pyro.sample("y", dist.Normal(1.0 * a, 1.0), obs=y.float())

    ask_everything(model, "site 'a'", *parts)
    one_line(lambda: route_sites(model, x, y), "site 'a'", *parts)


def test_infer_options_of_pyro_and_of_others_pass():
    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            options = {"enumerate": "parallel", "is_auxiliary": False, "_mine": 1}
            options |= {"my_library": {"weight": 2}, "num_samples": 3}
            logits = torch.zeros(len(x), 2)
            a = pyro.sample("a", dist.Categorical(logits=logits), infer=options)
            return pyro.sample("y", dist.Normal(1.0 * a, 1.0), obs=y.float())

    assert route_sites(model, x, y) == ["a"]


def test_a_misspelt_plan_of_route():
    one_line(
        lambda: route("a", dist.Categorical(logits=torch.zeros(2)), plan="samples"),
        "plan must be one of auto, enumerate, sample",
        "'samples'",
    )
