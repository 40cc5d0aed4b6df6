"""A comparison leaves out what does not apply, before it trains anything."""

import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from latentroute import analysis
from latentroute.inference import METHODS, Exact, Method, compare
from latentroute.models import LayeredNetwork
from latentroute.tasks import from_tensors

FAST = {"steps": 2, "draws": 2, "batch_size": 8}
STATIC = {"n_layers": 1, "n_modules": 2, "hidden_features": 3, "routing": "static"}


def make_task():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 2, generator=generator)
    return from_tensors(x, x[:, 0].gt(0).long())


@dataclass(frozen=True)
class LateRefusal(Method):
    """Refuses a batch, not the program: as an enumeration too large for it would."""

    summary: ClassVar[str] = "refuses"
    wiring: ClassVar[str] = "marginal likelihood"
    unbiased_for: ClassVar[str | None] = None

    def objective(self, model, guide, **options):
        objective = Exact()(model, **options)

        def refuse(x, y, index):
            if len(x) == FAST["batch_size"]:
                raise ValueError("too large\n a batch")
            return torch.zeros(())

        objective._loss = refuse
        return objective


def test_methods_that_do_not_apply_are_rows_that_say_so(capsys):
    methods = {"relax": METHODS["relax"], "late": LateRefusal(), "exact": Exact()}
    tree = compare(make_task(), methods, 2, network=STATIC, progress=True, **FAST)
    assert tree["exact/seed_1"].attrs.get("applies", 1) == 1
    for label, words in (("relax", "is static"), ("late", "too large a batch")):
        for seed in (0, 1):
            node = tree[f"{label}/seed_{seed}"]
            assert node.attrs["applies"] == 0 and words in node.attrs["error"]
            assert not node.children
    table = analysis.summary(tree)
    assert list(table.index) == ["relax", "late", "exact"]
    assert list(table["seeds"]) == [0, 0, 2] and not table["failed"].any()
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("relax does not apply: ")  # before any training
    assert said[1] == "late does not apply: too large a batch"


def test_nothing_is_trained_where_no_method_applies(monkeypatch):
    def never(*args, **options):
        raise AssertionError("trained")

    module = sys.modules["latentroute.inference.training_job"]
    monkeypatch.setattr(module, "fit", never)
    with pytest.raises(ValueError, match="is static"):
        compare(make_task(), ["relax"], 1, network=STATIC, **FAST)


def test_data_that_fit_no_method_are_refused_as_such():
    def make(task):
        return LayeredNetwork(7, 2, n_layers=1, n_modules=2, hidden_features=3)

    with pytest.raises(ValueError, match=r"x must have shape \(N, 7\)"):
        compare(make_task(), ["exact", "hard-em"], 1, model=make, **FAST)


def test_the_trial_changes_no_run():
    """Alone or beside a method that is tried before it, a run is the same."""
    alone, beside = (
        compare(make_task(), methods, 1, network={"n_modules": 2}, **FAST)
        for methods in (["score-function"], ["relax", "score-function"])
    )
    first, second = (
        t["score-function/seed_0/training"]["loss"] for t in (alone, beside)
    )
    assert first.equals(second)
