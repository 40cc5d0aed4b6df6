"""Malformed input of every kind, made by hypothesis: refused by us, in one line.

260 inputs. What is refused with which words is in the ``test_bad_...`` files beside.
"""

import math

import pyro
import pyro.distributions as dist
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latentroute.benchmarks.fuzz_readers import problem
from latentroute.cli import main
from latentroute.inference import (
    METHODS,
    ScoreFunction,
    fit,
    log_marginal,
)
from latentroute.tasks import load
from tests.contracts.refusals import CLASSES, F, M, N, make_data, make_net

ANY = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def times(n):
    """The same n inputs every time."""
    return settings(
        max_examples=n,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=ANY,
    )


def refused(call, *, by_us=True):
    """The call is refused in one line; by us, as exit code 2 needs it."""
    accepted = []
    said = problem(lambda _: accepted.append(call()), None)
    if not by_us and said is not None and said.startswith("raised by a library"):
        assert "ValueError" in said and "\\n" not in said, said
        return
    assert said is None, said
    assert not accepted, "was accepted"


def not_whole(least):
    """What is not a whole number of at least so much."""
    small = st.integers(-1000, least - 1)
    others = st.sampled_from([None, "2", 2.5, math.nan, math.inf, [2], (), {}, b"2"])
    return small | others


bad_floats = st.sampled_from([math.nan, math.inf, -math.inf])
no_tensors = st.sampled_from([None, 3, "x", [[1.0, 2.0]], {}, b"x", object(), math.pi])
rows, columns = st.integers(0, N - 1), st.integers(0, F - 1)


@st.composite
def bad_data(draw):
    x, y = make_data()
    kind = draw(st.sampled_from(["shape", "value", "type", "dtype", "length", "y"]))
    if kind == "shape":
        shapes = st.lists(st.integers(0, 3), max_size=4).map(tuple)
        x = torch.zeros(draw(shapes.filter(lambda s: len(s) != 2 or s[1] != F)))
        y = y[: len(x)] if x.dim() else y
    elif kind == "value":
        x[draw(rows), draw(columns)] = draw(bad_floats)
    elif kind == "type":
        x = draw(no_tensors)
    elif kind == "dtype":
        x = x.to(draw(st.sampled_from([torch.float64, torch.complex64, torch.bool])))
    elif kind == "length":
        y = y[: draw(st.integers(0, N - 1))]
    else:
        y = y.clone()
        y[draw(rows)] = draw(st.integers(-9, -1) | st.integers(CLASSES, 99))
    return x, y


@times(60)
@given(bad_data())
def test_data(data):
    refused(lambda: fit(make_net(), data, steps=1))


NETWORK = {
    "n_layers": not_whole(1),
    "n_modules": not_whole(1),
    "hidden_features": not_whole(1),
    "k": not_whole(1) | st.integers(M + 1, 99),
    "routing": st.sampled_from(["", "Dynamic", None, 1, "both"]),
    "router_input": st.sampled_from(["", "x", None, 1]),
    "head": st.sampled_from(["", "poisson", 1, "categorial"]),
}


def one_of(options):
    """One option with a bad value."""
    return st.sampled_from(sorted(options)).flatmap(
        lambda name: options[name].map(lambda value: {name: value})
    )


@times(40)
@given(one_of(NETWORK))
def test_options_of_the_network(option):
    refused(lambda: make_net(**option))


TRAINING = {
    "steps": not_whole(1),
    "batch_size": not_whole(1),
    "lr": bad_floats | st.floats(max_value=0) | st.sampled_from([None, "1", [1]]),
    "method": st.text(max_size=9).filter(lambda s: s not in METHODS) | st.just(3),
    "seed": st.sampled_from([None, "0", 0.5, math.nan]),
    "log_every": not_whole(1).filter(lambda v: v is not None),
    "checkpoint_every": not_whole(1).filter(lambda v: v is not None),
    "on_sigterm": st.sampled_from(["save", "die", 3]),
    "regularisers": st.sampled_from([3, ["x"], [None], "entropy"]),
    "temperature": st.just(1.0),
}


@times(50)
@given(one_of(TRAINING))
def test_options_of_training(option):
    refused(lambda: fit(make_net(), make_data(), **{"steps": 1, **option}))


