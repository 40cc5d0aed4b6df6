"""Banks: M modules behind one call ``bank(z, route)``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .checks import check_choice, check_count
from .dispatch import inverse
from .relaxation import relaxation_of
from .stack import ModuleStack, stack

Combine = Literal["add", "concatenate"]
Duplicates = Literal["once", "each"]
_FEW_NUMBERS = 2**14  # of so many, gather moves them faster than index_select rows


class ModuleBank(nn.Module):
    """M modules behind one call: ``bank(z, route)`` is f_route(z), row by row.

    Under parallel enumeration, where ``route`` lists the modules on a dimension of its
    own, each module is evaluated once over the whole batch: M evaluations for each row
    of ``z``. A sampled ``route`` costs one evaluation for each of its rows: rows are
    sorted by module. Both are right for every mixture: sampled after enumerated,
    particles, outer plates. A relaxed route mixes all M modules' values.

    Modules of one architecture (chains of ``nn.Linear``, convolutions, pooling,
    ``nn.Flatten`` and elementwise functions) are copied into stacked parameters and
    evaluated by batched and grouped products, at a cost that does not grow with M where
    routes are sampled; others (any ``nn.Module`` or plain function of rows,
    differentiable or not) stay a list, called on the rows that chose them. Stacked
    modules are all evaluated and the chosen values picked where a row of ``z`` has M
    routes or more, on dimensions that ``z`` does not have, so that M evaluations are
    the most; and where rows are so few that sorting takes longer than M products. A
    weight that is not finite then spoils other modules' gradients too.

    With several slots, ``bank(z, [a_1, .. a_K])`` adds or concatenates the chosen
    modules' values. A module chosen by several slots counts once by default, as in the
    public code of Kirsch et al. 2018 (arXiv:1811.05249): in the sum its second value is
    left out, in the concatenation it is zero.

    Args:
        modules: The M modules, each from (rows, features) to (rows, out features).
        combine: ``"add"`` or ``"concatenate"`` what K slots chose.
        duplicates: ``"once"`` or ``"each"``.
        event_dim: How many dimensions of ``z`` a module takes beside that of rows: 1
            for features, 3 for images (channels, height, width), which modules such as
            ``nn.Conv2d`` take. Concatenated is the first dimension of what they give.

    Raises:
        ValueError: If there is no module, or an option is unknown.
        TypeError: If a module cannot be called.

    Example:
        >>> bank = ModuleBank([lambda z: z, lambda z: -z])
        >>> bank(torch.ones(3, 1), torch.tensor([0, 1, 1])).squeeze(-1)
        tensor([ 1., -1., -1.])
    """

    def __init__(
        self,
        modules: Sequence[Callable[[Tensor], Tensor]],
        *,
        combine: Combine = "add",
        duplicates: Duplicates = "once",
        event_dim: int = 1,
    ) -> None:
        super().__init__()
        modules = list(modules)
        if not modules:
            raise ValueError("a bank needs at least one module, got none")
        for module in modules:
            if not callable(module):
                raise TypeError(f"a module must be callable, got {module!r}")
        check_choice("combine", combine, get_args(Combine))
        check_choice("duplicates", duplicates, get_args(Duplicates))
        check_count("event_dim", event_dim)
        self.event_dim = event_dim
        self.n_modules = len(modules)
        self.combine = combine
        self.duplicates = duplicates
        stacked = stack(list(modules), event_dim)
        self._evaluate = stacked or _ModuleList(modules, event_dim)

    def forward(
        self,
        z: Float[Tensor, "*batch into"],
        route: Int[Tensor, "..."] | Sequence[Int[Tensor, "..."]],
    ) -> Float[Tensor, "*out_batch out"]:
        """The chosen modules' values.

        Args:
            z: (*batch, into) what the modules act on; ``into`` is one dimension, or
                as many as ``event_dim`` says.
            route: Which module acts, of a shape that broadcasts with ``batch``; or a
                sequence of K such, one a slot.

        Returns:
            (*broadcast of batch and route, out), K times as wide where concatenated.
        """
        routes = [route] if isinstance(route, Tensor) else list(route)
        if len(routes) == 1:
            return self._value(z, routes[0], lambda: self._evaluate.every(z), 1)
        every = cache(lambda: self._evaluate.every(z))  # (M, *batch, out), for all
        values = [self._value(z, a, every, len(routes)) for a in routes]
        # How many dimensions a module gives.
        out_dim = values[0].dim() - max(z.dim() - self.event_dim, routes[0].dim())
        if self.duplicates == "once":
            if any(relaxation_of(a) for a in routes):
                raise ValueError(
                    "relaxed routes of several slots take duplicates='each': whether "
                    "two slots chose the same module is not differentiable"
                )
            values = [
                v if first is None else v * first[(..., *(None,) * out_dim)]
                for v, first in zip(values, _first_use(routes), strict=True)
            ]
        if self.combine == "add":
            total = values[0]
            for value in values[1:]:
                total = total + value
            return total
        return torch.cat(torch.broadcast_tensors(*values), -out_dim)

    def _value(
        self, z: Tensor, route: Tensor, every: Callable[[], Tensor], n_slots: int
    ) -> Tensor:
        n_batch = z.dim() - self.event_dim
        relaxation = relaxation_of(route)
        if relaxation is not None:
            relaxation.used = True
            return _mix(every(), relaxation.weights, n_batch)
        if is_enumerated(route, self.n_modules):
            axis = n_batch - route.dim()
            if axis < 0 or z.shape[axis] == 1:
                return _place(every(), n_batch, route.dim())
            # z depends on this very route already: module m acts on its m-th slice.
            own = self._evaluate.each(z.movedim(axis, 0))
            return own.movedim(0, axis)
        batch, rows_of, into = route.shape, z.shape[:n_batch], z.shape[n_batch:]
        if batch != rows_of:
            # broadcast_shapes takes as long as a product.
            if batch[max(0, len(batch) - n_batch) :] != rows_of:
                batch = torch.broadcast_shapes(rows_of, batch)
                route = route.expand(batch)
            n_more = len(batch) - n_batch  # dimensions that z does not have
            if batch[n_more:] == rows_of and isinstance(self._evaluate, ModuleStack):
                if n_slots * batch[:n_more].numel() >= self.n_modules:
                    return _pick(every(), n_batch, route)
            z = z.expand(*batch, *into)
        rows, module = z.reshape(-1, *into), route.reshape(-1).long()
        chosen = self._evaluate.chosen(rows, module)
        return chosen.view(*batch, *chosen.shape[1:])


class _ModuleList(nn.Module):
    """Modules of any kind, called one by one."""

    def __init__(
        self, modules: Sequence[Callable[[Tensor], Tensor]], event_dim: int
    ) -> None:
        super().__init__()
        self._event_dim = event_dim
        # Registered for their parameters; `calls` holds plain functions too.
        self.learned = nn.ModuleList(m for m in modules if isinstance(m, nn.Module))
        self.calls = tuple(None if isinstance(m, nn.Module) else m for m in modules)

    def _modules_in_order(self) -> list[Callable[[Tensor], Tensor]]:
        learned = iter(self.learned)
        return [call if call is not None else next(learned) for call in self.calls]

    def every(self, z: Float[Tensor, "*batch_into"]) -> Float[Tensor, "m *batch_out"]:
        """Each module's value at every row, each evaluated once over the batch."""
        n_batch = z.dim() - self._event_dim
        rows = z.reshape(-1, *z.shape[n_batch:])
        values = torch.stack([module(rows) for module in self._modules_in_order()])
        every: Tensor = values.unflatten(1, z.shape[:n_batch])
        return every

    def each(self, z: Float[Tensor, "m *batch_into"]) -> Float[Tensor, "m *batch_out"]:
        """Module m's value at the m-th block of rows."""
        n_batch = z.dim() - self._event_dim
        blocks = z.reshape(len(z), -1, *z.shape[n_batch:])
        calls = zip(self._modules_in_order(), blocks, strict=True)
        values = torch.stack([module(rows) for module, rows in calls])
        each: Tensor = values.unflatten(1, z.shape[1:n_batch])
        return each

    def chosen(
        self, z: Float[Tensor, "rows *into"], module: Int[Tensor, " rows"]
    ) -> Float[Tensor, "rows *out"]:
        """Each module's value at the rows that chose it; the others are not called."""
        order = module.argsort(stable=True)
        sizes = torch.bincount(module, minlength=len(self.calls)).tolist()
        parts = [
            f(rows)
            for f, rows in zip(
                self._modules_in_order(),
                z.index_select(0, order).split(sizes),
                strict=True,
            )
            if len(rows)
        ]
        return torch.cat(parts).index_select(0, inverse(order))


