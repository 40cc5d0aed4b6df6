"""The normal guide over the weights, against brute force at the weights drawn."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.func import functional_call

from latentroute.guides import LaplacePrior, NormalPrior, WeightGuide
from latentroute.guides.weights import weights_at
from latentroute.inference import ScoreFunction, SVIBayes, build, fit
from tests import brute_force as truth
from tests.exact import programs
from tests.exact.programs import Draw
from tests.inference.estimators.guided_nets import make_extreme, make_net, shifted
from tests.statistics import assert_mean

PRIOR = NormalPrior(mean=0.3, scale=1.5)
N_DATA = 12


def fix_noise(objective, args, seed=3, spread=True):
    """Give the guide scales of its own, and the same noise at every call."""
    index = torch.arange(len(args[0]))
    objective.prepare(*args, index)
    guide = objective.guide
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        size = guide.log_scale.shape
        guide.log_scale.add_(torch.randn(size, generator=generator).double())
    noise = [
        torch.randn(s.shape, generator=generator).double() for s in guide.log_scales
    ]
    guide.noise = lambda: noise
    return noise, index


def kl(means, log_scales, prior):
    """The closed form of torch's own."""
    p = Normal(*torch.tensor([prior.mean, prior.scale], dtype=torch.float64))
    return sum(
        kl_divergence(Normal(m, s.exp()), p).sum()
        for m, s in zip(means, log_scales, strict=True)
    )


@pytest.mark.parametrize("routing", ["dynamic", "static"])
def test_loss_and_gradient_of_a_network(routing):
    net, args, sites = make_net(routing=routing)
    objective = SVIBayes(prior=PRIOR)(net, n_data=N_DATA, seed=0)
    noise, index = fix_noise(objective, args)
    names = [name for name, _ in net.named_parameters()]
    means, log_scales = list(net.parameters()), objective.guide.log_scales
    drawn = [m + s.exp() * e for m, s, e in zip(means, log_scales, noise, strict=True)]
    weights = dict(zip(names, drawn, strict=True))

    def at_the_draw(x, y):
        return functional_call(net, weights, (x, y))

    table = truth.tabulate(at_the_draw, args, sites)
    if routing == "static":
        marginal = truth.log_marginal(table, data_scale=4.0) / N_DATA
    else:
        marginal = truth.log_marginal(table).mean()
    expected = -marginal + kl(means, log_scales, PRIOR) / N_DATA
    every = [*means, objective.guide.log_scale]
    assert {id(p) for p in every} == {id(p) for p in objective.parameters()}
    loss = objective(*args, index)
    truth.assert_agree(loss, expected)
    ours = truth.gradient(loss, every)
    truth.assert_agree(ours, truth.gradient(expected, every))
    # The negative control: the gradient at the mean is another.
    at_mean = truth.log_marginal(truth.tabulate(net, args, sites)).mean()
    wrong = -at_mean + kl(means, log_scales, PRIOR) / N_DATA
    with pytest.raises(AssertionError, match="off by"):
        truth.assert_agree(ours, truth.gradient(wrong, every), tolerance=1e-2)


def test_a_bare_program_closes_over_its_weights():
    model, args, sites, parameters = programs.two_sites(Draw())
    objective = SVIBayes(prior=PRIOR)(
        model, parameters=parameters, n_data=N_DATA, seed=0
    )
    noise, index = fix_noise(objective, args)
    log_scales = objective.guide.log_scales
    before = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        drawn = objective.guide.weights(noise)
    with weights_at(parameters, drawn):
        marginal = -truth.log_marginal(truth.tabulate(model, args, sites)).mean()
        at_draw = torch.autograd.grad(marginal, parameters)
    divergence = kl(parameters, log_scales, PRIOR) / N_DATA
    loss = objective(*args, index)
    truth.assert_agree(loss, marginal + divergence)
    ours = truth.gradient(loss, parameters)
    by_hand = torch.cat([g.reshape(-1) for g in at_draw])
    truth.assert_agree(ours, by_hand + truth.gradient(divergence, parameters))
    scaled = [
        g * s.exp() * e for g, s, e in zip(at_draw, log_scales, noise, strict=True)
    ]
    truth.assert_agree(
        truth.gradient(loss, [objective.guide.log_scale]),
        torch.cat([g.reshape(-1) for g in scaled])
        + truth.gradient(divergence, [objective.guide.log_scale]),
    )
    for parameter, value in zip(parameters, before, strict=True):
        assert torch.equal(parameter, value)


def test_sampled_routes_are_the_score_function_at_the_weights_drawn():
    net, args, _ = make_net()
    method = SVIBayes(routes="sample", n_samples=4, prior=PRIOR)
    objective = method(net, n_data=N_DATA, seed=5)
    noise, index = fix_noise(objective, args)
    parameters = list(net.parameters())
    divergence = kl(parameters, objective.guide.log_scales, PRIOR) / N_DATA
    plain = ScoreFunction(n_samples=4)(net, n_data=N_DATA, seed=5)
    with torch.no_grad():
        drawn = objective.guide.weights(noise)
    with weights_at(parameters, drawn):
        expected = plain(*args, index)
        at_draw = truth.gradient(expected, parameters)
    loss = objective(*args, index)
    truth.assert_agree(loss, expected + divergence)
    truth.assert_agree(
        truth.gradient(loss, parameters),
        at_draw + truth.gradient(divergence, parameters),
    )


