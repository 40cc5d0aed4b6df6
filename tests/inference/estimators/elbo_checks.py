"""What every estimator of the router ELBO must show, against brute force."""

import pyro
import pyro.distributions as dist
import torch

from latentroute.inference import build
from tests import brute_force as truth
from tests.inference.estimators.guided_nets import make_extreme, shifted
from tests.statistics import assert_unbiased, judge

P0 = (0.6, 0.51, 0.48)


def elbo_gradient(model, args, sites, parameters):
    """The exact gradient of the loss."""
    table = truth.tabulate(model, args, sites)
    return truth.gradient(-truth.router_elbo(table), parameters)


def repeated(args, copies):
    """Independent draws side by side: each copy of an example has its own routes."""
    return tuple(arg.repeat(copies, *(1,) * (arg.dim() - 1)) for arg in args)


def drawer(method, model, args, parameters, *, calls=250, copies=8):
    """From a seed, `calls` means of `copies` draws."""

    def draw(seed):
        batch = repeated(args, copies)
        objective = method(
            model, parameters=parameters, n_data=len(batch[0]), seed=seed
        )
        rows = [truth.gradient(objective(*batch), parameters) for _ in range(calls)]
        return torch.stack(rows)

    return draw


def assert_elbo(method, model, args, sites, parameters, **plan):
    """Its mean gradient is the router ELBO's, and not the marginal's."""
    expected = elbo_gradient(model, args, sites, parameters)
    draw = drawer(method, model, args, parameters, **plan)
    assert_unbiased(draw, expected)
    table = truth.tabulate(model, args, sites)
    marginal = truth.log_marginal(table).sum() / len(args[0])
    assert not judge(draw(0), truth.gradient(-marginal, parameters)).unbiased


def assert_shift_moves_nothing(method, net, args):
    """Draw for draw, a constant in the log-likelihood moves no gradient."""
    parameters = list(net.parameters())
    options = {"parameters": parameters, "n_data": len(args[0]), "seed": 11}
    plain, moved = (build(method, m, **options) for m in (net, shifted(net, -300.0)))
    for _ in range(3):
        one, two = plain(*args), moved(*args)
        truth.assert_agree(two, one + 300.0)
        truth.assert_agree(
            truth.gradient(two, parameters), truth.gradient(one, parameters), 1e-9
        )


def assert_extremes(method):
    """Logits of 1e4 and log-likelihoods of -1e6 in float32: finite, and not all 0."""
    model, args, parameters = make_extreme()
    objective = method(model, parameters=parameters, n_data=4, seed=0)
    for _ in range(3):
        loss = objective(*args)
        gradient = truth.gradient(loss, parameters)
        assert torch.isfinite(loss) and torch.isfinite(gradient).all()
        level = torch.autograd.grad(objective(*args), parameters[1])[0]
        truth.assert_agree(level, torch.tensor([-2.0, 0.0, 0.0]))


def golden(phi):
    """Three sites that share one phi, and a quadratic loss, of a batch of any size."""

    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            loss = torch.zeros(())
            for d, p in enumerate(P0):
                b = pyro.sample(f"b{d}", dist.Bernoulli(logits=phi.expand(len(x))))
                loss = loss + (b - p) ** 2
            pyro.factor("loss", -loss)

    return model


def assert_golden(method, *, exact=False):
    """At phi = 0 the loss's gradient is -0.0450; as phi grows the loss nears .6705."""
    phi = torch.zeros((), dtype=torch.float64, requires_grad=True)
    args = (torch.zeros(1, 1, dtype=torch.float64),)
    expected = torch.tensor([-0.045], dtype=torch.float64)
    if exact:
        loss = method(golden(phi), parameters=[phi], n_data=1)(*args)
        truth.assert_agree(truth.gradient(loss, [phi]), expected, 1e-12)
    else:
        assert_unbiased(drawer(method, golden(phi), args, [phi], copies=8000), expected)
    far = torch.tensor(40.0, dtype=torch.float64, requires_grad=True)
    loss = method(golden(far), parameters=[far], n_data=1, seed=0)(*args)
    truth.assert_agree(loss, torch.tensor(0.6705, dtype=torch.float64), 1e-9)