@st.composite
def bad_programs(draw):
    """A program with one thing that is wrong."""
    wrong = draw(st.sampled_from(["names", "nothing", "latent", "plate", "site"]))
    names = ["a", "b"] if wrong != "names" else ["a", "a"]
    choices = draw(st.integers(2, 4))
    inner = draw(st.booleans())

    def model(x, y=None):
        n = len(x)
        size = n if wrong != "plate" else n - 1
        with pyro.plate("data", size, dim=-1):
            mean = torch.zeros(n)
            for name in names if wrong != "site" else []:
                logits = torch.zeros(n, choices)
                mean = mean + pyro.sample(name, dist.Categorical(logits=logits))
            if wrong == "latent":
                mean = mean + pyro.sample("z", dist.Normal(torch.zeros(n), 1.0))
            seen = None if wrong == "nothing" else y.float()
            return pyro.sample("y", dist.Normal(mean, 1.0), obs=seen)

    def nested(x, y=None):
        return model(x, y)

    return nested if inner else model


@times(20)
@given(bad_programs())
def test_programs(model):
    x, y = make_data()
    given = {"parameters": [torch.zeros(1)], "steps": 1}
    refused(lambda: log_marginal(model, x, y), by_us=False)  # Pyro sees some
    refused(lambda: fit(model, (x, y), **given), by_us=False)


@st.composite
def bad_guides(draw):
    """A guide for two sites with M choices each, wrong in one thing."""
    wrong = draw(st.sampled_from(["misses", "choices", "plate", "more", "twice"]))
    names = ["route_0", "route_1"]
    site = draw(st.sampled_from(names))
    sizes = st.integers(1, 9).filter(lambda m: m != M)
    choices = draw(sizes) if wrong == "choices" else M

    def guide(x, y=None):
        sites = [name for name in names if wrong != "misses" or name != site]
        sites += [site] if wrong == "twice" else []
        rows = (len(x),) if wrong != "plate" else ()
        if wrong == "plate":
            for name in sites:
                pyro.sample(name, dist.Categorical(logits=torch.zeros(choices)))
            return
        with pyro.plate("data", *rows, dim=-1):
            for name in sites:
                logits = torch.zeros(*rows, choices)
                pyro.sample(name, dist.Categorical(logits=logits))
            if wrong == "more":
                pyro.sample("u", dist.Normal(torch.zeros(rows), 1.0))

    return guide


@times(20)
@given(bad_guides())
def test_guides(guide):
    objective = ScoreFunction()(make_net(), guide, n_data=N)
    refused(lambda: objective(*make_data()))


@st.composite
def bad_tables(draw):
    """A CSV file whose target or layout cannot be used."""
    header = draw(st.sampled_from(["a,b,y", "a,a,y", "a,b,z", "a,,y", "a;b;y", "y"]))
    cells = st.sampled_from(["1", "nan", "", "x", "inf", "é\u2028", '"', "1e999", "☃"])
    line = st.lists(cells, min_size=1, max_size=5).map(",".join)
    lines = draw(st.lists(line, max_size=4))  # too few rows for three splits, at best
    return "\n".join([header, *lines])


@times(30)
@given(text=bad_tables(), end=st.sampled_from(["\n", "\r\n", "", "\x00"]))
def test_tables(tmp_path, text, end):
    path = tmp_path / "data.csv"
    path.write_text(text + end, encoding="utf-8", newline="")
    refused(lambda: load("table", path=path, target="y", fractions=(0.9, 0.05, 0.05)))


words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
FLAGS = {
    "--steps": st.sampled_from(["0", "-1", "x", "1.5", "", "nan", "None"]),
    "--lr": st.sampled_from(["0", "-1", "x", "", "1e-2e"]),
    "--batch-size": st.sampled_from(["0", "x", "2.5", "[]"]),
    "--method": words.filter(lambda w: w not in METHODS and not w.startswith("-")),
    "--task": words.filter(lambda w: not w.startswith("-")),
    "--data": words.map(lambda w: f"nowhere/{w}.csv"),
    "--seed": st.sampled_from(["-1", "x", "0.5"]),
    "--on-sigterm": st.sampled_from(["die", "Save", "1"]),
    "--checkpoint-every": st.sampled_from(["0", "x"]),
    "--exact.target": words.filter(lambda w: not w.startswith("-")),
    "--network.n_modules": st.sampled_from(["0", "x", "-3"]),
    "--config": words.map(lambda w: f"nowhere/{w}.yaml"),
    "--no-such-flag": words,
}


@times(40)
@given(option=one_of(FLAGS))
def test_flags(tmp_path, capsys, option):
    ((flag, value),) = option.items()
    code = main(["train", f"{flag}={value}", "--out", str(tmp_path / "out")])
    out, err = capsys.readouterr()
    assert code == 2, err
    said = [line for line in err.splitlines() if not line.startswith("data: ")]
    assert out == "" and len(said) == 1, err
    assert not list(tmp_path.rglob("*.*")), "nothing is written"
