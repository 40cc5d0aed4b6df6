"""Soft routing: a network of its own, by hand; hard where the router is certain."""

import torch

from latentroute.inference import build
from latentroute.inference.schedules import Constant
from tests import brute_force as truth
from tests.inference.estimators.relaxed_nets import make_net


def by_hand(net, x, y, temperature):
    """The mixture of activations, layer by layer."""
    z = net.encoder(x)
    for router, bank in zip(net.routers, net.banks, strict=True):
        weights = (router(z).logits / temperature).softmax(-1)
        every = [bank(z, torch.full((len(x),), m)) for m in range(bank.n_modules)]
        z = sum(w.unsqueeze(-1) * f for w, f in zip(weights.T, every, strict=True))
    return net.head(z).log_prob(y).mean()


def test_value_and_gradient():
    net, args, _ = make_net()
    parameters = list(net.parameters())
    for temperature in (1.0, 0.3):
        ours = build("soft", net, temperature=Constant(temperature))(*args)
        hand = -by_hand(net, *args, temperature)
        truth.assert_agree(ours, hand)
        truth.assert_agree(
            truth.gradient(ours, parameters), truth.gradient(hand, parameters)
        )
    other = -by_hand(net, *args, 1.0)
    assert abs(other - hand) > 1e-3  # the comparison can fail


def test_it_is_neither_the_marginal_nor_the_elbo():
    net, args, sites = make_net()
    table = truth.tabulate(net, args, sites)
    value = -build("soft", net)(*args)
    assert abs(value - truth.log_marginal(table).mean()) > 1e-3
    assert abs(value - truth.router_elbo(table)) > 1e-3


def test_cold_it_is_the_routers_first_choice():
    """And for a certain router all three objectives are one."""
    net, args, sites = make_net()
    table = truth.tabulate(net, args, sites)
    cold = build("soft", net, temperature=Constant(1e-6))(*args)
    likeliest = truth.log_router(table).argmax(0)
    # Greedy and joint modes agree here; the router is not certain in general.
    hard = table.likelihood.gather(0, likeliest.unsqueeze(0)).mean()
    truth.assert_agree(-cold, hard, 1e-6)
    with torch.no_grad():
        for router in net.routers:
            router.linear.weight.mul_(1e5)
            router.linear.bias.mul_(1e5)
    table = truth.tabulate(net, args, sites)
    truth.assert_agree(-build("soft", net)(*args), truth.router_elbo(table), 1e-6)
