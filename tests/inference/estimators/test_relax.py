"""RELAX: unbiased whatever its control variate says, and less noisy once trained."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from latentroute.inference import Relax, build
from latentroute.inference.estimators.relax import conditional_gumbel, relax_gradient
from latentroute.inference.estimators.relaxation import gumbel_like
from tests import brute_force as truth
from tests.exact import programs
from tests.exact.programs import Draw
from tests.inference.estimators.relaxed_nets import (
    draws,
    make_net,
    repeated,
    shifted,
)
from tests.statistics import assert_frequencies, assert_mean, assert_unbiased, judge

PHI, T = 0.3, 0.45


def golden():
    """d/dphi E (b - t)^2, b ~ Bernoulli(sigmoid(phi)): theta (1 - theta) (1 - 2 t)."""
    theta = torch.sigmoid(torch.tensor(PHI, dtype=torch.float64))
    return theta * (1 - theta) * ((1 - T) ** 2 - T**2)


def toy(rows):
    """The objective is minus the toy's loss; every row draws its own b."""
    phi = torch.tensor(PHI, dtype=torch.float64, requires_grad=True)

    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            logits = torch.stack([torch.zeros_like(phi), phi]).expand(len(x), 2)
            b = pyro.sample("b", dist.Categorical(logits=logits))
            pyro.factor("y", -((b - T) ** 2))

    return model, (torch.zeros(rows, 1, dtype=torch.float64),), phi


@pytest.mark.parametrize("n_samples", [1, 2])
def test_the_papers_toy(n_samples):
    model, args, phi = toy(2000)

    def draw(seed):
        objective = build(
            "relax", model, parameters=[phi], seed=seed, n_samples=n_samples
        )
        return draws(objective, args, [phi], 250)

    assert_unbiased(draw, golden().reshape(1))


def train_controls(objective, args, steps, lr=0.01):
    """The control variates alone: the model stays where it is."""
    optimiser = torch.optim.Adam(objective.controls.parameters(), lr=lr)
    for _ in range(steps):
        optimiser.zero_grad()
        objective(*args).backward()
        optimiser.step()


@pytest.mark.parametrize("trained", [0, 100])
@pytest.mark.parametrize("n_samples", [1, 8])
def test_unbiased_on_a_network(trained, n_samples):
    """Routers that see z, before the control variates are trained and after."""
    net, args, sites = make_net()
    parameters = list(net.parameters())
    expected = -truth.router_elbo(truth.tabulate(net, args, sites))
    batch = repeated(args, 64 // n_samples)

    def draw(seed):
        objective = build("relax", net, seed=seed, n_samples=n_samples)
        objective.prepare(*batch)
        train_controls(objective, batch, trained)
        return draws(objective, batch, parameters, 250)

    assert_unbiased(draw, truth.gradient(expected, parameters))


@pytest.mark.parametrize(
    "make", [programs.two_sites, programs.other_plate_and_supports]
)
def test_unbiased_on_users_programs(make):
    """Modules need not be differentiable, nor routes go through a bank."""
    model, args, sites, parameters = make(Draw())
    expected = -truth.router_elbo(truth.tabulate(model, args, sites))
    batch = repeated(args, 16)

    def draw(seed):
        objective = build("relax", model, parameters=parameters, seed=seed)
        return draws(objective, batch, parameters, 250)

    assert_unbiased(draw, truth.gradient(expected, parameters))


def estimates(wrong, n=250, rows=256):
    """Means of RELAX's estimate on one site, as it is or spoilt."""
    reward = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    log_probs = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64).log()
    values = torch.tensor([1.5, -1.0, 0.7], dtype=torch.float64)

    def control(zeta):
        if wrong == "no gradient through the control variate":
            zeta = zeta.detach() + 0 * zeta
        return (zeta.softmax(-1) @ values).square()

    drawn = []
    for _ in range(n):
        p = log_probs.expand(rows, 3)
        route = torch.distributions.Categorical(logits=p).sample()
        if wrong == "choices of another router":
            route = torch.randint(3, (rows,))
        estimate = relax_gradient(reward[route], p, route, control)
        drawn.append(estimate.detach().mean(0))
    probs = log_probs.exp()
    return torch.stack(drawn), probs * (reward - probs @ reward)


