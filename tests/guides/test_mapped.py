"""Buffers in a file: what they hold, what stays of them, what a checkpoint copies."""

import copy

import pytest
import torch

from latentroute.guides import BufferGuide, RouteBuffer
from latentroute.inference import build, fit
from latentroute.models import LayeredNetwork

SIZES = [4, 300]  # int16


def make_net(routing="dynamic"):
    torch.manual_seed(3)
    return LayeredNetwork(
        2, 3, n_layers=2, n_modules=3, hidden_features=3, routing=routing
    )


def make_data(n=12):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 2, generator=generator)
    return x, torch.randint(3, (n,), generator=generator)


@pytest.mark.parametrize("n_choices", [[3, 3], SIZES, [2, 2]])
def test_a_file_holds_what_memory_would(tmp_path, n_choices):
    pair = [
        RouteBuffer(20, n_choices, capacity=4, seed=0, path=path)
        for path in (None, tmp_path)
    ]
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        candidates = torch.randint(2, (5, 8, 2), generator=generator)
        scores = torch.randn(5, 8, generator=generator)
        index = torch.randperm(20, generator=generator)[:8]
        for buffer in pair:
            buffer.keep_best(index, candidates, scores)
    for plain, mapped in zip(*(b.buffers() for b in pair), strict=True):
        assert torch.equal(plain, mapped) and plain.dtype == mapped.dtype


@pytest.mark.parametrize("routing", ["dynamic", "static"])
@pytest.mark.parametrize("method", ["hard-em", "topk-buffer"])
def test_training_is_the_same_step_for_step(tmp_path, method, routing):
    runs = []
    for path in (None, str(tmp_path)):
        net = make_net(routing)
        result = fit(net, make_data(), method, steps=7, batch_size=5, path=path)
        runs.append(([row["loss"] for row in result.history], list(net.parameters())))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(a, b) for a, b in zip(runs[0][1], runs[1][1], strict=True))


def test_a_checkpoint_restores_the_file_bit_for_bit(tmp_path):
    options = {"batch_size": 5, "path": str(tmp_path), "checkpoint": tmp_path / "run"}
    whole = fit(make_net(), make_data(), "topk-buffer", **(options | {"steps": 8}))
    half = options | {"checkpoint": tmp_path / "half"}
    fit(make_net(), make_data(), "topk-buffer", **half, steps=4)
    rest = fit(make_net(), make_data(), "topk-buffer", **half, steps=8, resume=True)
    assert [r["loss"] for r in rest.history] == [r["loss"] for r in whole.history]
    for a, b in zip(
        rest.objective.guide.buffers(), whole.objective.guide.buffers(), strict=True
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("mapped", [False, True])
def test_a_state_dict_holds_the_tensors_themselves(tmp_path, mapped):
    """Of an objective too: nothing is copied, and nothing is in it twice."""
    objective = build(
        "topk-buffer",
        make_net(),
        n_data=12,
        example=make_data(),
        path=str(tmp_path) if mapped else None,
    )
    buffer = objective.guide.buffer
    state = objective.state_dict()
    for name, value in buffer.named_buffers():
        same = [
            key
            for key, tensor in state.items()
            if isinstance(tensor, torch.Tensor)
            and tensor.data_ptr() == value.data_ptr()
        ]
        assert same == [f"guide.buffer.{name}"]
    other = copy.deepcopy(objective).guide.buffer  # the negative control
    assert other.routes.data_ptr() != state["guide.buffer.routes"].data_ptr()


def test_no_file_is_left(tmp_path):
    buffer = RouteBuffer(1000, [3, 3], capacity=2, seed=0, path=tmp_path)
    assert not list(tmp_path.iterdir())
    assert buffer.filled.sum() == 1000


def test_what_is_in_a_file_stays_there(tmp_path):
    """Moved, it would be in memory after all; what is in memory does move."""
    mapped = RouteBuffer(10, [3, 3], seed=0, path=tmp_path)
    before = [b.data_ptr() for b in mapped.buffers()]
    assert mapped.to("meta") is mapped
    assert [b.data_ptr() for b in mapped.buffers()] == before
    assert RouteBuffer(10, [3, 3], seed=0).to("meta").routes.device.type == "meta"


def test_a_folder_that_is_not_there(tmp_path):
    missing = tmp_path / "missing"
    for make in (
        lambda: RouteBuffer(10, [3], path=missing),
        lambda: BufferGuide(["a"], [3], 10, path=missing),
        lambda: fit(make_net(), make_data(), "hard-em", steps=1, path=str(missing)),
    ):
        with pytest.raises(ValueError, match="path must be a folder") as error:
            make()
        assert str(missing) in str(error.value) and "\n" not in str(error.value)


def test_more_routes_than_an_integer_can_number():
    """256^12 routes: equal ones are still known from others."""
    buffer = RouteBuffer(3, [256] * 12, capacity=4, seed=0)
    candidates = 255 * torch.randint(
        2, (6, 3, 12), generator=torch.Generator().manual_seed(0)
    )
    candidates[4] = candidates[1]
    buffer.keep_best(torch.arange(3), candidates, torch.zeros(6, 3))
    kept = [0, 1, 2, 3]
    assert torch.equal(buffer.routes.long(), candidates[kept].transpose(0, 1))
    scores = torch.tensor([0.0, 5.0, 0.0, 0.0, 5.0, 1.0])[:, None].expand(-1, 3)
    buffer.keep_best(torch.arange(3), candidates, scores)
    best = candidates[[1, 5, 0, 2]].transpose(0, 1)
    assert torch.equal(buffer.routes.long(), best)
