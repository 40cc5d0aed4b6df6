"""What every task in TASKS keeps to; a new one is found by itself."""

import copy
import dataclasses
import inspect
import pickle
import random
import re

import numpy as np
import pytest
import torch

from latentroute.tasks import TASKS, Task, TaskSpec, load

NETWORK_OPTIONS = {
    "n_layers",
    "n_modules",
    "hidden_features",
    "k",
    "routing",
    "router_input",
}


@pytest.fixture
def task(named) -> Task:
    name, options = named
    return load(name, **options)


def bits(task: Task) -> list[torch.Tensor]:
    return [t for s in task.splits.values() for t in s if t is not None]


def rows_of(split) -> set[bytes]:
    y = split.y.reshape(len(split.y), -1).double()
    rows = torch.cat([split.x.double(), y], dim=1).numpy()
    return {row.tobytes() for row in rows}


def test_shapes_and_dtypes(task):
    for name, (x, y, routes) in task.splits.items():
        n = len(x)
        assert n > 0, name
        assert x.shape == (n, task.in_features)
        assert x.dtype == torch.float32
        assert torch.isfinite(x).all()
        if task.head == "categorical":
            assert y.shape == (n,)
            assert y.dtype == torch.int64
            assert y.min() >= 0
            assert y.max() < task.out_features
        else:
            assert y.shape == (n, task.out_features)
            assert y.dtype == torch.float32
            assert torch.isfinite(y).all()
        if task.head == "bernoulli":
            assert set(y.unique().tolist()) <= {0.0, 1.0}
        if routes is not None:
            assert routes.shape == (n, task.network["n_layers"])
            assert routes.dtype == torch.int64
            assert routes.min() >= 0
            assert routes.max() < task.network["n_modules"]


def test_names_and_words(task, named):
    assert task.name == named[0]
    assert task.description
    assert "\n" not in task.description
    assert all(note and "\n" not in note for note in task.notes)
    assert len(task.feature_names) == task.in_features
    assert len(task.class_names) == (
        task.out_features if task.head == "categorical" else 0
    )
    assert "\n" not in repr(task)


def test_network_suggestion(task):
    assert {"n_layers", "n_modules", "hidden_features"} <= set(task.network)
    assert set(task.network) <= NETWORK_OPTIONS


def test_inputs_are_of_the_size_that_networks_expect(task):
    spread = task.train.x.std(0)
    assert spread.max() < 3
    assert task.train.x.abs().max() < 20


def test_a_seed_fixes_every_bit(named):
    name, options = named
    first, second = (load(name, seed=3, **options) for _ in range(2))
    assert all(
        torch.equal(a, b) for a, b in zip(bits(first), bits(second), strict=True)
    )


def test_seeds_differ(named):
    name, options = named
    first, second = (load(name, seed=seed, **options) for seed in (0, 1))
    for split in ("train", "valid", "test"):
        a, b = first.splits[split], second.splits[split]
        assert a.x.shape != b.x.shape or not torch.equal(a.x, b.x)


def test_no_global_generator_is_read_or_moved(named):
    name, options = named
    np.random.seed(0)  # noqa: NPY002  the legacy global state is what must not move
    torch.manual_seed(0)
    random.seed(0)
    before = (
        np.random.get_state()[1].tolist(),  # noqa: NPY002
        torch.get_rng_state().tolist(),
        random.getstate(),
    )
    load(name, **options)
    after = (
        np.random.get_state()[1].tolist(),  # noqa: NPY002
        torch.get_rng_state().tolist(),
        random.getstate(),
    )
    assert before == after


def test_splits_do_not_overlap(task):
    rows = [rows_of(split) for split in task.splits.values()]
    assert len(set.union(*rows)) == sum(len(split.y) for split in task.splits.values())


def test_task_survives_pickling_and_copying(task):
    for twin in (pickle.loads(pickle.dumps(task)), copy.deepcopy(task)):
        pairs = zip(bits(task), bits(twin), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        assert twin.notes == task.notes


def test_true_routes_come_with_the_true_mean(task):
    known = task.train.routes is not None
    assert all((s.routes is not None) == known for s in task.splits.values())
    assert (task.true_mean is not None) == known


def test_true_routes_generated_the_targets(task):
    if task.true_mean is None:
        assert task.train.routes is None
        return
    for x, y, routes in task.splits.values():
        mean = task.true_mean(x, routes)
        assert mean.shape == y.shape
        assert mean.dtype == y.dtype
        error = (y - mean).square().mean().sqrt()
        assert error < 0.15  # the default noise is 0.1 or none
        # negative control: one decision changed must be seen in the target
        for layer in range(routes.shape[1]):
            wrong = routes.clone()
            wrong[:, layer] = (wrong[:, layer] + 1) % task.network["n_modules"]
            assert (y - task.true_mean(x, wrong)).square().mean().sqrt() > 3 * error


def test_every_true_module_is_in_use(task):
    if task.train.routes is None:
        assert task.true_mean is None
        return
    for column in task.train.routes.T:
        counts = column.bincount(minlength=task.network["n_modules"])
        assert counts.min() > 0.8 * len(column) / task.network["n_modules"]


@pytest.mark.parametrize("spec", TASKS.values(), ids=TASKS)
def test_options_are_a_documented_frozen_dataclass(spec):
    assert issubclass(spec, TaskSpec)
    assert not inspect.isabstract(spec)
    assert spec.__dataclass_params__.frozen
    assert spec.summary
    assert "\n" not in spec.summary
    documented = spec.__doc__.partition("Args:")[2].partition("References:")[0]
    names = [field.name for field in dataclasses.fields(spec)]
    assert "seed" in names
    assert re.findall(r"^ {8}(\w+):", documented, flags=re.M) == names


@pytest.mark.parametrize("spec", TASKS.values(), ids=TASKS)
def test_each_option_refuses_nonsense_in_one_line(spec):
    needed = {
        f.name: "data.csv"
        for f in dataclasses.fields(spec)
        if f.default is dataclasses.MISSING
    }
    for field in dataclasses.fields(spec):
        with pytest.raises(ValueError, match=rf"^{field.name} must .*got ") as caught:
            spec(**{**needed, field.name: {"no": "value"}})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, True, "0", None])
def test_bad_seeds(named, seed):
    name, options = named
    with pytest.raises(ValueError, match=r"^seed must be a whole number in 0\.\."):
        load(name, seed=seed, **options)