@pytest.mark.parametrize(
    "wrong",
    [None, "choices of another router", "no gradient through the control variate"],
)
def test_the_judge_tells_right_from_wrong(wrong):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn, expected = estimates(wrong)
    truth.assert_agree(drawn.sum(-1) + 1, torch.ones(len(drawn)).double())
    assert judge(drawn, expected).unbiased == (wrong is None)


def test_training_the_control_variates_lowers_the_variance():
    net, args, _ = make_net()
    parameters = list(net.routers.parameters())
    batch = repeated(args, 8)

    def variance(objective):
        return draws(objective, batch, parameters, 200).var(0).sum().item()

    objective = build("relax", net, seed=0, n_samples=1)
    objective.prepare(*batch)
    before = variance(objective)
    train_controls(objective, batch, 400)
    after = variance(objective)
    print(f"variance {before:.4f} before, {after:.4f} after")
    assert after < 0.6 * before


def test_conditional_noise():
    """The choice stays the largest; over choices the noise is standard Gumbel."""
    log_probs = torch.tensor([0.1, 0.6, 0.3], dtype=torch.float64).log()
    p = log_probs.expand(8000, 3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        route = torch.distributions.Categorical(logits=p).sample()
        zeta = conditional_gumbel(p, route, gumbel_like(p))
    assert torch.equal(zeta.argmax(-1), route)
    assert_frequencies(route, log_probs.exp())
    noise = zeta - p
    euler = torch.full((3,), 0.5772156649, dtype=torch.float64)
    assert_mean(noise, euler)
    assert_mean((noise - euler).square(), torch.full((3,), torch.pi**2 / 6).double())
    assert_mean(noise[:, 0] * noise[:, 1], euler[0] ** 2)


@pytest.mark.parametrize("constant", [7.0, -300.0])
def test_a_constant_added_to_the_log_likelihood_moves_no_gradient(constant):
    net, args, _ = make_net()
    parameters = list(net.parameters())
    plain = build("relax", net, seed=11)
    moved = build("relax", shifted(net, constant), parameters=parameters, seed=11)
    for _ in range(3):
        one, two = plain(*args), moved(*args)
        truth.assert_agree(two, one - constant)
        truth.assert_agree(
            truth.gradient(two, parameters), truth.gradient(one, parameters)
        )


def test_one_module_leaves_nothing_to_chance():
    net, args, _ = make_net(n_modules=1)
    parameters = list(net.parameters())
    ours, exact = build("relax", net, n_samples=3)(*args), build("exact", net)(*args)
    truth.assert_agree(ours, exact)
    truth.assert_agree(
        truth.gradient(ours, parameters), truth.gradient(exact, parameters)
    )


@pytest.mark.parametrize("logits", [[1e4, -1e4, 0.0], [0.3, -torch.inf, 0.0]])
def test_extreme_numbers(logits):
    logits = torch.tensor(logits, requires_grad=True)

    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=logits.expand(len(x), 3)))
            pyro.factor("y", -1e6 * (1.0 + a))

    objective = build("relax", model, parameters=[logits], seed=0)
    loss = objective(torch.zeros(50, 1))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in objective.controls.parameters())
    if logits[1] == -torch.inf:
        assert logits.grad[0] < 0 < logits.grad[2]


@pytest.mark.filterwarnings("ignore:the program does not broadcast")
def test_refusals():
    static, args, _ = make_net(routing="static")
    with pytest.raises(ValueError, match=r"'route_0' is static.*score-function"):
        build("relax", static, example=args)
    model, args, _, parameters = programs.by_masks(Draw())
    with pytest.raises(ValueError, match="broadcasts over samples"):
        build("relax", model, parameters=parameters, example=args)
    net, (x, y), _ = make_net()
    with pytest.raises(ValueError, match="floating-point"):
        build(
            "relax",
            lambda x, y: net(x.double(), y),
            parameters=[],
            example=(x.long(), y),
        )
    for options in ({"n_samples": 0}, {"hidden_features": 0}):
        with pytest.raises(ValueError, match="must be a whole number"):
            Relax(**options)
