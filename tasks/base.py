"""What a task is: splits of data, how y is distributed, the true routes if known."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from .options import choice

Head = Literal["categorical", "normal", "bernoulli"]
HEADS: tuple[str, ...] = get_args(Head)


class Split(NamedTuple):
    """The examples of one split, one per row.

    Attributes:
        x: Inputs, shape (N, in_features), float32.
        y: Targets. Categorical head: shape (N,), int64 in 0..out_features-1. Normal
            head: shape (N, out_features), float32. Bernoulli head: shape
            (N, out_features), float32, every value 0 or 1.
        routes: The modules that generated y, shape (N, L), int64, one column per
            decision; None where nobody knows them.
    """

    x: Tensor
    y: Tensor
    routes: Tensor | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Task:
    """Data to learn from, with everything a network and a plot must know about it.

    Args:
        name: The name in `TASKS`, or one's own.
        train: The examples to learn from.
        valid: The examples to watch during training.
        test: The examples to report on.
        head: How y is distributed given the last activation.
        out_features: Classes of a categorical head, outputs of the others.
        description: One line for people.
        notes: What loading told apart, encoded, dropped or filled in, a line each.
        network: Suggested keyword options of `models.LayeredNetwork`.
        extra: Further splits by name, such as "ood" (out of distribution).
        class_names: One name per class of a categorical head, or empty.
        feature_names: One name per column of x, or empty.
        image_shape: (height, width) where x is an image in row order, else None.
        target_mean: Where y was standardised, y = (y_file - target_mean) /
            target_scale; one value per output. Empty where y is as it came.
        target_scale: See `target_mean`. A log density of y, in nats, becomes one of
            y_file by subtracting sum(log(target_scale)).
        true_mean: E[y | x, routes] of the generating process: a function of x, shape
            (N, in_features), and routes, shape (N, L), that gives shape
            (N, out_features). None where the data were not generated.

    Raises:
        ValueError: A split has a wrong shape or dtype, NaN or infinities, or a target
            outside the classes; the line names the task, the split and the value.
    """

    name: str
    train: Split
    valid: Split
    test: Split
    head: Head
    out_features: int
    description: str = ""
    notes: tuple[str, ...] = ()
    network: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Split] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()
    image_shape: tuple[int, int] | None = None
    target_mean: tuple[float, ...] = ()
    target_scale: tuple[float, ...] = ()
    true_mean: Callable[[Tensor, Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        """Checks every split."""
        choice("head", self.head, HEADS)
        for split_name, split in self.splits.items():
            where = f"{split_name} of task {self.name!r}"
            _check_x(split.x, where)
            if split.x.shape[1] != self.in_features:
                raise ValueError(
                    f"x of {where} must have {self.in_features} columns, as train has; "
                    f"got {split.x.shape[1]}"
                )
            _check_y(split, self.head, self.out_features, where)
            _check_routes(split, where)
        self._check_names()

    @property
    def in_features(self) -> int:
        """Columns of x."""
        return self.train.x.shape[1]

    @property
    def splits(self) -> dict[str, Split]:
        """Every split by name, the extra ones last."""
        named = {"train": self.train, "valid": self.valid, "test": self.test}
        return {**named, **self.extra}

    def __repr__(self) -> str:
        """One line, without the data."""
        sizes = ", ".join(f"{k} {len(s.y)}" for k, s in self.splits.items())
        return (
            f"Task({self.name!r}: {self.in_features} -> {self.head} "
            f"{self.out_features}; {sizes})"
        )

    def _check_names(self) -> None:
        expected = {
            "class_names": self.out_features,
            "feature_names": self.in_features,
            "target_mean": self.out_features,
            "target_scale": self.out_features,
        }
        for argument, length in expected.items():
            got = len(getattr(self, argument))
            if got not in (0, length):
                raise ValueError(
                    f"{argument} of task {self.name!r} must be empty or have {length} "
                    f"entries; got {got}"
                )
        if self.image_shape and math.prod(self.image_shape) != self.in_features:
            raise ValueError(
                f"image_shape of task {self.name!r} must hold the {self.in_features} "
                f"columns of x; got {self.image_shape}"
            )


@dataclass(frozen=True)
class TaskSpec(ABC):
    """The options of a task: a frozen dataclass, every field with a line in Args."""

    summary: ClassVar[str]

    @abstractmethod
    def load(self) -> Task:
        """Reads or generates the data: the same options give the same bits."""


def _check_x(x: Tensor, where: str) -> None:
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(
            f"x of {where} must have shape (N, in_features), both at least 1; "
            f"got {tuple(x.shape)}"
        )
    if not x.is_floating_point():
        raise ValueError(f"x of {where} must be floating point; got {x.dtype}")
    _check_finite(x, f"x of {where}")


def _check_y(split: Split, head: Head, out_features: int, where: str) -> None:
    y, n = split.y, len(split.x)
    expected = (n,) if head == "categorical" else (n, out_features)
    if tuple(y.shape) != expected:
        raise ValueError(
            f"y of {where} must have shape {expected} for a {head} head with "
            f"out_features={out_features}; got {tuple(y.shape)}"
        )
    if head == "categorical":
        if y.dtype != torch.int64:
            raise ValueError(f"y of {where} must be int64 classes; got {y.dtype}")
        _check_range(y, out_features, f"y of {where}")
        return
    if not y.is_floating_point():
        raise ValueError(f"y of {where} must be floating point; got {y.dtype}")
    _check_finite(y, f"y of {where}")
    if head == "bernoulli" and not bool(((y == 0) | (y == 1)).all()):
        raise ValueError(
            f"y of {where} must hold zeros and ones only, for a bernoulli head"
        )


def _check_routes(split: Split, where: str) -> None:
    routes = split.routes
    if routes is None:
        return
    if routes.ndim != 2 or len(routes) != len(split.x) or routes.dtype != torch.int64:
        raise ValueError(
            f"routes of {where} must be int64 of shape ({len(split.x)}, L); "
            f"got {routes.dtype} of shape {tuple(routes.shape)}"
        )
    if bool((routes < 0).any()):
        raise ValueError(
            f"routes of {where} must be 0 or more; got {int(routes.min())}"
        )


def _check_finite(values: Tensor, what: str) -> None:
    bad = ~torch.isfinite(values)
    if bool(bad.any()):
        nans = int(torch.isnan(values).sum())
        raise ValueError(
            f"{what} must be finite; got {nans} NaN and {int(bad.sum()) - nans} "
            f"infinite values"
        )


def _check_range(values: Tensor, stop: int, what: str) -> None:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= stop:
        raise ValueError(
            f"{what} must lie in the classes 0..{stop - 1}; got "
            f"{low if low < 0 else high}"
        )
