"""M modules of one architecture as one, evaluated by products of all or of groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .categorical import hooked
from .convolution import CONVOLUTIONS, StackedConvolution
from .dispatch import StackedAffine, inverse

Stacked = StackedAffine | StackedConvolution
_MOST_PICKED = 2**20  # products of numbers: of so few, sorting rows takes longer
_CHOSEN_ALONE = ContextVar("chosen_alone", default=False)


@contextmanager
def chosen_alone() -> Iterator[None]:
    """Evaluate no module but the chosen one inside, however few the rows are.

    What a row then takes in memory does not depend on the number of modules.
    """
    token = _CHOSEN_ALONE.set(True)
    try:
        yield
    finally:
        _CHOSEN_ALONE.reset(token)


class ModuleStack(nn.Module):
    """M chains of one architecture: affine maps, convolutions, parameterless functions.

    ``into`` and ``out`` stand for the dimensions that a module takes and gives: one of
    features, or three of an image.

    Args:
        chains: For each module, its layers; position by position they are all
            ``nn.Linear`` of one shape, all convolutions of one shape, or all the same
            parameterless function.
        event_dim: How many dimensions ``into`` has.
    """

    def __init__(self, chains: list[list[nn.Module]], event_dim: int) -> None:
        super().__init__()
        self._n_modules = len(chains)
        self._event_dim = event_dim
        self.stages = nn.ModuleList(
            _stage(layers) for layers in zip(*chains, strict=True)
        )
        affine = [s.weight.numel() for s in self.stages if isinstance(s, StackedAffine)]
        self._affine = bool(affine)
        self._cost = max(affine, default=0)  # of all modules at one row

    def every(self, z: Float[Tensor, "*batch_into"]) -> Float[Tensor, "m *batch_out"]:
        """Each module's value at every row, each evaluated once over the batch."""
        n_batch = z.dim() - self._event_dim
        rows = z if n_batch == 1 else z.reshape(-1, *z.shape[n_batch:])
        every = self._run(rows, _every)
        if n_batch == 1:
            return every
        return every.view(self._n_modules, *z.shape[:n_batch], *every.shape[2:])

    def each(self, z: Float[Tensor, "m *batch_into"]) -> Float[Tensor, "m *batch_out"]:
        """Module m's value at the m-th block of rows."""
        n_batch = z.dim() - self._event_dim
        blocks = z.reshape(len(z), -1, *z.shape[n_batch:])
        values = self._run(blocks, _every, n_modules=len(z))
        each: Tensor = values.unflatten(1, z.shape[1:n_batch])
        return each

    def chosen(
        self, z: Float[Tensor, "rows *into"], module: Int[Tensor, " rows"]
    ) -> Float[Tensor, "rows *out"]:
        """Each row's own module: rows are sorted by module, then put back.

        Where that would take longer than the arithmetic of all modules, its own is
        picked out of one product with all.
        """
        if not self._affine:
            return self._run(z, lambda stage, h: stage.chosen(h, module))
        if len(z) * self._cost <= _MOST_PICKED and not _CHOSEN_ALONE.get():
            # Not in place: of a view the backward pass would copy twice.
            return self._run(z, partial(_picked, module=module), in_place=False)
        module, order = module.sort()
        # Not bincount, which waits for an accelerator.
        places = torch.arange(self._n_modules, device=module.device)
        ends = torch.searchsorted(module, places, right=True, out_int32=True)

        def own(stage: Any, h: Tensor) -> Tensor:
            if isinstance(stage, StackedAffine):
                return stage.sorted(h, module, ends)
            chosen: Tensor = stage.chosen(h, module)
            return chosen

        # index_select copies rows, where z[order] copies numbers.
        h = self._run(z.index_select(0, order), own)
        return h.index_select(0, inverse(order))

    def _run(
        self,
        h: Tensor,
        evaluate: Callable[[Any, Tensor], Tensor],
        *,
        n_modules: int | None = None,
        in_place: bool = True,
    ) -> Tensor:
        """All stages in turn.

        Args:
            h: (rows, into), or (M, rows, into).
            evaluate: What a stage with parameters gives.
            n_modules: M where h has it.
            in_place: Whether functions may overwrite what affine maps give.
        """
        fresh = False  # whether h is an affine map's value, that nothing else holds
        for stage in self.stages:
            if isinstance(stage, Stacked):
                h = evaluate(stage, h)
                fresh = in_place and isinstance(stage, StackedAffine)
                n_modules = self._n_modules if evaluate is _every else None
            elif n_modules is not None and type(stage) in _BY_ROWS:
                h, fresh = stage(h.flatten(0, 1)).unflatten(0, (n_modules, -1)), False
            else:
                h, fresh = _act(stage, h, fresh), False
        return h


