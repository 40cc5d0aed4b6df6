"""What a program was given: what it observes, and its other arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..arrays import to_numpy
from ..groups import Group
from .labels import Labels, Variables
from .layout import Layout


def data_groups(
    model: Callable[..., Any],
    layout: Layout,
    labels: Labels,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> dict[str, Group]:
    """Observed values, and the arguments that are none of them."""
    sites = {s.name: to_numpy(s.value) for s in layout.of_kind("observed")}
    observed = labels.group(sites, 0)
    groups = {"observed_data": Group(observed, sample_dims=[])}
    constant: Variables = {}
    sizes: dict[int, list[str]] = {}
    for plate, size in layout.plates.items():
        sizes.setdefault(size, []).append(plate)
    for name, value in _arguments(model, args, kwargs).items():
        values = to_numpy(value)
        if any(_same(values, seen) for _, seen in observed.values()):
            continue
        # the first axis is that of the one plate of its size; the others are its own
        known = sizes.get(values.shape[0], []) if values.ndim else []
        first = known[:1] if len(known) == 1 else []
        n_own = values.ndim - len(first)
        name = f"{name}_argument" if name in layout.plates else name
        constant[name] = (first + [f"{name}_dim_{i}" for i in range(n_own)], values)
    groups["constant_data"] = Group(labels.stack(constant, 0), sample_dims=[])
    return {name: group for name, group in groups.items() if group.variables}


def _arguments(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Arguments that are tensors, arrays or numbers, by name."""
    called = model.forward if isinstance(model, torch.nn.Module) else model
    bound = inspect.signature(called).bind_partial(*args, **kwargs).arguments
    return {
        name: value
        for name, value in bound.items()
        if isinstance(value, Tensor | np.ndarray | np.number | int | float)
    }


def _same(values: NDArray[Any], observed: NDArray[Any]) -> bool:
    """Whether an argument is what a site observes."""
    return values.size == observed.size and np.array_equal(
        values.ravel(), observed.ravel(), equal_nan=values.dtype.kind == "f"
    )
