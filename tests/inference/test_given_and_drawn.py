"""Routes that are given and routes that are drawn, in one run."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch

from latentroute.inference.assign import drawn_values
from latentroute.inference.program import RoutedProgram
from latentroute.inference.terms import split_terms
from latentroute.models import LayeredNetwork
from latentroute.models.categorical import Categorical
from tests import brute_force as truth
from tests.exact import programs

C, S = 3, 4


def program_of(maker):
    """A program and its arguments."""
    model, args, _, _ = maker(programs.Draw())
    return RoutedProgram(model), args


def some_routes(structure, n):
    """(C, N, L) routes that differ from example to example."""
    n = 1 if all(site.static for site in structure.sites) else n
    generator = torch.Generator().manual_seed(3)
    columns = [
        torch.randint(m, (C, 1 if site.static else n), generator=generator)
        for site, m in zip(structure.sites, structure.n_choices, strict=True)
    ]
    return torch.stack([column.expand(C, n) for column in columns], -1)


def numbers(terms):
    """What depends on the routes: likelihoods, log-priors."""
    return [terms.likelihood, terms.static_likelihood, *terms.prior.values()]


@pytest.mark.parametrize(
    "maker", programs.BROADCASTING + programs.LOOPING, ids=lambda m: m.__name__
)
def test_each_part_is_what_a_run_of_its_own_gives(maker):
    program, args = program_of(maker)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some are run route by route, and say so
        structure = program.structure(*args)
        places = some_routes(structure, structure.n_examples)
        both = program.sample(*args, n_samples=S, given=places)
        given, drawn = split_terms(both, C)
        routes = torch.stack(
            torch.broadcast_tensors(*(drawn.routes[s] for s in structure.names)), -1
        )
        again = program.given(*args, routes=routes)
        alone = program.given(*args, routes=places)
    for site, column in zip(structure.sites, places.unbind(-1), strict=True):
        expected = column[:, :1] if site.static else column
        assert torch.equal(
            given.routes[site.name], expected.expand_as(given.routes[site.name])
        )
    for part, own in ((given, alone), (drawn, again)):
        for one, two in zip(numbers(part), numbers(own), strict=True):
            # Forbidden routes are -inf in both.
            torch.testing.assert_close(one, two.expand_as(one), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("routing", ["dynamic", "static"])
def test_a_network_draws_what_it_draws_alone(routing):
    """The same numbers of the stream: what is given takes none."""
    net = LayeredNetwork(
        2, 3, n_layers=3, n_modules=4, hidden_features=3, routing=routing
    ).double()
    truth.randomise(net, 0)
    x, y = torch.randn(5, 2, dtype=torch.float64), torch.randint(3, (5,))
    program = RoutedProgram(net)
    places = some_routes(program.structure(x, y), len(x))

    def drawn(given):
        torch.manual_seed(7)
        return program.sample(x, y, n_samples=S, given=given)

    drawn(None), drawn(places)  # the first of each kind is compared with a plain run
    alone, (_, beside) = drawn(None), split_terms(drawn(places), C)
    for name, route in alone.routes.items():
        assert torch.equal(route, beside.routes[name])
    for one, two in zip(numbers(alone), numbers(beside), strict=True):
        truth.assert_agree(one, two)


def test_a_route_put_in_the_wrong_place_is_found_out(monkeypatch):
    """The negative control: values drawn for all, none given."""
    program, args = program_of(programs.two_sites)
    structure = program.structure(*args)
    places = some_routes(structure, structure.n_examples)

    def forgetful(structure, n_samples, given):
        return drawn_values(structure, n_samples + len(given), None)

    monkeypatch.setattr("latentroute.inference.program.drawn_values", forgetful)
    given, _ = split_terms(program.sample(*args, n_samples=S, given=places), C)
    alone = program.given(*args, routes=places)
    assert not torch.allclose(given.likelihood, alone.likelihood)


KINDS = {
    "ours, choices last": Categorical,
    "ours, choices first": lambda z: Categorical.choices_first(z.movedim(-1, 0)),
    "pyro's": lambda z: dist.Categorical(logits=z),
    "one-hot": lambda z: dist.OneHotCategorical(logits=z),
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_route_is_drawn_given_its_own_particles_earlier_one(kind):
    """b copies a: drawn from another particle's router, it would be another choice."""
    m = 3
    table = 1e4 * torch.eye(m)

    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=torch.zeros(len(x), m)))
            pyro.sample("b", KINDS[kind](table[a]))
            return pyro.sample("y", dist.Normal(a.float(), 1.0), obs=y)

    torch.manual_seed(0)
    x = torch.zeros(5)
    terms = RoutedProgram(model).sample(
        x, x, n_samples=20, given=torch.randint(m, (C, 5, 2))
    )
    _, fresh = split_terms(terms, C)
    assert torch.equal(fresh.routes["a"], fresh.routes["b"])
    assert len(fresh.routes["a"].unique()) == m
