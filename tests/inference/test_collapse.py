"""A router that has collapsed is told once; one that has not, never."""

import math
import warnings

import pytest
import torch

from latentroute.inference import CollapseWarning, evaluate, fit
from latentroute.inference.collapse import collapsed_layers
from latentroute.inference.entropies import router_entropies
from latentroute.models import LayeredNetwork

N = 40
generator = torch.Generator().manual_seed(0)
x = torch.randn(N, 2, generator=generator)
y = x.sum(1)


def make_net(bias, *, n_modules=4, routing="dynamic"):
    net = LayeredNetwork(
        2,
        1,
        n_layers=2,
        n_modules=n_modules,
        hidden_features=3,
        head="normal",
        routing=routing,
    )
    with torch.no_grad():
        for parameter in net.routers[1].parameters():
            parameter.zero_()
            if parameter.shape == (n_modules,):
                parameter[0] = bias
    return net


def layers(net, n=N):
    seen = evaluate(net, x[:n], y[:n], draws=1)
    return collapsed_layers(seen, router_entropies(seen.router_probs))


def test_it_is_told_once_with_what_to_try():
    with pytest.warns(CollapseWarning) as told:
        fit(make_net(12.0), (x, y), steps=6, log_every=1, lr=1e-6)
    (warning,) = told
    text = str(warning.message)
    for part in ("'route_1'", "H(A)", "H(A|X)", "MarginalEntropy", "lr"):
        assert part in text
    assert "'route_0'" not in text and "\n" not in text


def test_the_threshold_is_five_percent_of_the_most_there_is():
    def bias(share):  # of module 0, the others even
        return math.log(3 * share / (1 - share))

    assert layers(make_net(bias(0.99)))  # 0.067 of 1.386 nats
    assert not layers(make_net(bias(0.97)))


def test_no_collapse_is_told_of():
    assert not layers(make_net(0.0)), "even use"
    assert not layers(make_net(9.0, n_modules=1)), "one module is no choice"
    assert not layers(make_net(12.0), n=5), "five examples tell nothing"
    assert not layers(make_net(12.0, routing="static")), "one decision for all"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(make_net(0.0), (x, y), steps=4, log_every=1)
