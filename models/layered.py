"""A chain of modular layers: the network of Kirsch et al. 2018 as a Pyro program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import pyro
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .banks import Combine, Duplicates, ModuleBank
from .checks import (
    all_finite,
    check_choice,
    check_count,
    check_device,
    check_dtype,
    values_are_checked,
)
from .heads import HEADS
from .routers import LinearRouter, StaticRouter
from .routing import route

Routing = Literal["dynamic", "static"]
RouterInput = Literal["activation", "input"]


def affine_tanh(in_features: int, out_features: int) -> nn.Module:
    """The default module: tanh(W z + b)."""
    return nn.Sequential(nn.Linear(in_features, out_features), nn.Tanh())


class LayeredNetwork(nn.Module):
    r"""L modular layers between an encoder and a head, with p(y, a | x) as its density.

    .. math::
        z_0 = E x + e, \quad a_l \sim p(a_l \mid z_l), \quad
        z_{l+1} = f_{l, a_l}(z_l), \quad y \sim p(y \mid z_L)

    *Encoder*: an affine map from ``in_features`` to ``hidden_features``. *Module*: by
    default an affine map of ``hidden_features`` to itself and a tanh; each layer has
    its own M modules. *Router*: sees the activation z_l that enters its layer, or the
    raw input x, so that p(a | x) factorises; K slots have a router each. *Head*: an
    affine map to the parameters of y's distribution; the normal head also learns one
    scale an output.

    The network is a Pyro program: ``net(x, y)`` conditions on y, ``net(x)`` samples it.
    Routing sites are ``route_0 ..``, with K > 1 slots ``route_{l}_{k}``; the target's
    site is ``y``. Per-example sites stand in ``pyro.plate("data", ...)`` at dim -1.

    Args:
        in_features: Width of x.
        out_features: Classes of a categorical head, outputs of the others.
        n_layers: Number of routing layers L.
        n_modules: Number of modules M a layer; a sequence gives each layer its own.
        hidden_features: Width of the activations.
        k: Modules chosen a layer; their values are added or concatenated.
        routing: ``"dynamic"``: a decision an example. ``"static"``: one for all.
        router_input: ``"activation"`` z_l, or ``"input"`` x.
        head: ``"categorical"``, ``"normal"`` or ``"bernoulli"``.
        module: Makes a module from (in width, out width); or the L lists of modules
            themselves, each a callable from (rows, in width) to (rows, out width).
        router: Makes a router from (in width, M), such as
            :class:`~latentroute.models.MLPRouter`.
        encoder: Replaces the affine encoder; must end in ``hidden_features``.
        combine: ``"add"`` or ``"concatenate"`` the K chosen modules' values.
        duplicates: A module chosen by several slots counts ``"once"`` or ``"each"``
            time.

    Raises:
        ValueError: If a size is not positive, k > M or an option is unknown.

    References:
        Kirsch, Kunze, Barber 2018, Modular Networks, arXiv:1811.05249, section 2.
        Theirs has no encoder, and adds the values of the slots.

    Example:
        >>> net = LayeredNetwork(5, 3, n_layers=2, n_modules=4, hidden_features=8)
        >>> net(torch.zeros(7, 5)).shape
        torch.Size([7])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        n_layers: int,
        n_modules: int | Sequence[int],
        hidden_features: int,
        k: int = 1,
        routing: Routing = "dynamic",
        router_input: RouterInput = "activation",
        head: str = "categorical",
        module: Callable[[int, int], nn.Module]
        | Sequence[Sequence[Callable[[Tensor], Tensor]]] = affine_tanh,
        router: Callable[[int, int], nn.Module] = LinearRouter,
        encoder: nn.Module | None = None,
        combine: Combine = "add",
        duplicates: Duplicates = "once",
    ) -> None:
        super().__init__()
        sizes = _check_sizes(
            in_features, out_features, n_layers, n_modules, hidden_features, k
        )
        check_choice("routing", routing, get_args(Routing))
        check_choice("router_input", router_input, get_args(RouterInput))
        check_choice("head", head, tuple(HEADS))
        self.in_features = in_features
        self.k = k
        self.routing = routing
        self.router_input = router_input
        self.encoder = encoder or nn.Linear(in_features, hidden_features)
        wide = hidden_features * (k if combine == "concatenate" else 1)
        widths = [hidden_features] + [wide] * (n_layers - 1)  # what enters each layer
        self.banks = nn.ModuleList(
            ModuleBank(modules, combine=combine, duplicates=duplicates)
            for modules in _modules(module, sizes, widths, hidden_features)
        )
        seen = [in_features] * n_layers if router_input == "input" else widths
        self.routers = nn.ModuleList(
            StaticRouter(m) if routing == "static" else router(width, m)
            for m, width in zip(sizes, seen, strict=True)
            for _ in range(k)
        )  # layer by layer, slot by slot
        self.head = HEADS[head](wide, out_features)
        self._names = [
            [
                f"route_{layer}" if k == 1 else f"route_{layer}_{slot}"
                for slot in range(k)
            ]
            for layer in range(n_layers)
        ]

    def forward(
        self,
        x: Float[Tensor, "batch features"],
        y: Tensor | None = None,
        index: Int[Tensor, " batch"] | None = None,
        *,
        n_data: int | None = None,
    ) -> Tensor:
        """Run the program.

        Args:
            x: (N, in_features) inputs.
            y: The targets, to condition on; ``None`` samples them. Categorical: (N,)
                classes. Others: (N, out_features); (N,) where out_features is 1.
            index: (N,) which examples of the data these are, for a guide that keeps
                something an example.
            n_data: Size of the data that the batch is a subsample of; Pyro's plate
                then scales by n_data / N.

        Returns:
            The targets, given or sampled.

        Raises:
            ValueError: If x or y has the wrong shape, a NaN, or a class out of range,
                or x is not of the weights' type and on their device.
        """
        y = self.check(x, y)
        if isinstance(self.encoder, nn.Linear):
            check_device(x, self.encoder.weight)
        routers = list(self.routers)
        decisions = [  # for each layer, name and router of each slot
            [*zip(names, routers[layer * self.k :], strict=False)]
            for layer, names in enumerate(self._names)
        ]
        static = None
        if self.routing == "static":
            static = [
                [route(name, router()) for name, router in layer] for layer in decisions
            ]
        size = n_data or len(x)
        device: Any = x.device  # Pyro's annotation has names alone
        with pyro.plate("data", size, subsample=index, dim=-1, device=device):
            z = self.encoder(x)
            for layer, bank in enumerate(self.banks):
                if static is None:
                    seen = x if self.router_input == "input" else z
                    chosen = [
                        route(name, router(seen)) for name, router in decisions[layer]
                    ]
                else:
                    chosen = static[layer]
                z = bank(z, chosen)
            target: Tensor = pyro.sample("y", self.head(z), obs=y)
        return target

    def check(self, x: Tensor, y: Tensor | None = None) -> Tensor | None:
        """Check a batch, or all data before training.

        Returns:
            y as the head wants it.

        Raises:
            ValueError: Names what was given, where, and what is accepted.
            TypeError: If x is no tensor.
        """
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a tensor, got {type(x).__name__}")
        if x.dim() != 2 or x.shape[1] != self.in_features or not len(x):
            raise ValueError(
                f"x must have shape (N, {self.in_features}) with N >= 1, "
                f"got {tuple(x.shape)}"
            )
        if isinstance(self.encoder, nn.Linear):
            check_dtype(x, self.encoder.weight)
        if values_are_checked(x) and not all_finite(x):
            row = (~torch.isfinite(x)).nonzero()[0, 0].item()
            raise ValueError(f"x must be finite, got NaN or infinity at row {row}")
        return None if y is None else self.head.target(y, len(x))


