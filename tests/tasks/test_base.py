"""A user's own Task gets one clear line for what is wrong with it."""

import pytest
import torch

from latentroute.tasks import Split, Task

GOOD = Split(torch.zeros(4, 3), torch.tensor([0, 1, 2, 0]))


def make(split: Split = GOOD, head="categorical", out_features=3, **options) -> Task:
    parts = {"train": split, "valid": split, "test": split} | options
    return Task(name="mine", head=head, out_features=out_features, **parts)


def test_own_task():
    task = make(extra={"ood": GOOD})
    assert task.in_features == 3
    assert list(task.splits) == ["train", "valid", "test", "ood"]
    assert repr(task) == (
        "Task('mine': 3 -> categorical 3; train 4, valid 4, test 4, ood 4)"
    )


def test_float64_stays():
    split = Split(torch.zeros(4, 3).double(), torch.zeros(4, 1).double())
    assert make(split, "normal", 1).train.x.dtype == torch.float64


nan = torch.full((4, 3), torch.nan)
inf = torch.full((4, 1), torch.inf)
BAD = {
    "head": ({"head": "poisson"}, "head must be one of 'categorical', .*got 'poisson'"),
    "x ndim": ({"split": GOOD._replace(x=torch.zeros(4))}, r"x of train .*\(4,\)"),
    "x empty": ({"split": GOOD._replace(x=torch.zeros(0, 3))}, "at least 1"),
    "x dtype": ({"split": GOOD._replace(x=GOOD.x.long())}, "floating point; got torch"),
    "x nan": ({"split": GOOD._replace(x=nan)}, "finite; got 12 NaN and 0 infinite"),
    "x width": (
        {"test": GOOD._replace(x=torch.zeros(4, 5))},
        "x of test of task 'mine' must have 3 columns, as train has; got 5",
    ),
    "rows": ({"valid": GOOD._replace(y=GOOD.y[:3])}, r"y of valid .*\(4,\).*\(3,\)"),
    "extra": ({"extra": {"ood": GOOD._replace(x=nan)}}, "x of ood"),
    "y dtype": ({"split": GOOD._replace(y=GOOD.y.int())}, "int64 classes; got torch"),
    "y high": ({"out_features": 2}, r"y of train .* classes 0\.\.1; got 2"),
    "y low": ({"split": GOOD._replace(y=GOOD.y - 1)}, r"classes 0\.\.2; got -1"),
    "y shape": ({"head": "normal", "out_features": 1}, r"y .*\(4, 1\).*got \(4,\)"),
    "y float": (
        {
            "head": "normal",
            "out_features": 1,
            "split": GOOD._replace(y=GOOD.y[:, None]),
        },
        "y of train of task 'mine' must be floating point",
    ),
    "y inf": (
        {"head": "normal", "out_features": 1, "split": GOOD._replace(y=inf)},
        "y of train .*0 NaN and 4 infinite",
    ),
    "y bernoulli": (
        {
            "head": "bernoulli",
            "out_features": 1,
            "split": GOOD._replace(y=torch.full((4, 1), 0.5)),
        },
        "zeros and ones only",
    ),
    "routes shape": ({"split": GOOD._replace(routes=GOOD.y)}, r"routes .*\(4, L\)"),
    "routes sign": (
        {"split": GOOD._replace(routes=torch.full((4, 2), -1))},
        "routes .*0 or more; got -1",
    ),
    "class names": ({"class_names": ("a",)}, "class_names .*3 entries; got 1"),
    "feature names": ({"feature_names": ("a",)}, "feature_names .*3 entries; got 1"),
    "image": ({"image_shape": (2, 2)}, r"image_shape .*3 columns of x; got \(2, 2\)"),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_bad_tasks(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        make(**options)
    assert "\n" not in str(caught.value)