def _every(stage: Stacked, h: Tensor) -> Tensor:
    return stage.every(h)


def _picked(stage: Stacked, h: Tensor, *, module: Tensor) -> Tensor:
    if isinstance(stage, StackedAffine):
        return stage.picked(h, module)
    return stage.chosen(h, module)


def _stage(layers: tuple[Any, ...]) -> nn.Module:
    """One position of the chains."""
    if isinstance(layers[0], nn.Linear):
        return StackedAffine(list(layers))
    if isinstance(layers[0], CONVOLUTIONS):
        return StackedConvolution(list(layers))
    function: nn.Module = layers[0]
    return function


_IN_PLACE: Final[Mapping[type, Callable[[Tensor], Tensor]]] = MappingProxyType(
    {nn.Tanh: torch.tanh_, nn.ReLU: torch.relu_, nn.Sigmoid: torch.sigmoid_}
)


def _act(function: nn.Module, h: Tensor, fresh: bool) -> Tensor:
    """A function's values, in place of its argument's where it may."""
    in_place = _IN_PLACE.get(type(function)) if fresh else None
    if in_place is None or hooked(function):
        value: Tensor = function(h)
        return value
    return in_place(h)


_ELEMENTWISE: Final = (
    nn.ReLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.GELU,
    nn.ELU,
    nn.SiLU,
    nn.LeakyReLU,
    nn.Softplus,
    nn.Identity,
)
_POOLS: Final[Mapping[type, int]] = MappingProxyType(  # and their dimensions of space
    {
        nn.MaxPool1d: 1,
        nn.MaxPool2d: 2,
        nn.AvgPool1d: 1,
        nn.AvgPool2d: 2,
        nn.AdaptiveAvgPool1d: 1,
        nn.AdaptiveAvgPool2d: 2,
    }
)
_BY_ROWS: Final = (*_POOLS, nn.Flatten, nn.Unflatten)  # take (rows, into), no more


def stack(modules: list[object], event_dim: int = 1) -> ModuleStack | None:
    """The modules as one :class:`ModuleStack` where their architecture is the same.

    Args:
        modules: The modules.
        event_dim: How many dimensions a module takes beside that of rows.

    Returns:
        The stack, or ``None`` where a module is not a chain of ``nn.Linear``,
        convolutions, pooling, ``nn.Flatten`` and elementwise functions without
        parameters, where the chains differ, or where two modules share weights (stacked
        copies would untie them).
    """
    chains = [_chain(module, event_dim) for module in modules]
    learned = [
        id(p) for chain in chains for layer in chain or () for p in layer.parameters()
    ]
    if len(set(learned)) < len(learned):
        return None
    architectures = {_architecture(chain) for chain in chains}
    if len(architectures) != 1 or None in chains:
        return None
    return ModuleStack([chain for chain in chains if chain is not None], event_dim)


def _chain(module: object, event_dim: int) -> list[nn.Module] | None:
    """The layers of a module that is such a chain."""
    layers: Any = list(module) if type(module) is nn.Sequential else [module]
    rank: int | None = event_dim
    for layer in layers:
        rank = _rank_after(layer, rank) if rank else None
    if not rank or not any(type(x) in (nn.Linear, *CONVOLUTIONS) for x in layers):
        return None
    return None if any(map(hooked, (module, *layers))) else layers


def _rank_after(layer: Any, rank: int) -> int | None:
    """How many dimensions a layer makes of so many; None: it is not one to stack."""
    kind = type(layer)
    if kind in CONVOLUTIONS:
        fits = rank == len(layer.kernel_size) + 1 and layer.padding_mode == "zeros"
    elif kind in _POOLS:
        fits = rank == _POOLS[kind] + 1 and not getattr(layer, "return_indices", False)
    elif kind is nn.Flatten:
        return 1 if (layer.start_dim, layer.end_dim) == (1, -1) else None
    elif kind is nn.Unflatten:
        return len(layer.unflattened_size) if (layer.dim, rank) == (1, 1) else None
    else:
        fits = kind in _ELEMENTWISE or (kind is nn.Linear and rank == 1)
    return rank if fits else None


def _architecture(chain: list[nn.Module] | None) -> tuple[object, ...]:
    """What two chains must share to be stacked."""
    return tuple(
        (
            repr(layer),
            *((p.dtype, p.device, p.requires_grad) for p in layer.parameters()),
        )
        for layer in chain or ()
    )
