"""Likelihoods, log joints and draws of discrete sites against every assignment."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch

from latentroute.analysis import from_pyro
from tests.analysis.programs import programs
from tests.analysis.programs.assignments import assignment_of, flat, tabulate
from tests.statistics import assert_frequencies

BINARY = torch.arange(2)
Y = torch.tensor([0.2, 1.4, -0.7])


def given_draws(n, **priors):
    """Draws of sites, made by hand."""
    torch.manual_seed(0)
    return {name: prior.sample((n,)) for name, prior in priors.items()}


def elements(name):
    return lambda observed: observed[name]


def everything(observed):
    return sum(flat(o).sum(1) for o in observed.values())


def per_sequence(observed):
    return sum(o.sum(-1) for o in observed.values())


HMM_ARGS = (
    torch.bernoulli(
        torch.full((2, 3, 2), 0.5), generator=torch.Generator().manual_seed(1)
    ),
    torch.tensor([3, 2]),
)
CASES = {
    "mixture": (
        programs.mixture,
        (torch.tensor([0.0, 1.0, 10.0, 11.0]),),
        {"assignment": (BINARY, (4,))},
        given_draws(
            3,
            weights=dist.Dirichlet(torch.ones(2)),
            scale=dist.LogNormal(0.0, 1.0),
            locs=dist.Normal(torch.zeros(2), 10.0),
        ),
        {"obs": (elements("obs"), ("data",))},
    ),
    "hmm": (
        programs.hmm,
        HMM_ARGS,
        {f"x_{t}": (BINARY, (2, 1)) for t in range(3)},
        given_draws(
            3,
            probs_x=dist.Dirichlet(torch.ones(2, 2)),
            probs_y=dist.Beta(torch.ones(2, 2), 1.0),
        ),
        {"y": (per_sequence, ("sequences",))},
    ),
    "sprinkler": (
        programs.sprinkler,
        (torch.tensor(1.0),),
        {"rain": (torch.tensor([0.0, 1.0]), ()), "on": (torch.tensor([0.0, 1.0]), ())},
        given_draws(3, p=dist.Beta(2.0, 2.0)),
        {"wet": (elements("wet"), ())},
    ),
    "shared": (
        programs.shared,
        (torch.tensor([0.3, -1.0, 0.5]), Y),
        {"b": (torch.arange(3), ()), "a": (BINARY, (3,))},
        {},
        {
            "u": (lambda o: o["u"].sum(1), ()),
            "v": (elements("v"), ("rows",)),
        },
    ),
    "local": (
        programs.local,
        (Y,),
        {"z": (BINARY, (3,))},
        given_draws(3, w=dist.Normal(torch.zeros(3), 2.0)),
        {"y": (elements("y"), ("rows",))},
    ),
    "nested": (
        programs.nested,
        (torch.tensor([[0.3, 2.0], [4.0, 1.0]]),),
        {"g": (BINARY, (2, 1)), "h": (torch.arange(2.0), (2, 2))},
        {},
        {"y": (lambda o: o["y"].sum(-1), ("groups",))},
    ),
    "looped": (
        programs.looped,
        (Y,),
        {f"z_{i}": (BINARY, ()) for i in range(3)},
        {},
        {"y": (lambda o: torch.stack([*o.values()], 1), ("trials",))},
    ),
    "second order": (
        programs.second_order,
        (torch.tensor([0.2, 1.4, -0.7, 1.0]),),
        {f"s_{t}": (BINARY, ()) for t in range(4)},
        {},
        {"y": (everything, ())},
    ),
    "weather": (
        programs.weather,
        (torch.tensor(60.0),),
        {"cloudy": (torch.tensor([0.0, 1.0]), ())},
        {},
        {"temp": (elements("temp"), ())},
    ),
}


def convert(name, draws=4, **options):
    model, args, _, given, _ = CASES[name]
    options = {"prior_draws": 0, "draws": draws, **options}
    if name == "weather":
        with pytest.warns(UserWarning, match=r"run once .* \(RuntimeError: a Tensor"):
            return from_pyro(model, given or None, *args, **options)
    return from_pyro(model, given or None, *args, **options)


@pytest.mark.parametrize("name", CASES)
def test_likelihood_and_log_joint(name):
    model, args, discrete, given, likelihoods = CASES[name]
    tree = convert(name)
    assert set(tree["log_likelihood"].data_vars) == set(likelihoods)
    for draw in range(tree.sizes.get("draw", 0) or tree["posterior"].sizes["draw"]):
        at = {site: values[draw] for site, values in given.items()}
        table = tabulate(model, args, discrete, at)
        found = float(tree["sample_stats/lp"][0, draw])
        assert found == pytest.approx(table.lp().item(), rel=1e-6)
        for variable, (pick, dims) in likelihoods.items():
            values = tree[f"log_likelihood/{variable}"]
            assert values.dims == ("chain", "draw", *dims)
            truth = table.log_likelihood(pick).reshape(values.shape[2:]).numpy()
            np.testing.assert_allclose(values[0, draw], truth, rtol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_discrete_sites_are_drawn_from_their_joint_posterior(name):
    model, args, discrete, given, _ = CASES[name]
    at = {site: values[0] for site, values in given.items()}
    table = tabulate(model, args, discrete, at)
    n = 600
    same = {site: v.expand(n, *v.shape) for site, v in at.items()} or None
    options = {"draws": n, "prior_draws": 0}
    if name == "weather":
        with pytest.warns(UserWarning, match="does not broadcast"):
            tree = from_pyro(model, same, *args, **options)
    else:
        tree = from_pyro(model, same, *args, **options)
    drawn = {site: drawn_of(tree, site) for site in discrete}
    found = assignment_of(table, drawn)
    assert_frequencies(found, table.posterior)
    # sharp enough to see draws that ignore the data
    with pytest.raises(AssertionError):
        assert_frequencies(found, table.prior.softmax(0))


def drawn_of(tree, site):
    """(n, ...) draws of one site, out of its loop's variable where it has one."""
    posterior = tree["posterior"]
    if site in posterior:
        return torch.from_numpy(posterior[site].values[0])
    stem, number = site.rsplit("_", 1)
    (dim,) = {"step", "trials"} & set(posterior[stem].dims)
    return torch.from_numpy(posterior[stem].sel({dim: int(number)}).values[0])
