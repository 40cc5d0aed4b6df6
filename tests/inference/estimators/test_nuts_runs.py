"""Runs of NUTS: resumed bit for bit, thinned, from where they start."""

import pytest
import torch

from latentroute.guides import NormalPrior
from latentroute.inference import NUTS, build, fit
from latentroute.inference.estimators import nuts
from tests import brute_force as truth
from tests.inference.estimators.gated import gated
from tests.inference.estimators.guided_nets import make_net

TINY = {"n_chains": 2, "max_tree_depth": 2}


def run(steps, folder=None, **options):
    """A short run, its warm-up long enough for a window of the mass matrix."""
    model, data, w = gated()
    options = {"warmup": 24, **TINY, **options}
    return fit(
        model, data, "nuts", parameters=[w], steps=steps, seed=5, log_every=50,
        checkpoint=folder, **options,
    )  # fmt: skip


def same_draws(one, other):
    pairs = zip(one.weight_draws.values, other.weight_draws.values, strict=True)
    stats = one.weight_draws.stats
    return all(torch.equal(a, b) for a, b in pairs) and all(
        torch.equal(stats[name], other.weight_draws.stats[name]) for name in stats
    )


def test_a_run_goes_on_from_anywhere_bit_for_bit(tmp_path, monkeypatch):
    """In each window of the warm-up, at its end, and among the draws."""
    whole = run(32)
    for stop in (1, 10, 22, 24, 28):
        folder = tmp_path / str(stop)
        monkeypatch.setattr(NUTS, "check_steps", lambda *_: None)
        run(stop, folder)
        monkeypatch.undo()
        again = run(32, folder, resume=True)
        assert again.history[-1]["loss"] == whole.history[-1]["loss"], stop
        assert same_draws(again, whole), stop
    # The negative control: the state of the mass matrix is forgotten.
    load = nuts.Chain.load
    forget = {"_mean": 0.0, "_m2": 0.0, "n_samples": 0}

    def partly(self, state):
        kernel = [*state["kernel"][:-1], state["kernel"][-1] | forget]
        load(self, state | {"kernel": kernel})

    monkeypatch.setattr(NUTS, "check_steps", lambda *_: None)
    run(10, tmp_path / "again")
    monkeypatch.setattr(nuts.Chain, "load", partly)
    assert not same_draws(run(32, tmp_path / "again", resume=True), whole)


def test_a_resumed_run_keeps_the_warm_up_that_it_began_with(tmp_path):
    run(8, tmp_path, warmup=None)
    more = run(20, tmp_path, warmup=None, resume=True)
    assert more.weight_draws.n_draws == 16
    assert run(20, warmup=None).weight_draws.n_draws == 10


def test_too_many_draws_are_thinned_evenly():
    every = run(41, warmup=2, n_chains=1).weight_draws.values[0]
    few = run(41, warmup=2, n_chains=1, max_draws=10).weight_draws.values[0]
    assert every.shape == (1, 39, 2)
    assert torch.equal(few, every[:, 3::4])


@pytest.mark.parametrize("start", ["prior", "model"])
def test_where_chains_start(start, monkeypatch):
    starts = []

    class Spy(nuts.Chain):
        def __init__(self, potential, start, **options):
            starts.append(start)
            super().__init__(potential, start, **options)

    monkeypatch.setattr(nuts, "Chain", Spy)
    net, args, _ = make_net()
    before = torch.cat([p.detach().flatten() for p in net.parameters()])
    prior = NormalPrior(5.0, 0.1)
    fit(net, args, "nuts", steps=2, start=start, prior=prior, **TINY)
    if start == "model":
        assert all(torch.equal(each, before) for each in starts)
    else:
        assert not torch.equal(*starts)
        assert all(4 < each.min() < 5 < each.max() < 6 for each in starts)


def test_dropout_is_off_while_chains_move():
    net, args, _ = make_net()
    net.encoder = torch.nn.Sequential(net.encoder, torch.nn.Dropout(0.5)).double()
    objective = NUTS(**TINY)(net, n_data=len(args[0]), seed=0)
    objective.begin(2)
    objective.advance(*args)
    assert net.training
    chain = objective._chains[0]
    net.eval()
    energy = torch.tensor(chain.energy, dtype=torch.float64)
    truth.assert_agree(objective.potential(chain.weights), energy)


def test_only_the_tensors_to_train_are_drawn():
    net, args, _ = make_net()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    parameters = list(net.head.parameters())
    result = fit(net, args, "nuts", parameters=parameters, steps=4, **TINY)
    for name, p in net.named_parameters():
        assert torch.equal(p, before[name]) != name.startswith("head")
    assert set(result.weight_draws.names) == {
        name for name in before if name.startswith("head")
    }
    assert build("nuts", net).weight_draws() is None
