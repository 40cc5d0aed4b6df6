"""Bad input gets one line: the argument, what was given, what is accepted."""

import re
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from latentroute.guides import RouterGuide
from latentroute.inference import (
    METHODS,
    ScoreFunction,
    build,
    evaluate,
    fit,
    log_marginal,
    plan_enumeration,
    route_posterior,
)
from latentroute.models import GivenRouting, LayeredNetwork, route, route_sites

N, F, CLASSES, M = 6, 2, 3, 3
every_method = pytest.mark.parametrize("method", list(METHODS))
both_routings = pytest.mark.parametrize("routing", ["dynamic", "static"])


def make_net(**options):
    shape = {"n_layers": 2, "n_modules": M, "hidden_features": 4} | options
    return LayeredNetwork(F, CLASSES, **shape)


def make_data(n=N):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, F, generator=generator)
    return x, torch.randint(CLASSES, (n,), generator=generator)


def one_line(call, *parts, kind=ValueError):
    """The call is refused in one line that has all the parts."""
    with pytest.raises(kind) as error:
        call()
    text = str(error.value)
    assert "\n" not in text.strip(), text
    for part in parts:
        assert re.search(part, text), f"{part!r} is not in: {text}"
    return text


# x and y.

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


# Options of the network.


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


# Programs.

x, y = make_data()


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


# Guides.


def guide_of(sites, *, choices=M, static=False, extra=None):
    def guide(x, y=None):
        if static:
            for name in sites:
                pyro.sample(name, dist.Categorical(logits=torch.zeros(choices)))
            return
        with pyro.plate("data", len(x), dim=-1):
            if extra is not None:
                pyro.sample("u", dist.Normal(torch.zeros(len(x)), 1.0))
            for name in sites:
                logits = torch.zeros(len(x), choices)
                pyro.sample(name, dist.Categorical(logits=logits))

    return guide


BOTH = ("route_0", "route_1")


def ask_with(guide, *parts, routing="dynamic"):
    objective = ScoreFunction()(make_net(routing=routing), guide, n_data=N)
    one_line(lambda: objective(x, y), *parts)


@both_routings
def test_a_guide_that_misses_a_site(routing):
    static = routing == "static"
    for sites in ((), ("route_0",), ("route_1",)):
        missing = next(name for name in BOTH if name not in sites)
        guide = guide_of(sites, static=static)
        ask_with(guide, f"'{missing}'", "must sample", routing=routing)


def test_a_guide_of_another_model():
    def other(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = route("a", dist.Categorical(logits=torch.zeros(len(x), M)))
            return pyro.sample("y", dist.Normal(1.0 * a, 1.0), obs=y)

    ask_with(RouterGuide(other), "'route_0'", "must sample")


def test_a_guide_with_other_choices():
    ask_with(guide_of(BOTH, choices=M + 1), "route_0", str(M), str(M + 1))
    ask_with(guide_of(BOTH, choices=M - 1), "route_0", str(M), str(M - 1))


def test_a_guide_whose_plates_disagree_with_the_models():
    ask_with(guide_of(BOTH, static=True), "route_0", "plate")
    ask_with(guide_of(BOTH), "route_0", "plate", routing="static")


def test_a_guide_with_a_latent_site_of_its_own():
    ask_with(guide_of(BOTH, extra="u"), "'u'")


def test_exact_takes_no_guide():
    one_line(
        lambda: METHODS["exact"](make_net(), RouterGuide(make_net())),
        "exact takes no guide",
    )


# Memory and budget.


def test_a_budget_too_small():
    for budget, parts in [
        (1, ["^budget must be at least 2 evaluations", "got 1"]),
        (0, ["^budget must be", "got 0"]),
        (2.5, ["^budget must be", "got 2.5"]),
    ]:
        one_line(
            lambda budget=budget: plan_enumeration(make_net(), x, y, budget=budget),
            *parts,
        )


@pytest.mark.parametrize("routing", ["dynamic", "static"])
def test_exact_that_does_not_fit_takes_no_memory(routing):
    net = make_net(n_layers=30, n_modules=8, routing=routing)
    seen = []
    for bank in net.banks:
        bank.register_forward_pre_hook(lambda _, args: seen.append(args[0].numel()))
    parts = [
        r"1,237,940,039,285,380,274,899,124,224 routes \(8\^30\)",
        "6 examples",
        "GiB",
        "may be used",
        "score-function",
        "memory_limit",
    ]
    for call in (
        lambda: log_marginal(net, x, y),
        lambda: route_posterior(net, x, y),
        lambda: build("exact", net)(x, y),
        lambda: fit(net, (x, y), "exact", steps=1),
    ):
        one_line(call, *parts)
    assert seen and max(seen) <= N * 4, "something was made for more than one route"


def test_a_memory_limit_is_kept():
    net = make_net()
    for call in (
        lambda: log_marginal(net, x, y, memory_limit=1000),
        lambda: route_posterior(net, x, y, memory_limit=1000),
        lambda: build("exact", net, memory_limit=1000)(x, y),
        lambda: fit(net, (x, y), "exact", steps=1, memory_limit=1000),
    ):
        one_line(call, "9 routes", r"\(3\^2\)")
    assert torch.isfinite(log_marginal(net, x, y, memory_limit=10**8)).all()


def test_a_larger_batch_than_the_first_is_looked_at_again():
    objective = build("exact", make_net(), memory_limit=200_000)
    objective(x, y)
    many = 50_000
    one_line(
        lambda: objective(x[:1].expand(many, F), y[:1].expand(many)), "50,000 examples"
    )


def test_no_error_comes_with_a_warning_beside_it():
    """A line on stderr that blames broadcasting would hide the real one."""
    objective = ScoreFunction()(make_net(), guide_of(("route_0",)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(ValueError, match="route_1"):
            objective(x, y)
    assert not caught
