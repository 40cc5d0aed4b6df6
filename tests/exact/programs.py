"""Routed programs as users write them: bare Pyro functions, no class of ours.

Each maker returns a `Program` with fresh parameters; `sites` says what its routing
sites can be, for brute force. `BROADCASTING` may be written with one dimension more on
the left; `LOOPING` may not, and must be run route by route, with a warning.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from latentroute.models import ModuleBank, route
from tests.brute_force import Choice, choices

N = 3


class Program(NamedTuple):
    model: Callable[..., Any]
    args: tuple[Any, ...]
    sites: dict[str, Choice]
    parameters: list[Tensor]


class Draw:
    """Parameters and data of one program, from a seed."""

    def __init__(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> None:
        self.dtype = dtype
        self.generator = torch.Generator().manual_seed(seed)
        self.parameters: list[Tensor] = []

    def data(self, *shape: int) -> Tensor:
        # Always drawn in float64, so that float32 programs have the same numbers.
        drawn = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        return drawn.to(self.dtype)

    def weight(self, *shape: int) -> Tensor:
        tensor = self.data(*shape).requires_grad_()
        self.parameters.append(tensor)
        return tensor


def two_sites(draw: Draw, n: int = N) -> Program:
    """The second decision sees the first."""
    x, y = draw.data(n, 2), draw.data(n)
    first, table = draw.weight(2, 3), draw.weight(3, 2)
    means = draw.weight(3, 2)

    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=x @ first))
            b = pyro.sample("b", dist.Categorical(logits=table[a]))
            return pyro.sample("y", dist.Normal(means[a, b] * x.sum(-1), 0.7), obs=y)

    return Program(model, (x, y), {"a": choices(3), "b": choices(2)}, draw.parameters)


def marked(draw: Draw, n: int = N) -> Program:
    """`route(...)` sites beside a categorical target."""
    x, y = draw.data(n, 2), draw.data(n).gt(0).long()
    first, out = draw.weight(2, 3), draw.weight(3, 2)

    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = route("a", dist.Categorical(logits=x @ first))
            return pyro.sample("y", dist.Categorical(logits=out[a]), obs=y)

    return Program(model, (x, y), {"a": choices(3)}, draw.parameters)


def other_plate_and_supports(draw: Draw, n: int = N) -> Program:
    """A plate of another name; one-hot and Bernoulli decisions."""
    x, y = draw.data(n, 2), draw.data(n)
    first, second = draw.weight(2, 3), draw.weight(3)
    means, shift = draw.weight(3), draw.weight()

    def model(x, y=None):
        with pyro.plate("rows of the table", len(x), dim=-1):
            a = pyro.sample("a", dist.OneHotCategorical(logits=x @ first))
            b = pyro.sample("b", dist.Bernoulli(logits=a @ second))
            mean = a @ means + shift * b * x[:, 0]
            return pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    sites = {
        "a": Choice(torch.eye(3, dtype=draw.dtype)),
        "b": Choice(torch.arange(2, dtype=draw.dtype)),
    }
    return Program(model, (x, y), sites, draw.parameters)


def one_choice_alone(draw: Draw, n: int = N) -> Program:
    """M = 1 is no decision, and must change nothing."""
    x, y = draw.data(n, 2), draw.data(n)
    first, mean = draw.weight(2, 1), draw.weight(1)

    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=x @ first))
            return pyro.sample("y", dist.Normal(mean[a] * x[:, 0], 1.0), obs=y)

    return Program(model, (x, y), {"a": choices(1)}, draw.parameters)


def one_choice_between(draw: Draw, n: int = N) -> Program:
    """M = 1 between two decisions."""
    x, y = draw.data(n, 2), draw.data(n)
    first, mean = draw.weight(2, 2), draw.weight(2, 1, 3)
    second = draw.weight(2, 1, 3)

    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=x @ first))
            b = pyro.sample("b", dist.Categorical(logits=torch.zeros(len(x), 1)))
            c = pyro.sample("c", dist.Categorical(logits=second[a, b]))
            return pyro.sample("y", dist.Normal(mean[a, b, c], 1.0), obs=y)

    sites = {"a": choices(2), "b": choices(1), "c": choices(3)}
    return Program(model, (x, y), sites, draw.parameters)


def static_then_dynamic(draw: Draw, n: int = N) -> Program:
    x, y = draw.data(n, 2), draw.data(n)
    shared, table = draw.weight(3), draw.weight(3, 2)
    means = draw.weight(3, 2)

    def model(x, y=None):
        s = pyro.sample("s", dist.Categorical(logits=shared))
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=table[s] + 0 * x))
            return pyro.sample("y", dist.Normal(means[s, a] * x[:, 0], 0.8), obs=y)

    sites = {"s": choices(3, static=True), "a": choices(2)}
    return Program(model, (x, y), sites, draw.parameters)


def dynamic_then_static(draw: Draw, n: int = N) -> Program:
    x, y = draw.data(n, 2), draw.data(n)
    first, shared = draw.weight(2, 2), draw.weight(3)
    means = draw.weight(2, 3)

    def model(x, y=None):
        plate = pyro.plate("data", len(x), dim=-1)
        with plate:
            a = pyro.sample("a", dist.Categorical(logits=x @ first))
        s = pyro.sample("s", dist.Categorical(logits=shared))
        with plate:
            return pyro.sample("y", dist.Normal(means[a, s] * x[:, 0], 0.8), obs=y)

    sites = {"a": choices(2), "s": choices(3, static=True)}
    return Program(model, (x, y), sites, draw.parameters)


def static_around_dynamic(draw: Draw, n: int = N) -> Program:
    """Static, dynamic, static that sees the first, dynamic."""
    x, y = draw.data(n, 2), draw.data(n)
    shared, later = draw.weight(2), draw.weight(2, 3)
    first, second = draw.weight(2, 2), draw.weight(2, 3, 2)
    means = draw.weight(2, 2, 3, 2)

    def model(x, y=None):
        plate = pyro.plate("data", len(x), dim=-1)
        s = pyro.sample("s", dist.Categorical(logits=shared))
        with plate:
            a = pyro.sample("a", dist.Categorical(logits=x @ first))
        t = pyro.sample("t", dist.Categorical(logits=later[s]))
        with plate:
            b = pyro.sample("b", dist.Categorical(logits=second[a, t]))
            mean = means[s, a, t, b] * x[:, 1]
            return pyro.sample("y", dist.Normal(mean, 0.8), obs=y)

    sites = {
        "s": choices(2, static=True),
        "a": choices(2),
        "t": choices(3, static=True),
        "b": choices(2),
    }
    return Program(model, (x, y), sites, draw.parameters)


def static_all(draw: Draw, n: int = N) -> Program:
    """Every decision static; something is observed outside the plate too."""
    x, y = draw.data(n, 2), draw.data(n)
    shared, later = draw.weight(2), draw.weight(2, 3)
    means, prior_mean = draw.weight(2, 3), draw.weight(2)

    def model(x, y=None):
        s = pyro.sample("s", dist.Categorical(logits=shared))
        pyro.sample("seen", dist.Normal(prior_mean[s], 1.0), obs=torch.tensor(0.3))
        t = pyro.sample("t", dist.Categorical(logits=later[s]))
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("y", dist.Normal(means[s, t] * x[:, 0], 0.8), obs=y)

    sites = {"s": choices(2, static=True), "t": choices(3, static=True)}
    return Program(model, (x, y), sites, draw.parameters)


def repeated_target(draw: Draw, n: int = N) -> Program:
    """Each example is observed twice: a plate at dim -2 around the data's."""
    x, y = draw.data(n, 2), draw.data(n, 2)
    first, second = draw.weight(2, 3), draw.weight(3, 2)
    means, extra = draw.weight(3), draw.weight(2)

    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=x @ first))
            b = pyro.sample("b", dist.Categorical(logits=second[a]))
            mean = means[a] * x[:, 0] + extra[b]
            with pyro.plate("repeats", 2, dim=-2):
                return pyro.sample("y", dist.Normal(mean, 1.0), obs=y.T)

    sites = {"a": choices(3), "b": choices(2)}
    return Program(model, (x, y), sites, draw.parameters)