def is_enumerated(route: Tensor, n_modules: int) -> bool:
    """Whether a route lists all modules in order on its leftmost dimension.

    Pyro marks the values it enumerates of a Categorical; a sampled route of the same
    shape (M particles of one example) lacks the mark. Values that lost it, by
    arithmetic say, are dispatched as sampled ones: as right, and slower.
    """
    return (
        getattr(route, "_pyro_categorical_support", None) is not None
        and route.dim() > 0
        and route.shape[0] == route.numel() == n_modules
    )


def _place(every: Tensor, batch: int, position: int) -> Tensor:
    """Move the modules' axis of ``every`` (M, *batch, out) to batch dim -position."""
    if batch + 1 == position:
        return every
    if batch < position:  # (M, 1, .., 1, *batch, out)
        placed: Tensor = every.unflatten(0, (-1, *(1,) * (position - 1 - batch)))
        return placed
    axis = batch - position  # of `batch`, of size 1: the route is new to z there
    return every.squeeze(1 + axis).movedim(0, axis)


def _pick(every: Tensor, n_batch: int, route: Tensor) -> Tensor:
    """Of (M, *batch, *out) values, those that routes (*more, *batch) chose."""
    m, batch, out = len(every), every.shape[1 : 1 + n_batch], every.shape[1 + n_batch :]
    n_rows, width = batch.numel(), out.numel()
    at = route.long().reshape(route.shape[: route.dim() - n_batch].numel(), n_rows)
    if route.numel() * width <= _FEW_NUMBERS:
        values = every if n_batch == len(out) == 1 else every.reshape(m, n_rows, width)
        picked = values.gather(0, at.unsqueeze(-1).expand(-1, -1, width))
    else:
        at = torch.arange(n_rows, device=at.device).add(at, alpha=n_rows)
        picked = every.flatten(0, n_batch).index_select(0, at.flatten())
    shape = (*route.shape, *out)
    return picked if picked.shape == shape else picked.view(shape)


def _mix(every: Tensor, weights: Tensor, batch: int) -> Tensor:
    """sum_m w_m f_m(z) of (M, *batch, *out) values and (*batch, M) weights."""
    out_dim = every.dim() - 1 - batch
    spread = weights[(..., *(None,) * out_dim, slice(None))]
    return (every.movedim(0, -1) * spread).sum(-1)


def _first_use(routes: list[Tensor]) -> list[Tensor | None]:
    """For each slot, where no earlier slot chose the same module (None: everywhere)."""
    first: list[Tensor | None] = [None]
    for k, route in enumerate(routes[1:], 1):
        fresh = routes[0] != route
        for earlier in routes[1:k]:
            fresh = fresh & (earlier != route)
        first.append(fresh)
    return first
