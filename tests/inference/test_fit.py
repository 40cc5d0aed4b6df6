"""Training: batches, what is followed, progress, checkpoints."""

import json
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch

from latentroute.inference import fit, log_marginal
from latentroute.models import GivenRouting, LayeredNetwork
from tests import brute_force as truth

N, F, CLASSES = 11, 2, 3


def make_net(**options):
    shape = {"n_layers": 2, "n_modules": 3, "hidden_features": 3} | options
    net = LayeredNetwork(F, CLASSES, **shape)
    truth.randomise(net, 0)
    return net


def make_data(n=N, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, F, generator=generator)
    return x, torch.randint(CLASSES, (n,), generator=generator)


class Spy(torch.nn.Module):
    """A model that notes which rows it sees."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))
        self.batches = []

    def forward(self, x, y=None, index=None):
        if torch.is_grad_enabled() and index is not None:
            self.batches.append((x[:, 0].tolist(), y.tolist(), index.tolist()))
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=self.weight.expand(len(x), 2)))
            return pyro.sample("y", dist.Normal(1.0 * a, 1.0), obs=y)


def batches_of(**options):
    spy = Spy()
    x = torch.arange(float(N)).unsqueeze(-1)
    fit(spy, (x, 10 * x[:, 0]), "exact", log_every=1000, **options)
    return spy.batches


def test_every_epoch_visits_every_example_once_in_a_new_order():
    batches = batches_of(steps=12, batch_size=3)
    sizes = [len(index) for _, _, index in batches]
    assert sizes == [3, 3, 3, 2] * 3
    epochs = [
        [row for _, _, index in batches[i : i + 4] for row in index]
        for i in range(0, 12, 4)
    ]
    assert all(sorted(epoch) == list(range(N)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    for x, y, index in batches:
        assert x == index and y == [10 * row for row in index]


def test_a_batch_larger_than_the_data_is_the_data():
    sizes = [len(index) for _, _, index in batches_of(steps=3, batch_size=100)]
    assert sizes == [N] * 3


def test_batches_come_from_the_seed_alone():
    def rows(seed):
        batches = batches_of(steps=5, batch_size=4, seed=seed)
        return [index for _, _, index in batches]

    assert rows(0) == rows(0) != rows(1)


def test_the_first_loss_is_that_of_the_first_batch():
    net, (x, y) = make_net(), make_data()
    expected = -log_marginal(net, x, y).mean().item()
    result = fit(net, (x, y), "exact", steps=1, batch_size=N)
    assert result.history[0]["loss"] == pytest.approx(expected, rel=1e-5)


def test_what_is_followed():
    """h_a, h_b and valid, against brute force on the trained network."""
    net, (x, y) = make_net(), make_data()
    valid = make_data(7, seed=5)
    data = SimpleNamespace(train=(x, y), valid=SimpleNamespace(x=valid[0], y=valid[1]))
    result = fit(net, data, "score-function", steps=4, batch_size=5, log_every=2)
    assert [("valid" in row) for row in result.history] == [False, True, False, True]
    last = result.history[-1]
    table = truth.tabulate(net, valid, truth.network_sites(2, 3))
    probs = truth.site_marginals(table, truth.log_router(table).exp())
    h_a = -torch.xlogy(probs, probs).sum(-1).mean(0)
    mean = probs.mean(0)
    h_b = -torch.xlogy(mean, mean).sum(-1)
    assert last["h_a_layers"] == pytest.approx(h_a.tolist(), rel=1e-4)
    assert last["h_b_layers"] == pytest.approx(h_b.tolist(), rel=1e-4)
    assert last["h_a"] == pytest.approx(h_a.mean().item(), rel=1e-4)
    assert last["h_b"] == pytest.approx(h_b.mean().item(), rel=1e-4)
    expected = truth.log_marginal(table).mean().item()
    assert last["valid"] == pytest.approx(expected, rel=1e-4)
    json.dumps(result.history)  # plain numbers


def test_following_changes_nothing():
    """How often one looks is no part of the training."""

    def trained(log_every):
        net = make_net()
        fit(net, make_data(), "score-function", steps=6, log_every=log_every)
        return torch.cat([p.flatten() for p in net.parameters()])

    assert torch.equal(trained(1), trained(100))


def test_a_model_that_needs_no_y():
    weight = torch.zeros(2, requires_grad=True)
    value = torch.tensor([0.0, 1.0])

    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=weight.expand(len(x), 2)))
            pyro.factor("reward", value[a])

    fit(model, (torch.zeros(6, 1),), "exact", parameters=[weight], steps=60, lr=0.1)
    assert weight.softmax(-1)[1] > 0.9


def test_given_routes_train_the_modules_and_the_router():
    net, (x, y) = make_net(n_layers=1), make_data(30)
    routes = (x[:, :1] > 0).long()
    given = GivenRouting(net, routes, ["route_0"])
    result = fit(given, (x, y), "exact", steps=80, batch_size=8, lr=0.05)
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    router = net.routers[0](net.encoder(x)).probs
    assert (router.argmax(-1) == routes[:, 0]).float().mean() > 0.9


def test_frozen_parts_stay_as_they_are():
    net, data = make_net(), make_data()
    before = [p.detach().clone() for p in net.head.parameters()]
    for parameter in net.head.parameters():
        parameter.requires_grad_(False)
    fit(net, data, "exact", steps=5)
    for p, b in zip(net.head.parameters(), before, strict=True):
        assert torch.equal(p, b)


def test_only_the_parameters_passed_in_are_trained():
    net, data = make_net(), make_data()
    before = {k: p.detach().clone() for k, p in net.named_parameters()}
    fit(net, data, "exact", parameters=net.head.parameters(), steps=3)
    for key, p in net.named_parameters():
        assert torch.equal(p, before[key]) != key.startswith("head")


def test_progress_goes_to_stderr_and_only_if_asked(capsys):
    fit(make_net(), make_data(), "exact", steps=4)
    assert capsys.readouterr() == ("", "")
    fit(make_net(), make_data(), "exact", steps=4, progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "4" in err and "loss" in err


def test_checkpoints_at_their_interval_are_whole(tmp_path, monkeypatch):
    saved = []
    replace = type(tmp_path).replace

    def spy(self, target):
        if self.suffix == ".part":
            saved.append((target.name, torch.load(self, weights_only=True)["step"]))
        return replace(self, target)

    monkeypatch.setattr(type(tmp_path), "replace", spy)
    fit(
        make_net(),
        make_data(),
        "exact",
        steps=7,
        checkpoint=tmp_path,
        checkpoint_every=3,
    )
    assert saved == [("checkpoint.pt", step) for step in (3, 6, 7)]
    left = {"checkpoint.pt", "checkpoint.previous.pt", "metrics.jsonl"}
    assert {p.name for p in tmp_path.iterdir()} == left, "no part left"


def test_a_run_that_was_stopped_goes_on_from_its_last_checkpoint(tmp_path):
    """The process dies in step 6; the checkpoint is of step 4."""

    class Dies(Exception):
        pass

    net, data = make_net(), make_data()
    calls = []

    def die(*args):
        calls.append(1)
        if len(calls) > 8:
            raise Dies

    handle = net.head.register_forward_pre_hook(die)
    settings = {"batch_size": 4, "checkpoint": tmp_path, "log_every": 100}
    with pytest.raises(Dies):
        fit(net, data, "exact", steps=20, checkpoint_every=2, **settings)
    handle.remove()
    other = make_net()
    resumed = fit(other, data, "exact", steps=20, resume=True, **settings)
    whole = make_net()
    expected = fit(whole, data, "exact", steps=20, batch_size=4, log_every=100)
    assert [r["loss"] for r in resumed.history] == [r["loss"] for r in expected.history]
    for a, b in zip(other.parameters(), whole.parameters(), strict=True):
        assert torch.equal(a, b)


def test_resuming_a_finished_run_does_nothing(tmp_path):
    settings = {"steps": 4, "checkpoint": tmp_path}
    first = fit(make_net(), make_data(), "score-function", **settings)
    net = make_net()
    truth.randomise(net, 9)
    again = fit(net, make_data(), "score-function", resume=True, **settings)
    assert [r["loss"] for r in again.history] == [r["loss"] for r in first.history]
    for a, b in zip(net.parameters(), first.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_resuming_from_an_empty_folder_starts_anew(tmp_path):
    result = fit(
        make_net(), make_data(), "exact", steps=2, checkpoint=tmp_path, resume=True
    )
    assert len(result.history) == 2 and (tmp_path / "checkpoint.pt").exists()


def test_the_time_spent_is_that_of_all_parts(tmp_path):
    settings = {"checkpoint": tmp_path, "log_every": 1}
    first = fit(make_net(), make_data(), "exact", steps=3, **settings)
    second = fit(make_net(), make_data(), "exact", steps=6, resume=True, **settings)
    assert second.seconds > first.seconds > 0
    seconds = [row["seconds"] for row in second.history]
    assert seconds == sorted(seconds)
    assert seconds[2] <= first.seconds <= seconds[3]


def test_float64_data_and_models():
    net = make_net().double()
    x, y = make_data()
    fit(net, (x.double(), y), "topk-buffer", steps=3)
    assert all(p.dtype == torch.float64 for p in net.parameters())