def test_it_finds_the_posterior_of_a_linear_model():
    """One module: y = w x + Normal(0, 1), w ~ Normal(0, 1), known in closed form."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 1, generator=generator, dtype=torch.float64)
    y = 1.5 * x[:, 0] + torch.randn(20, generator=generator, dtype=torch.float64)
    w = torch.zeros(1, dtype=torch.float64, requires_grad=True)

    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=x.new_zeros(1)))
            return pyro.sample("y", dist.Normal(w[a] * x[:, 0], 1.0), obs=y)

    options = {"parameters": [w], "batch_size": 20, "log_every": 400}
    result = fit(model, (x, y), "svi-bayes", steps=400, lr=0.02, **options)
    precision = 1 + x.square().sum()
    scale = result.objective.guide.log_scales[0].exp()
    assert scale.item() == pytest.approx(precision.rsqrt().item(), rel=0.15)
    exact = (x[:, 0] @ y / precision).item()
    assert w.item() == pytest.approx(exact, abs=0.5 * scale.item())
    draws = []
    for _ in range(200):
        with result.objective.guide.drawn():
            draws.append(w.item())
    assert torch.tensor(draws).std().item() == pytest.approx(scale.item(), rel=0.3)
    assert w.item() == pytest.approx(exact, abs=0.5 * scale.item())


@pytest.mark.parametrize("prior", [PRIOR, LaplacePrior(0.7)], ids=repr)
def test_the_divergence_from_a_prior_by_sampling(prior):
    mean = torch.tensor([0.4, -2.0], dtype=torch.float64)
    guide = WeightGuide([mean], scale=0.6)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        (noise,) = torch.randn(1, 20_000, 2).double()
    drawn = mean + 0.6 * noise
    log_ratio = Normal(mean, 0.6).log_prob(drawn)
    log_ratio = log_ratio - prior.distribution(mean).log_prob(drawn)
    assert_mean(log_ratio.sum(-1), guide.divergence(prior).detach())


def test_weights_are_put_back_after_an_error():
    w = torch.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="stop"), weights_at([w], [torch.zeros(2)]):
        assert not w.any()
        raise RuntimeError("stop")
    assert w.all() and w.is_leaf and w.requires_grad


@pytest.mark.parametrize("constant", [7.0, -300.0])
def test_a_constant_added_to_the_log_likelihood_moves_no_gradient(constant):
    net, args, _ = make_net()
    parameters = list(net.parameters())
    plain = build("svi-bayes", net, example=args, seed=0)
    moved = build(
        "svi-bayes", shifted(net, constant), parameters=parameters, example=args, seed=0
    )
    one, two = plain(*args), moved(*args)
    truth.assert_agree(two, one - constant)
    truth.assert_agree(truth.gradient(two, parameters), truth.gradient(one, parameters))


@pytest.mark.parametrize("routes", ["enumerate", "sample"])
def test_extreme_numbers_stay_finite(routes):
    model, args, parameters = make_extreme()
    objective = SVIBayes(routes=routes)(model, parameters=parameters, seed=0)
    objective.prepare(*args)
    loss = objective(*args)
    gradient = truth.gradient(loss, list(objective.parameters()))
    assert torch.isfinite(loss) and torch.isfinite(gradient).all() and gradient.any()


def test_what_does_not_fit_is_refused():
    net, args, _ = make_net()
    with pytest.raises(ValueError, match="there are none"):
        build("svi-bayes", net, parameters=[])
    with pytest.raises(ValueError, match="may be used"):
        build("svi-bayes", net, example=args, memory_limit=10)
    with pytest.raises(ValueError, match="takes no guide over routes"):
        SVIBayes()(net, lambda x, y: None)
    with pytest.raises(ValueError, match="scale must be positive"):
        NormalPrior(scale=0.0)
    with pytest.raises(TypeError, match="prior must be a Prior"):
        SVIBayes(prior="flat")
    with pytest.raises(ValueError, match="at least one trained tensor"):
        WeightGuide([])


def test_draws_of_the_weights_follow_the_guide():
    net, args, _ = make_net()
    result = fit(net, args, "svi-bayes", steps=2, initial_scale=0.5)
    draws, again = result.weight_draws, result.weight_draws
    assert (draws.n_chains, draws.n_draws) == (1, 100)
    assert draws.names == tuple(name for name, _ in net.named_parameters())
    more = result.objective.weight_draws(2000, seed=1)
    log_scales = result.objective.guide.log_scales
    for i, (mean, log_scale) in enumerate(
        zip(net.parameters(), log_scales, strict=True)
    ):
        assert torch.equal(draws.values[i], again.values[i])
        drawn = (more.values[i][0] - mean.detach()) / log_scale.detach().exp()
        assert_mean(drawn, torch.zeros_like(mean))
        assert_mean(drawn.square(), torch.ones_like(mean))
    assert build("svi-bayes", net).weight_draws() is None
    assert build("exact", net).weight_draws() is None
