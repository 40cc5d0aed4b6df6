"""Users' programs against brute force."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch

from latentroute.inference import build, log_marginal, route_posterior
from latentroute.models import GivenRouting, LayeredNetwork, route_sites
from tests import brute_force as truth
from tests.exact import programs
from tests.exact.programs import BROADCASTING, LOOPING, Draw


def named(make):
    return make.__name__


def check(program, table):
    """Marginal, posterior, and the loss of `exact` with its gradient."""
    model, args, _, parameters = program
    expected = truth.log_marginal(table)
    actual = log_marginal(model, *args)
    truth.assert_agree(actual, expected)
    weight = torch.linspace(1.0, 2.0, expected.numel(), dtype=expected.dtype)
    truth.assert_agree(
        truth.gradient((actual.reshape(-1) * weight).sum(), parameters),
        truth.gradient((expected.reshape(-1) * weight).sum(), parameters),
    )
    posterior = route_posterior(model, *args)
    static = [i for i, is_static in enumerate(table.static) if is_static]
    columns = static or range(len(table.static))
    sizes = [table.sizes[i] for i in columns]
    every = torch.cartesian_prod(*map(torch.arange, sizes)).reshape(-1, len(sizes))
    assert torch.equal(posterior.routes, every)
    assert posterior.names == tuple(list(program.sites)[i] for i in columns)
    truth.assert_agree(posterior.log_probs.exp(), truth.log_posterior(table).exp())
    loss = build("exact", model, parameters=parameters)(*args)
    expected_loss = -expected.sum() / len(args[0])
    truth.assert_agree(loss, expected_loss)
    truth.assert_agree(
        truth.gradient(loss, parameters), truth.gradient(expected_loss, parameters)
    )


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("make", BROADCASTING, ids=named)
def test_broadcasting_programs(make, n):
    program = make(Draw(), n)
    check(program, truth.tabulate(program.model, program.args, program.sites))


@pytest.mark.parametrize("make", BROADCASTING, ids=named)
def test_float32(make):
    program = make(Draw(torch.float32))
    exact = make(Draw(torch.float64))
    table = truth.tabulate(exact.model, exact.args, exact.sites)
    expected = truth.log_marginal(table)
    actual = log_marginal(program.model, *program.args)
    assert actual.dtype == torch.float32
    truth.assert_agree(actual, expected)
    truth.assert_agree(
        truth.gradient(actual.sum(), program.parameters),
        truth.gradient(expected.sum(), exact.parameters),
    )


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("make", LOOPING, ids=named)
def test_programs_that_do_not_broadcast_are_looped_over_and_told_so(make, n):
    program = make(Draw(), n)
    table = truth.tabulate(program.model, program.args, program.sites)
    for seed in range(5):  # whatever route a comparison of runs may draw
        torch.manual_seed(seed)
        with pytest.warns(UserWarning, match="broadcast"):
            log_marginal(program.model, *program.args)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(program, table)


@pytest.mark.parametrize("make", LOOPING, ids=named)
def test_a_program_is_said_to_loop_once_not_at_every_step(make):
    program = make(Draw())
    objective = build("exact", program.model, parameters=program.parameters)
    with pytest.warns(UserWarning, match="broadcast") as caught:
        objective(*program.args)
        objective(*program.args)
    assert len(caught) == 1


@pytest.mark.parametrize("seed", range(8))
def test_an_index_that_lands_on_another_sites_dimension_is_found_out(seed):
    """`x @ W[s]` puts the choices of s where those of t belong.

    Shapes fit, so only the numbers tell: those of routes with s = t are right.
    """
    draw = Draw(seed=3)
    x, y, u = draw.data(3, 2), draw.data(3), draw.data(3)
    shared, later = draw.weight(2), draw.weight(2)
    weight, means = draw.weight(2, 2, 2), draw.weight(2)

    def model(x, y=None):
        s = pyro.sample("s", dist.Categorical(logits=shared))
        t = pyro.sample("t", dist.Categorical(logits=later))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("u", dist.Normal(means[t], 1.0), obs=u)
            mean = (x @ weight[s]).sum(-1)
            return pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    sites = {name: truth.choices(2, static=True) for name in ("s", "t")}
    expected = truth.log_marginal(truth.tabulate(model, (x, y), sites))
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        truth.assert_agree(log_marginal(model, x, y), expected)


def test_a_loop_that_fits_when_there_are_as_many_examples_as_modules_is_found_out():
    """N = M = 2 and one feature: `z[a == m]` runs, and mixes up examples and routes."""
    draw = Draw()
    x, y = draw.data(2, 1), draw.data(2)
    logits, weight = draw.weight(2), draw.weight(2)

    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=logits.expand(len(x), 2)))
            z = torch.zeros_like(x)
            for m in range(2):
                z[a == m] = weight[m] * x[a == m]
            return pyro.sample("y", dist.Normal(z[:, 0], 1.0), obs=y)

    table = truth.tabulate(model, (x, y), {"a": truth.choices(2)})
    with pytest.warns(UserWarning, match="broadcast"):
        actual = log_marginal(model, x, y)
    truth.assert_agree(actual, truth.log_marginal(table))


@pytest.mark.parametrize("routing", ["dynamic", "static"])
def test_a_subsampled_plate_scales_nothing(routing):
    net = LayeredNetwork(
        2, 2, n_layers=2, n_modules=2, hidden_features=2, routing=routing
    ).double()
    truth.randomise(net, 0)
    x, y = Draw().data(3, 2), torch.tensor([0, 1, 1])
    index = torch.tensor([7, 2, 5])

    def subsampled(x, y=None):
        return net(x, y, index, n_data=50)

    whole = truth.tabulate(net, (x, y), truth.network_sites(2, 2, 1, routing))
    truth.assert_agree(log_marginal(subsampled, x, y), truth.log_marginal(whole))
    truth.assert_agree(
        route_posterior(subsampled, x, y).log_probs, truth.log_posterior(whole)
    )


def test_a_users_subsampled_plate_scales_nothing_and_keeps_the_models_own_scale():
    program = programs.scaled(Draw())
    plain = truth.tabulate(program.model, program.args, program.sites)
    first, means = program.parameters

    def subsampled(x, y=None):
        rows = torch.tensor([4, 0, 9])
        weight = torch.linspace(0.5, 2.0, 3, dtype=torch.float64)
        with pyro.plate("data", 10, subsample=rows, dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=x @ first))
            with pyro.poutine.scale(scale=0.3), pyro.poutine.scale(scale=weight):
                return pyro.sample("y", dist.Normal(means[a], 1.0), obs=y)

    truth.assert_agree(
        log_marginal(subsampled, *program.args), truth.log_marginal(plain)
    )


@pytest.mark.parametrize("n_data", [3, 12])
@pytest.mark.parametrize(
    "make", [m for m in BROADCASTING if "static" in m.__name__], ids=named
)
def test_exact_raises_a_minibatchs_likelihood_to_n_over_b_where_it_is_coupled(
    make, n_data
):
    model, args, sites, parameters = program = make(Draw())
    table = truth.tabulate(model, args, sites)
    index = torch.tensor([2, 0, 1])
    objective = build("exact", model, parameters=parameters, n_data=n_data)
    loss = objective(*args, index=index)
    expected = -truth.log_marginal(table, data_scale=n_data / 3) / n_data
    truth.assert_agree(loss, expected)
    truth.assert_agree(
        truth.gradient(loss, program.parameters),
        truth.gradient(expected, program.parameters),
    )


@pytest.mark.parametrize("n_data", [None, 12])
@pytest.mark.parametrize("make", BROADCASTING, ids=named)
def test_exact_router_elbo(make, n_data):
    if make is programs.impossible_routes:
        n_data = None  # its value is -inf, which the next lines say
    model, args, sites, parameters = make(Draw())
    table = truth.tabulate(model, args, sites)
    objective = build(
        "exact", model, parameters=parameters, n_data=n_data, target="router-elbo"
    )
    index = None if n_data is None else torch.tensor([2, 0, 1])
    y = args[1] if len(args) > 1 else None
    loss = objective(args[0], y, index)
    expected = -truth.router_elbo(table, n_data=n_data)
    if make is programs.impossible_routes:
        assert loss == expected == torch.inf
        return
    truth.assert_agree(loss, expected)
    truth.assert_agree(
        truth.gradient(loss, parameters), truth.gradient(expected, parameters)
    )


@pytest.mark.parametrize("routing", ["dynamic", "static"])
def test_given_routes_have_their_own_joint_likelihood(routing):
    net = LayeredNetwork(
        2, 2, n_layers=2, n_modules=3, hidden_features=2, routing=routing
    ).double()
    truth.randomise(net, 0)
    x, y = Draw().data(4, 2), torch.tensor([0, 1, 1, 0])
    names = ["route_0", "route_1"]
    table = truth.tabulate(net, (x, y), truth.network_sites(2, 3, 1, routing))
    if routing == "static":
        given = GivenRouting(net, torch.tensor([2, 1]), names)
        row = 2 * 3 + 1
        expected = table.likelihood[row].sum() + table.static_prior[row]
    else:
        routes = torch.tensor([[0, 1], [2, 2], [1, 0], [0, 0]])
        given = GivenRouting(net, routes, names)
        rows = routes[:, 0] * 3 + routes[:, 1]
        expected = (table.likelihood + table.prior)[rows, torch.arange(4)]
    truth.assert_agree(log_marginal(given, x, y), expected)
    loss = build("exact", given)(x, y)
    truth.assert_agree(loss, -expected.sum() / 4)
    with pytest.raises(ValueError, match="every routing site is given"):
        route_posterior(given, x, y)


def test_log_marginal_of_a_model_with_its_own_parameters_leaves_no_global_state():
    program = programs.two_sites(Draw())
    pyro.clear_param_store()
    state = torch.get_rng_state()
    log_marginal(program.model, *program.args)
    route_posterior(program.model, *program.args)
    assert torch.equal(state, torch.get_rng_state())
    assert not list(pyro.get_param_store())


@pytest.mark.parametrize("make", BROADCASTING, ids=named)
def test_route_sites_of_programs(make):
    program = make(Draw())
    assert route_sites(program.model, *program.args) == list(program.sites)
