"""Devices and precision: training moves where it is told, and never waits for a GPU."""

import pytest
import torch

from latentroute.inference import build, fit, log_marginal
from latentroute.inference.devices import choose_device, place
from latentroute.inference.program import RoutedProgram
from latentroute.models import LayeredNetwork

gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no GPU: torch.cuda.is_available() is False"
)


def network(**options):
    torch.manual_seed(0)
    return LayeredNetwork(4, 3, n_layers=2, n_modules=3, hidden_features=8, **options)


def data(n=24):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 4, generator=generator)
    return x, torch.randint(3, (n,), generator=generator)


def test_auto_is_a_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")


def test_auto_is_a_gpu_of_its_own_for_each_process_of_torchrun(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert choose_device("auto") == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="--nproc-per-node 2, or train on") as error:
        choose_device("auto")
    assert "\n" not in str(error.value)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert choose_device("auto") == torch.device("cuda")


@pytest.mark.parametrize("name", ["auto", "cpu", torch.device("cpu"), None])
def test_a_device_changes_no_number(name):
    losses = []
    for device in (None, name):
        found = fit(network(), data(), steps=3, batch_size=8, device=device)
        losses.append([row["loss"] for row in found.history])
    assert losses[0] == losses[1]


def test_the_model_is_moved_where_it_is_told():
    net = network()
    assert place(net, None, "meta", data()[0]).type == "meta"
    assert {p.device.type for p in net.parameters()} == {"meta"}
    assert place(net, None, None, data()[0]).type == "meta"


def test_what_cannot_be_is_refused_in_one_line():
    with pytest.raises(ValueError, match="device must be auto, cpu or a device of"):
        fit(network(), data(), steps=1, device="gpu")
    net = network()
    with pytest.raises(ValueError, match=r"parameters are on cpu, device is meta"):
        own = list(net.parameters())
        fit(lambda x, y: net(x, y), data(), parameters=own, steps=1, device="meta")


@pytest.mark.parametrize("head", ["categorical", "normal", "bernoulli"])
def test_under_autocast_modules_are_bfloat16_and_log_probabilities_float32(head):
    net = network(head=head)
    x, y = data()
    if head != "categorical":
        y = torch.nn.functional.one_hot(y, 3).float()
    seen = []
    net.banks[1].register_forward_hook(lambda m, args, out: seen.append(out.dtype))
    exact = log_marginal(net, x, y)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = log_marginal(net, x, y)
        program = RoutedProgram(net)
        program.enumerate(x, y), program.sample(x, y, n_samples=4)  # looked at in full
        seen.clear()
        for terms in (program.enumerate(x, y), program.sample(x, y, n_samples=4)):
            every = [terms.likelihood, *terms.prior.values()]
            assert {term.dtype for term in every} == {torch.float32}
    assert set(seen) == {torch.bfloat16}
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow, exact, rtol=0.02, atol=0.02)
    assert not torch.equal(narrow, exact)


@pytest.mark.parametrize("method", ["exact", "score-function", "hard-em"])
def test_training_under_autocast_goes_the_same_way(method):
    x, _ = data(200)
    data_of = x, (x[:, 0] > 0).long()
    last = []
    for narrow in (False, True):
        net = network()
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            found = fit(net, data_of, method, steps=60, batch_size=50)
        losses = [row["loss"] for row in found.history]
        assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
        assert {p.dtype for p in net.parameters()} == {torch.float32}
        last.append(sum(losses[-5:]) / 5)
    assert last[0] == pytest.approx(last[1], rel=0.05)
    assert last[0] != last[1]


@gpu
@pytest.mark.parametrize("method", ["exact", "score-function"])
def test_a_step_never_waits_for_the_gpu(method):
    net = network().cuda()
    x, y = (part.cuda() for part in data())
    index = torch.arange(len(x), device="cuda")
    objective = build(method, net, n_data=len(x), seed=0, example=(x, y))
    optimiser = torch.optim.Adam(objective.parameters(), lr=1e-2, fused=True)

    def step():
        optimiser.zero_grad()
        objective(x, y, index).backward()
        optimiser.step()

    step()  # reads the program, and sees that it broadcasts
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@gpu
def test_training_on_the_gpu_is_that_on_the_cpu():
    losses = []
    for device in ("cpu", "cuda"):
        found = fit(network(), data(), steps=5, batch_size=8, device=device)
        losses.append([row["loss"] for row in found.history])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