def repeated_static(draw: Draw, n: int = N) -> Program:
    """The same with a static decision before."""
    x, y = draw.data(n, 2), draw.data(n, 2)
    shared, first = draw.weight(2), draw.weight(2, 2)
    means = draw.weight(2, 2)

    def model(x, y=None):
        s = pyro.sample("s", dist.Categorical(logits=shared))
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=x @ first))
            with pyro.plate("repeats", 2, dim=-2):
                mean = means[s, a] * x[:, 0]
                return pyro.sample("y", dist.Normal(mean, 1.0), obs=y.T)

    sites = {"s": choices(2, static=True), "a": choices(2)}
    return Program(model, (x, y), sites, draw.parameters)


def by_factor(draw: Draw, n: int = N) -> Program:
    """No y at all: a factor stands for the likelihood."""
    x = draw.data(n, 2)
    first, value = draw.weight(2, 3), draw.weight(3)

    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=x @ first))
            pyro.factor("reward", value[a] * x[:, 1])

    return Program(model, (x,), {"a": choices(3)}, draw.parameters)


def impossible_routes(draw: Draw, n: int = N) -> Program:
    """A constraint forbids some routes: minus infinity for all that follows one."""
    x, y = draw.data(n, 2), draw.data(n)
    first, second = draw.weight(2, 3), draw.weight(3, 2)
    means = draw.weight(3, 2)

    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=x @ first))
            b = pyro.sample("b", dist.Categorical(logits=second[a]))
            allowed = (a != 1) & (b >= 0)
            pyro.factor("allowed", torch.where(allowed, 0.0, -torch.inf))
            return pyro.sample("y", dist.Normal(means[a, b], 1.0), obs=y)

    sites = {"a": choices(3), "b": choices(2)}
    return Program(model, (x, y), sites, draw.parameters)


