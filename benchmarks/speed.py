"""Steps and parts of the library against the same mathematics in plain torch.

``latentroute benchmark speed`` runs all of it, on one thread; every figure is a ratio
of two measurements that alternate in one run. ``against.py`` has the public libraries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from ..models import ModuleBank
from . import buffers, resources
from .steps import Setting, Step, steps
from .timing import Ratio, ratio

HAND = "hand-written torch"
CHANNELS = 8  # of the images that convolutions take and give


def exact_steps() -> Iterator[Ratio]:
    """A step of the exact method: loss, gradient, Adam."""
    for n, n_layers, width in ((32, 2, 8), (32, 2, 32), (256, 3, 32)):
        setting = {"B": n, "L": n_layers, "M": 4, "D": width}
        yield _step("exact", setting, wanted=1.5 if n < 256 else 1.1)
        yield _step("exact", setting, compile="capture")
    for n_layers in (2, 3, 4):
        setting = {"B": 2048, "L": n_layers, "M": 4, "D": 32}
        yield _step("exact", setting, wanted=1.1)


def compiled_steps() -> Iterator[Ratio]:
    """Steps compiled by inductor, which takes a while."""
    setting = {"B": 32, "L": 2, "M": 4, "D": 8}
    yield _step("exact", setting, compile="inductor")
    yield _step("score-function", {**setting, "S": 8}, compile="inductor")


def sampled_steps() -> Iterator[Ratio]:
    """A score-function step with S = 8 samples, at several numbers of modules."""
    sizes = ((32, 4, 8), (32, 4, 64), *((256, m, 64) for m in (4, 16, 64, 256)))
    for n, n_modules, width in sizes:
        setting = {"B": n, "L": 2, "M": n_modules, "D": width, "S": 8}
        yield _step("score-function", setting, wanted=1.15)
        if n == 32:
            yield _step("score-function", setting, compile="capture")


def banks() -> Iterator[Ratio]:
    """Forward and backward of a bank on given routes."""
    n, width = 4096, 64
    setting = f"N = {n}, D = {width}"
    many, few = _bank_pass(256, n, width), _bank_pass(4, n, width)
    yield ratio("bank, M = 256", setting, many, "bank, M = 4", few, wanted=2.0)
    chosen, dense = _bank_pass(64, n, width), _dense_pass(64, n, width)
    yield ratio(
        "bank, M = 64", setting, chosen, "every module, chosen", dense, wanted=0.2
    )
    n = 512
    setting = f"N = {n}, {CHANNELS} channels, 8 x 8"
    many, few = _convolutions(256, n), _convolutions(4, n)
    name = "bank of convolutions, M = "
    yield ratio(f"{name}256", setting, many, f"{name}4", few, wanted=2.0)


SUITES: Mapping[str, Callable[[], Iterator[Ratio]]] = MappingProxyType(
    {
        "exact": exact_steps,
        "sampled": sampled_steps,
        "banks": banks,
        "buffers": buffers.e_steps,
        "posterior": resources.posterior,
        "start": resources.start,
        "compiled": compiled_steps,
    }
)
"""What can be measured, by name; each yields its ratios as they come."""


def said(setting: Setting) -> str:
    """A setting in words: ``B = 32, L = 2``."""
    return ", ".join(f"{name} = {size}" for name, size in setting.items())


def step_name(method: str, compile: str | None) -> str:
    """What a table calls a method's step: ``exact step, captured``."""
    way = {None: "", "capture": ", captured"}.get(compile, f", {compile}")
    return f"{method} step{way}"


def _step(
    method: str,
    setting: Setting,
    *,
    compile: str | None = None,
    wanted: float | None = None,
) -> Ratio:
    """A method's step against the same by hand."""
    pair = steps(method, setting, compile=compile)
    name = step_name(method, compile)
    return ratio(name, said(setting), pair.ours, HAND, pair.hand, wanted=wanted)


def _bank_pass(n_modules: int, n: int, width: int) -> Step:
    modules, z, module = _bank(n_modules, n, width)
    bank = ModuleBank(modules)
    return _gradient(lambda: bank(z, module), [z, *bank.parameters()])


def _dense_pass(n_modules: int, n: int, width: int) -> Step:
    """Every module at every row, and the chosen one's value picked."""
    modules, z, module = _bank(n_modules, n, width)
    rows = torch.arange(n)
    weight = torch.stack([m.weight.T for m in modules]).detach().requires_grad_()
    return _gradient(lambda: (z @ weight)[module, rows], [z, weight])


def _convolutions(n_modules: int, n: int) -> Step:
    """The same of convolutions of 3 x 3."""
    torch.manual_seed(0)
    modules = [
        torch.nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) for _ in range(n_modules)
    ]
    z = torch.randn(n, CHANNELS, 8, 8, requires_grad=True)
    module = torch.randint(n_modules, (n,))
    bank = ModuleBank(modules, event_dim=3)
    return _gradient(lambda: bank(z, module), [z, *bank.parameters()])


def _gradient(value: Callable[[], Tensor], leaves: list[Tensor]) -> Step:
    """Forward and backward, none of whose gradients is added to an earlier one."""
    return lambda: torch.autograd.grad(value().square().mean(), leaves)


def _bank(
    n_modules: int, n: int, width: int
) -> tuple[list[torch.nn.Linear], Tensor, Tensor]:
    torch.manual_seed(0)
    modules = [torch.nn.Linear(width, width) for _ in range(n_modules)]
    z = torch.randn(n, width, requires_grad=True)
    return modules, z, torch.randint(n_modules, (n,))
