"""Steps and parts of the library against the same mathematics in plain torch.

``latentroute benchmark speed`` runs all of it, on one thread; every figure is a ratio
of two measurements that alternate in one run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ..inference import build
from ..models import LayeredNetwork, ModuleBank
from . import handwritten
from .timing import Ratio, ratio

Step = Callable[[], object]
HAND = "hand-written torch"


def exact_steps() -> Iterator[Ratio]:
    """A step of the exact method: loss, gradient, Adam."""
    sizes = [(32, 2, 8), (32, 2, 32), (256, 3, 32), (2048, 2, 32), (2048, 3, 32)]
    for batch, n_layers, hidden in [*sizes, (2048, 4, 32)]:
        for compile in (None, "capture") if batch < 2048 else (None,):
            name = "exact step" if compile is None else f"exact step, {compile}d"
            ours, hand = _steps("exact", batch, n_layers, hidden, compile=compile)
            yield ratio(name, _setting(batch, n_layers, 4, hidden), ours, HAND, hand)


def compiled_steps() -> Iterator[Ratio]:
    """A step of the exact method compiled by inductor: minutes to compile."""
    ours, hand = _steps("exact", 32, 2, 8, compile="inductor")
    yield ratio("exact step, inductor", _setting(32, 2, 4, 8), ours, HAND, hand)


def sampled_steps() -> Iterator[Ratio]:
    """A score-function step with S = 8 samples, at several numbers of modules."""
    for batch, n_modules in ((32, 4), (256, 4), (256, 16), (256, 64), (256, 256)):
        ours, hand = _steps("score-function", batch, 2, 64, n_modules=n_modules)
        setting = f"{_setting(batch, 2, n_modules, 64)}, S = 8"
        yield ratio("score-function step", setting, ours, HAND, hand)


def banks() -> Iterator[Ratio]:
    """Forward and backward of a bank on given routes."""
    n, width = 4096, 64
    many, few = _bank_pass(256, n, width), _bank_pass(4, n, width)
    yield ratio("bank, M = 256", f"N = {n}, D = {width}", many, "M = 4", few)
    chosen, dense = _bank_pass(64, n, width), _dense_pass(64, n, width)
    yield ratio(
        "bank, M = 64", f"N = {n}, D = {width}", chosen, "every module, chosen", dense
    )


SUITES: Mapping[str, Callable[[], Iterator[Ratio]]] = MappingProxyType(
    {
        "exact": exact_steps,
        "sampled": sampled_steps,
        "banks": banks,
        "compiled": compiled_steps,
    }
)
"""What can be measured, by name; each yields its ratios as they come."""


def _steps(
    method: str,
    batch: int,
    n_layers: int,
    hidden: int,
    *,
    n_modules: int = 4,
    **options: Any,
) -> tuple[Step, Step]:
    """One training step of ours and by hand, on the same data."""
    torch.manual_seed(0)
    x, y = torch.randn(batch, 6), torch.randint(5, (batch,))
    net = LayeredNetwork(
        6, 5, n_layers=n_layers, n_modules=n_modules, hidden_features=hidden
    )
    if method == "score-function":
        options["n_samples"] = 8
    objective = build(method, net, n_data=batch, seed=0, example=(x, y), **options)
    by_hand = handwritten.Network(
        6, 5, n_layers=n_layers, n_modules=n_modules, hidden=hidden
    )

    def loss() -> Tensor:
        if method == "exact":
            return handwritten.exact_loss(by_hand, x, y)
        return handwritten.score_function_loss(by_hand, x, y, 8)

    ours = _training(objective, lambda: objective(x, y))
    return ours, _training(by_hand, loss)


def _training(module: torch.nn.Module, loss: Callable[[], Tensor]) -> Step:
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-3)

    def step() -> None:
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()

    return step


def _bank_pass(n_modules: int, n: int, width: int) -> Step:
    modules, z, module = _bank(n_modules, n, width)
    bank = ModuleBank(modules)
    return lambda: bank(z, module).square().mean().backward()


def _dense_pass(n_modules: int, n: int, width: int) -> Step:
    """Every module at every row, and the chosen one's value picked."""
    modules, z, module = _bank(n_modules, n, width)
    rows = torch.arange(n)
    weight = torch.stack([m.weight.T for m in modules]).detach().requires_grad_()
    return lambda: (z @ weight)[module, rows].square().mean().backward()


def _bank(
    n_modules: int, n: int, width: int
) -> tuple[list[torch.nn.Linear], Tensor, Tensor]:
    torch.manual_seed(0)
    modules = [torch.nn.Linear(width, width) for _ in range(n_modules)]
    z = torch.randn(n, width, requires_grad=True)
    return modules, z, torch.randint(n_modules, (n,))


def _setting(batch: int, n_layers: int, n_modules: int, hidden: int) -> str:
    return f"B = {batch}, L = {n_layers}, M = {n_modules}, D = {hidden}"
