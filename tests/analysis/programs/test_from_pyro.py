"""Trees of programs that were fitted as Pyro's documentation fits them."""

import json
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDelta, AutoNormal

import latentroute as lr
from latentroute.analysis import from_pyro, load, save
from latentroute.inference.weight_draws import WeightDraws
from tests.analysis.programs import programs

DATA = torch.tensor([0.0, 1.0, 10.0, 11.0, 12.0])
GLOBALS = ["weights", "scale", "locs"]


@pytest.fixture(autouse=True)
def own_store():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    yield
    pyro.clear_param_store()


def trained(guide_type, steps=80):
    """A guide for the mixture, the assignment blocked, as in gmm.ipynb."""
    guide = guide_type(
        poutine.block(programs.mixture, expose=GLOBALS),
        init_loc_fn=lambda site: {
            "weights": torch.full((2,), 0.5),
            "scale": torch.tensor(1.0),
            "locs": torch.tensor([1.0, 11.0]),
        }[site["name"]],
    )
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    model = config_enumerate(programs.mixture)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), elbo)
    for _ in range(steps):
        svi.step(DATA)
    return guide, svi


@pytest.fixture(scope="module")
def normal_guide():
    pyro.set_rng_seed(0)
    return trained(AutoNormal, steps=200)


@pytest.fixture(scope="module")
def sampled():
    """NUTS on the sequences of model_1, its states summed out by Pyro."""
    pyro.set_rng_seed(1)
    sequences = torch.bernoulli(torch.full((3, 4, 2), 0.4))
    args = (sequences, torch.tensor([4, 4, 3]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pyro's own, at this torch
        kernel = NUTS(programs.hmm, max_plate_nesting=2, max_tree_depth=3)
        mcmc = MCMC(kernel, num_samples=6, warmup_steps=4, disable_progbar=True)
        mcmc.run(*args)
    return mcmc, args


def test_mixture_with_a_point_estimate():
    guide, _ = trained(AutoDelta)
    tree = from_pyro(programs.mixture, guide, DATA, draws=50, prior_draws=7)
    assert list(tree.children) == [
        "posterior",
        "log_likelihood",
        "posterior_predictive",
        "sample_stats",
        "prior",
        "prior_predictive",
        "observed_data",
    ]
    posterior = tree["posterior"]
    assert {str(k): v.dims[2:] for k, v in posterior.data_vars.items()} == {
        "weights": ("weights_dim_0",),
        "scale": (),
        "locs": ("components",),
        "assignment": ("data",),
    }
    assert posterior["assignment"].dtype == np.int64
    fitted = guide.median()
    np.testing.assert_array_equal(posterior["locs"][0, 7], fitted["locs"].detach())
    # the data are far apart: every draw says so, and the likelihood is a constant
    assert (posterior["assignment"].values == [0, 0, 1, 1, 1]).all()
    log_lik = tree["log_likelihood/obs"]
    assert log_lik.dims == ("chain", "draw", "data")
    assert (log_lik == log_lik.isel(draw=0)).all()
    assert "log_weight" not in tree["sample_stats"]
    assert tree["prior/assignment"].shape == (1, 7, 5)
    assert tree["prior_predictive/obs"].shape == (1, 7, 5)
    np.testing.assert_array_equal(tree["observed_data/obs"], DATA)


def test_mixture_with_a_guide_over_its_parameters(normal_guide):
    _, svi = normal_guide
    tree = from_pyro(programs.mixture, svi, DATA, draws=80, prior_draws=0)
    assert "prior" not in tree.children
    assert float(tree["posterior/scale"].std()) > 0
    weight = tree["sample_stats/log_weight"]
    assert weight.shape == (1, 80)
    assert tree.attrs["guide_pareto_k"] < 1
    # E_q[log p(y, w) - log q(w)] is the ELBO
    loss = np.mean([svi.evaluate_loss(DATA) for _ in range(80)])
    spread = float(weight.std()) / np.sqrt(80)
    assert abs(float(weight.mean()) + loss) < 6 * spread


def test_hidden_markov_model_with_nuts(sampled):
    mcmc, args = sampled
    tree = from_pyro(programs.hmm, mcmc, *args, prior_draws=3)
    posterior = tree["posterior"]
    assert posterior["x"].dims == ("chain", "draw", "step", "sequences")
    assert posterior["x"].shape == (1, 6, 4, 3)
    found = mcmc.get_samples(group_by_chain=True)["probs_x"]
    np.testing.assert_array_equal(posterior["probs_x"], found)
    assert tree["log_likelihood/y"].dims == ("chain", "draw", "sequences")
    observed = tree["observed_data/y"]
    assert observed.dims == ("step", "sequences", "tones")
    np.testing.assert_array_equal(observed, args[0].transpose(0, 1))
    assert tree["posterior_predictive/y"].shape == (1, 6, 4, 3, 2)
    assert tree["prior/x"].shape == (1, 3, 4, 3)
    # what is not observed, but given
    np.testing.assert_array_equal(tree["constant_data/lengths"], args[1])
    assert tree["sample_stats/diverging"].dtype == bool
    assert tree.attrs["sampler"] == "NUTS"


def test_pyros_own_likelihood_agrees(sampled):
    """The sum over states is minus TraceEnum_ELBO's loss at the same parameters."""
    mcmc, args = sampled
    tree = from_pyro(programs.hmm, mcmc, *args, prior_draws=0)
    elbo = TraceEnum_ELBO(max_plate_nesting=2)
    for draw in range(3):
        at = {name: value[draw] for name, value in mcmc.get_samples().items()}
        model = pyro.condition(config_enumerate(programs.hmm), data=at)
        loss = elbo.loss(model, lambda *_: None, *args)
        lp = float(tree["sample_stats/lp"][0, draw])
        assert lp == pytest.approx(-loss, rel=1e-5)


def test_program_without_a_plate_or_continuous_sites():
    temperature = torch.tensor(60.0)
    with pytest.warns(UserWarning, match="does not broadcast"):
        tree = from_pyro(programs.weather, None, temperature, draws=5)
    assert tree["posterior/cloudy"].dims == ("chain", "draw")
    assert tree["posterior/cloudy"].dtype == np.int64
    joint = [
        np.log(p) + dist.Normal(mean, scale).log_prob(temperature).item()
        for p, mean, scale in [(0.3, 55.0, 10.0), (0.7, 75.0, 15.0)]
    ]
    assert float(tree["log_likelihood/temp"][0, 0]) == pytest.approx(
        np.logaddexp(*joint), rel=1e-6
    )


def test_attributes():
    tree = from_pyro(
        programs.looped, None, DATA, draws=2, attrs={"run": {"lr": 0.1}, "seed": 3}
    )
    group = tree["posterior"].attrs
    assert group["inference_library"] == "pyro"
    assert group["inference_library_version"] == pyro.__version__
    assert {"created_at", "creation_library", "creation_library_version"} <= set(group)
    assert tree.attrs["exact"] == 1
    assert json.loads(tree.attrs["run"]) == {"lr": 0.1}
    assert set(json.loads(tree.attrs["versions"])) >= {"python", "torch", "pyro-ppl"}


def test_own_dims_and_coords():
    guide, _ = trained(AutoDelta, steps=1)
    names = ["low", "high"]
    tree = from_pyro(
        programs.mixture,
        guide,
        DATA,
        draws=2,
        dims={"weights": ["components"]},
        coords={"components": names, "data": np.arange(5) * 10},
    )
    assert tree["posterior/weights"].dims[2:] == ("components",)
    assert tree["posterior"]["components"].values.tolist() == names
    assert tree["log_likelihood"]["data"].values.tolist() == [0, 10, 20, 30, 40]


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_round_trip(sampled, tmp_path, suffix):
    mcmc, args = sampled
    labels = {"tones": ["do", "ré"], "sequences": np.array([3, 5, 9], np.int16)}
    tree = from_pyro(programs.hmm, mcmc, *args, prior_draws=2, coords=labels)
    again = load(save(tree, tmp_path / f"run{suffix}"))
    xr.testing.assert_identical(again, tree)
    assert list(again.children) == list(tree.children)
    for group, node in tree.children.items():
        for name, variable in node.variables.items():
            assert again[group].variables[name].dtype == variable.dtype


def test_arviz_takes_it(normal_guide):
    import arviz_stats

    guide, _ = normal_guide
    tree = from_pyro(programs.mixture, guide, DATA, draws=100, prior_draws=0)
    table = arviz_stats.summary(tree, var_names=["locs"], round_to=3)
    assert list(table.index) == ["locs[0]", "locs[1]"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few data: some Pareto k are large
        loo = arviz_stats.loo(tree, pointwise=True)
    assert loo.n_data_points == 5
    assert float(loo.elpd) < float(
        tree["log_likelihood/obs"].mean(("chain", "draw")).sum()
    )


def test_deterministic_sites_follow_the_drawn_choices():
    y = torch.tensor([[0.3, 2.0], [4.0, 1.0]])
    tree = from_pyro(programs.nested, None, y, draws=20)
    posterior = tree["posterior"]
    np.testing.assert_array_equal(posterior["effect"], 2 * posterior["g"])
    assert posterior["effect"].dims == ("chain", "draw", "groups")


def test_given_discrete_draws_are_kept_and_still_summed_out_of_the_likelihood():
    x = torch.tensor([0.3, -1.0, 0.5])
    mine = torch.tensor([[1, 1, 0], [0, 1, 0]])
    free = from_pyro(programs.shared, None, x, DATA[:3], draws=2)
    tree = from_pyro(programs.shared, {"a": mine}, x, DATA[:3])
    np.testing.assert_array_equal(tree["posterior/a"][0], mine)
    xr.testing.assert_equal(
        tree["log_likelihood"].to_dataset(), free["log_likelihood"].to_dataset()
    )


def test_chains_are_kept_apart():
    y = torch.tensor([0.2, 1.4])
    w = torch.randn(3, 5, 2)
    tree = from_pyro(programs.local, {"w": w}, y)
    np.testing.assert_array_equal(tree["posterior/w"], w)
    assert tree["log_likelihood/y"].shape == (3, 5, 2)
    one = from_pyro(programs.local, {"w": w[1]}, y)
    np.testing.assert_array_equal(
        one["log_likelihood/y"][0], tree["log_likelihood/y"][1]
    )


def test_a_network_and_draws_of_its_weights():
    torch.manual_seed(0)
    net = lr.LayeredNetwork(2, 3, n_layers=2, n_modules=2, hidden_features=3)
    x, y = torch.randn(6, 2), torch.arange(6) % 3
    tree = from_pyro(net, None, x, y, draws=3, prior_draws=0)
    truth = lr.log_marginal(net, x, y).detach()
    for draw in range(3):
        np.testing.assert_allclose(tree["log_likelihood/y"][0, draw], truth, rtol=1e-5)
    assert tree["posterior/route_1"].dims == ("chain", "draw", "data")
    assert tree["constant_data/x"].dims == ("data", "x_dim_0")
    parameters = dict(net.named_parameters())
    name, parameter = next(iter(parameters.items()))
    values = torch.stack([parameter.detach(), parameter.detach() + 1])[None]
    draws = WeightDraws((parameter,), (name,), (values,), {"lp": torch.zeros(1, 2)})
    drawn = from_pyro(net, draws, x, y, prior_draws=0)
    np.testing.assert_array_equal(drawn["posterior"][name], values)
    np.testing.assert_allclose(drawn["log_likelihood/y"][0, 0], truth, rtol=1e-5)
    assert not np.allclose(drawn["log_likelihood/y"][0, 1], truth)
    assert (drawn["sample_stats/lp"] == 0).all()  # the sampler's own


def test_too_many_routes_are_weighted_and_say_so(monkeypatch):
    """Where the table is not allowed, the likelihood is still right, to its error."""
    torch.manual_seed(0)
    net = lr.LayeredNetwork(2, 3, n_layers=2, n_modules=3, hidden_features=3)
    x, y = torch.randn(6, 2), torch.arange(6) % 3
    exact = lr.log_marginal(net, x, y).detach()
    path = "latentroute.analysis.programs.factors.free_memory"
    monkeypatch.setattr(path, lambda: 64 * 20)
    with pytest.warns(UserWarning, match=r"by importance sampling, .* Pareto k is up"):
        tree = from_pyro(net, None, x, y, draws=50, prior_draws=0)
    assert tree.attrs["exact"] == 0
    importance = tree["importance"]
    assert importance["pareto_k"].dims == ("chain", "draw", "data")
    assert (importance["pareto_k"] < 0.7).all()
    far = np.abs(tree["log_likelihood/y"] - exact.numpy()) / importance["error"]
    assert float(far.max()) < 6
    assert set(np.unique(tree["posterior/route_0"])) == {0, 1, 2}


def test_coupled_sites_that_are_too_many_are_refused(monkeypatch):
    path = "latentroute.analysis.programs.factors.free_memory"
    monkeypatch.setattr(path, lambda: 64 * 2)
    with pytest.raises(ValueError, match=r"neither exactly .* nor by importance"):
        from_pyro(programs.looped, None, DATA, draws=2)


def test_the_generator_is_left_alone_and_the_seed_decides():
    before = torch.get_rng_state()
    trees = [from_pyro(programs.looped, None, DATA, draws=9, seed=s) for s in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    xr.testing.assert_equal(trees[0], trees[1])
    assert not trees[0]["posterior"].equals(trees[2]["posterior"])


def test_sites_named_by_scopes():
    def model(y):
        w = pyro.sample("block/w", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(w, 1.0), obs=y)

    tree = from_pyro(model, {"block/w": torch.zeros(4)}, torch.tensor(0.5))
    assert "block.w" in tree["posterior"]


def sub(y):
    with pyro.plate("rows", len(y), subsample_size=2) as rows:
        pyro.sample("y", dist.Normal(0.0, 1.0), obs=y[rows])


def outside(y):
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Categorical(torch.ones(2)))
    pyro.sample("y", dist.Normal(z.float(), 1.0).to_event(1), obs=y)


def improper(y):
    support = dist.constraints.real
    w = pyro.sample("w", dist.ImproperUniform(support, (), ()))
    pyro.sample("y", dist.Normal(w, 1.0).expand([5]).to_event(1), obs=y)


@pytest.mark.parametrize(
    ("model", "source", "message"),
    [
        (programs.local, None, r"latent site 'w' has no draws"),
        (programs.local, {"w": torch.zeros(4)}, r"'w': got shape \(4,\), expected"),
        (programs.local, {"v": torch.zeros(4)}, r"got sites \['v'\], expected some"),
        (programs.local, lambda y: None, r"the guide draws none of .* \['w', 'z'\]"),
        (sub, None, r"plate 'rows': got 2 of 5 rows, other ones at each run"),
        (outside, None, r"'y' depends on sites in plate 'rows' and stands outside"),
        (improper, {"w": torch.zeros(4)}, "pass prior_draws=0"),
    ],
)
def test_refused_in_one_line(model, source, message):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=message):
            from_pyro(model, source, DATA)


def test_refuses_what_holds_no_draws():
    with pytest.raises(TypeError, match="guide_or_samples: got int, expected a guide"):
        from_pyro(programs.local, 3, DATA)


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ({"nothing": ["a"]}, "'nothing', which is no variable"),
        ({"w": ["a", "b"]}, r"dims of 'w': got \['a', 'b'\], expected as many as"),
    ],
)
def test_refuses_dims_that_do_not_fit(dims, message):
    with pytest.raises(ValueError, match=message):
        from_pyro(programs.local, {"w": torch.zeros(2, 5)}, DATA, dims=dims)


@pytest.mark.parametrize("coords", [{"nothing": ["a"]}, {"rows": ["a", "b"]}])
def test_refuses_coords_that_do_not_fit(coords):
    def model(y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(w, 1.0), obs=y)

    draws = {"w": torch.zeros(2)}
    named = from_pyro(model, draws, DATA, coords={"rows": range(1, len(DATA) + 1)})
    assert named["observed_data"]["rows"].values.tolist()[0] == 1
    dim = next(iter(coords))
    with pytest.raises(ValueError, match=f"coords of '{dim}': got .* labels, expected"):
        from_pyro(model, draws, DATA, coords=coords)