def with_deterministic(draw: Draw, n: int = N) -> Program:
    x, y = draw.data(n, 2), draw.data(n)
    first, means = draw.weight(2, 3), draw.weight(3)

    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=x @ first))
            mean = pyro.deterministic("mean", means[a] * x[:, 0])
            return pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    return Program(model, (x, y), {"a": choices(3)}, draw.parameters)


def masked(draw: Draw, n: int = N) -> Program:
    """Not every example has a target."""
    x, y = draw.data(n, 2), draw.data(n)
    first, means = draw.weight(2, 3), draw.weight(3)
    seen = torch.arange(n) % 2 == 0

    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=x @ first))
            with poutine.mask(mask=seen):
                return pyro.sample("y", dist.Normal(means[a], 1.0), obs=y)

    return Program(model, (x, y), {"a": choices(3)}, draw.parameters)


def scaled(draw: Draw, n: int = N) -> Program:
    """A tempered likelihood, and weights of examples."""
    x, y = draw.data(n, 2), draw.data(n)
    first, means = draw.weight(2, 3), draw.weight(3)
    weight = torch.linspace(0.5, 2.0, n, dtype=draw.dtype)

    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=x @ first))
            with poutine.scale(scale=0.3), poutine.scale(scale=weight):
                return pyro.sample("y", dist.Normal(means[a], 1.0), obs=y)

    return Program(model, (x, y), {"a": choices(3)}, draw.parameters)