def _check_sizes(
    in_features: int,
    out_features: int,
    n_layers: int,
    n_modules: int | Sequence[int],
    hidden_features: int,
    k: int,
) -> list[int]:
    """The number of modules of each layer."""
    check_count("n_layers", n_layers)
    sizes = [n_modules] * n_layers if isinstance(n_modules, int) else list(n_modules)
    named = {
        "in_features": in_features,
        "out_features": out_features,
        "hidden_features": hidden_features,
        "k": k,
        "n_modules": min(sizes, default=0),
    }
    for name, value in named.items():
        check_count(name, value)
    if len(sizes) != n_layers:
        raise ValueError(
            f"n_modules must be one number or one for each of the {n_layers} layers, "
            f"got {list(sizes)}"
        )
    if k > min(sizes):
        raise ValueError(f"k must be at most n_modules = {min(sizes)}, got {k}")
    return sizes


def _modules(
    module: Callable[[int, int], nn.Module]
    | Sequence[Sequence[Callable[[Tensor], Tensor]]],
    sizes: list[int],
    widths: list[int],
    out: int,
) -> list[list[Callable[[Tensor], Tensor]]]:
    """The modules of each layer."""
    if callable(module):
        return [
            [module(width, out) for _ in range(m)]
            for m, width in zip(sizes, widths, strict=True)
        ]
    given = [list(modules) for modules in module]
    if [len(modules) for modules in given] != sizes:
        raise ValueError(
            f"module must list {sizes} modules layer by layer, "
            f"got {[len(modules) for modules in given]}"
        )
    return given
