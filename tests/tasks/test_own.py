import pytest
import torch

from latentroute.tasks import from_tensors


def test_rows_stay_together_and_none_is_lost():
    x = torch.arange(40.0).reshape(20, 2)
    task = from_tensors(x, x.sum(1), routes=torch.arange(20).unsqueeze(1))
    parts = [task.train, task.valid, task.test]
    assert sorted(torch.cat([p.routes for p in parts]).flatten().tolist()) == list(
        range(20)
    )
    for part in parts:
        assert torch.equal(part.x, x[part.routes[:, 0]])
        assert torch.equal(part.y, part.x.sum(1, keepdim=True))
    assert (task.head, task.out_features) == ("normal", 1)


def test_whole_numbers_are_classes():
    task = from_tensors(torch.zeros(60, 2), torch.arange(60) % 3)
    assert (task.head, task.out_features) == ("categorical", 3)
    assert torch.bincount(task.train.y).tolist() == [14, 14, 14]


def test_lengths_must_agree():
    with pytest.raises(ValueError, match=r"as long; got \(3, 2\) rows"):
        from_tensors(torch.zeros(3, 1), torch.zeros(2))
