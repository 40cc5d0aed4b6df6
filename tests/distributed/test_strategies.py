"""How a run is spread over processes: what one process can tell of it."""

import sys

import pytest
import torch
import torch.distributed as dist

from latentroute import launched
from latentroute.inference import DataParallel, Fabric, SingleProcess, fit
from latentroute.inference.data_parallel import default_strategy
from latentroute.inference.distributed import ManyProcesses
from latentroute.models import LayeredNetwork
from tests.optional import need

CPU = torch.device("cpu")


def trained(strategy, method="score-function"):
    torch.manual_seed(0)
    net = LayeredNetwork(3, 2, n_layers=1, n_modules=2, hidden_features=4)
    x = torch.randn(11, 3, generator=torch.Generator().manual_seed(1))
    return fit(
        net,
        (x, (x.sum(1) > 0).long()),
        method,
        steps=5,
        batch_size=4,
        strategy=strategy,
    )


def weights(result):
    return torch.cat([p.detach().flatten() for p in result.model.parameters()])


@pytest.mark.parametrize("by_example", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("n_rows", [1, 2, 7, 12])
def test_the_parts_of_a_batch_are_the_batch(by_example, size, n_rows):
    """Each row once, by shares; an example is always the same process's."""
    rows = torch.randperm(40, generator=torch.Generator().manual_seed(n_rows))[:n_rows]
    count = torch.zeros(40)
    for rank in range(size):
        team = ManyProcesses(CPU, wrap=None, backward=None)
        team.rank, team.size, team._by_example = rank, size, by_example
        part, share = team.part(rows)
        assert len(part) and set(part.tolist()) <= set(rows.tolist())
        if share:  # the mean of means, as the processes take it
            count[part] += share / size / len(part)
            assert not by_example or (part % size == rank).all()
        else:
            assert len(part) == 1
    assert count[rows].tolist() == pytest.approx([1 / n_rows] * n_rows)


def test_data_parallel_is_for_processes_that_torchrun_starts(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError, match="torchrun --standalone") as error:
        trained(DataParallel())
    assert "RANK" in str(error.value) and "\n" not in str(error.value)


def test_the_default_is_what_torchrun_asks_for(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert default_strategy() == SingleProcess()
    monkeypatch.setenv("WORLD_SIZE", "2")  # of another launcher: no RANK
    assert default_strategy() == SingleProcess()
    monkeypatch.setenv("RANK", "1")
    assert default_strategy() == DataParallel() and not default_strategy().is_main
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert launched.rank() == 0, "alone, whatever another launcher calls this process"
    assert default_strategy() == SingleProcess()


@pytest.mark.parametrize("kind", [torch.int16, torch.bool, torch.long, torch.float32])
@pytest.mark.parametrize("shape", [(), (0, 2), (2, 3)])
def test_values_of_any_type_are_sent(kind, shape):
    """Routes are int16 where there are more than 128 modules; gloo knows no int16."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        team = ManyProcesses(CPU, wrap=None, backward=None)
        team.size = 2  # so that it sends, if to itself
        value = torch.ones(shape, dtype=kind)
        assert torch.equal(team._of(0, value), value)
    finally:
        dist.destroy_process_group()


def test_bad_options():
    with pytest.raises(ValueError, match="timeout must be positive, got 0"):
        DataParallel(timeout=0)


def test_a_missing_fabric_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(ImportError, match=r"latentroute\[fabric\]"):
        Fabric(None)


def test_a_fabric_of_one_device_trains_as_one_process():
    need("lightning_fabric")
    import lightning_fabric as lightning

    with pytest.raises(TypeError, match=r"lightning_fabric\.Fabric, got str"):
        Fabric("ddp")
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    one, by_fabric = trained(SingleProcess()), trained(Fabric(fabric))
    assert torch.equal(weights(one), weights(by_fabric))
    assert [r["loss"] for r in one.history] == [r["loss"] for r in by_fabric.history]


@pytest.mark.parametrize("variable", ["", "true"])
def test_a_package_that_is_absent_skips_a_test_and_fails_it_in_ci(
    variable, monkeypatch
):
    monkeypatch.setenv("CI", variable)
    need("torch")
    outcome = pytest.fail if variable else pytest.skip
    with pytest.raises(outcome.Exception, match="no_such_package is not installed"):
        need("no_such_package")