def partly_given(draw: Draw, n: int = N) -> Program:
    """The first decision is given, by conditioning; its probability counts."""
    program = two_sites(draw, n)
    given = torch.arange(n) % 3
    model = pyro.condition(program.model, data={"a": given})
    sites = {"b": program.sites["b"]}
    return program._replace(model=model, sites=sites)


def one_decision_twice(draw: Draw, n: int = N) -> Program:
    """A recurrent net: the same module acts at both steps."""
    x, y = draw.data(n, 2), draw.data(n)
    first = draw.weight(2, 3)
    layers = [torch.nn.Linear(2, 2, dtype=draw.dtype) for _ in range(3)]
    with torch.no_grad():
        for layer in layers:
            layer.weight.copy_(draw.data(2, 2))
            layer.bias.copy_(draw.data(2))
    bank = ModuleBank([torch.nn.Sequential(f, torch.nn.Tanh()) for f in layers])
    draw.parameters.extend(bank.parameters())

    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=x @ first))
            z = bank(bank(x, a), a)
            return pyro.sample("y", dist.Normal(z.sum(-1), 1.0), obs=y)

    return Program(model, (x, y), {"a": choices(3)}, draw.parameters)


BROADCASTING = (
    two_sites,
    marked,
    other_plate_and_supports,
    one_choice_alone,
    one_choice_between,
    static_then_dynamic,
    dynamic_then_static,
    static_around_dynamic,
    static_all,
    repeated_target,
    repeated_static,
    by_factor,
    impossible_routes,
    with_deterministic,
    masked,
    scaled,
    partly_given,
    one_decision_twice,
)


def by_masks(draw: Draw, n: int = N) -> Program:
    """`z[a == m]`, as one writes without a thought for broadcasting."""
    x, y = draw.data(n, 2), draw.data(n)
    first, weight, out = draw.weight(2, 2), draw.weight(2, 2, 2), draw.weight(2)

    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=x @ first))
            z = torch.zeros_like(x)
            for m in range(2):
                z[a == m] = (x[a == m] @ weight[m]).tanh()
            b = pyro.sample("b", dist.Categorical(logits=z))
            mean = (z @ out) * (1.0 + b)
            return pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    sites = {"a": choices(2), "b": choices(2)}
    return Program(model, (x, y), sites, draw.parameters)


def by_loop(draw: Draw, n: int = N) -> Program:
    """A Python loop over examples."""
    x, y = draw.data(n, 2), draw.data(n)
    first, weight = draw.weight(2, 3), draw.weight(3, 2)

    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=x @ first))
            mean = torch.stack([weight[int(a[i])] @ x[i] for i in range(len(x))])
            return pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    return Program(model, (x, y), {"a": choices(3)}, draw.parameters)


def by_scalar_index(draw: Draw, n: int = N) -> Program:
    """`x @ W[a]` with a static decision: a matrix for all examples."""
    x, y = draw.data(n, 2), draw.data(n)
    shared, weight = draw.weight(3), draw.weight(3, 2, 2)

    def model(x, y=None):
        a = pyro.sample("a", dist.Categorical(logits=shared))
        z = x @ weight[a]
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("y", dist.Normal(z.sum(-1), 1.0), obs=y)

    return Program(model, (x, y), {"a": choices(3, static=True)}, draw.parameters)


def by_branch(draw: Draw, n: int = N) -> Program:
    """Python control flow on a static decision, a dynamic one after it."""
    x, y = draw.data(n, 2), draw.data(n)
    shared, first = draw.weight(2), draw.weight(2, 2)
    scale, shift = draw.weight(2), draw.weight(2)

    def model(x, y=None):
        s = pyro.sample("s", dist.Categorical(logits=shared))
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=x @ first))
            mean = scale[a] * x[:, 0] if int(s) == 0 else shift[a] + x[:, 1]
            return pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    sites = {"s": choices(2, static=True), "a": choices(2)}
    return Program(model, (x, y), sites, draw.parameters)


LOOPING = (by_masks, by_loop, by_scalar_index, by_branch)
