"""Routers: what says p(a | z) over the modules of one decision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Shaped
from pyro import poutine
from torch import Tensor, nn

from .categorical import Categorical, categorical_of


class LinearRouter(nn.Module):
    """One linear layer and a softmax: p(a = m | z) = softmax(W z + b)_m.

    The router of Kirsch et al. 2018 (arXiv:1811.05249).

    Args:
        in_features: Width of what the router sees.
        n_modules: Number of choices M.
    """

    def __init__(self, in_features: int, n_modules: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, n_modules)

    def forward(self, z: Float[Tensor, "*batch features"]) -> Categorical:
        """The distribution over modules, of the batch shape of ``z``."""
        return categorical_of(self.linear, z)


class MLPRouter(nn.Module):
    """A linear layer, a ReLU, a linear layer and a softmax.

    Args:
        in_features: Width of what the router sees.
        n_modules: Number of choices M.
        hidden_features: Width of the hidden layer.
    """

    def __init__(
        self, in_features: int, n_modules: int, *, hidden_features: int = 32
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_features, hidden_features),
            nn.ReLU(),
            nn.Linear(hidden_features, n_modules),
        )

    def forward(self, z: Float[Tensor, "*batch features"]) -> Categorical:
        """The distribution over modules, of the batch shape of ``z``."""
        return Categorical(self.layers(z))


class StaticRouter(nn.Module):
    """One learned distribution for all inputs, for a site outside the data plate.

    Args:
        n_modules: Number of choices M; the start is uniform.
    """

    def __init__(self, n_modules: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(n_modules))

    def forward(self) -> Categorical:
        """The distribution over modules, of batch shape ()."""
        return Categorical(self.logits)


class GivenRouting(nn.Module):
    """A model whose routes are given: training is then ordinary supervised learning.

    Conditions the routing sites of ``model`` on a table of routes, one row an example,
    so that ``exact`` maximises log p(y, a | x) at the given a. Which rows a batch
    holds is said by ``index``; without it they are all N.

    Args:
        model: A Pyro program ``model(x, y=None)`` with route sites.
        routes: (N, L) the given routes, as values of the sites, in their program
            order; (L,) where the routing is static.
        sites: Names of the sites in that order.

    Raises:
        ValueError: If the number of columns is not that of the sites.

    Example:
        >>> from latentroute.models import GivenRouting, LayeredNetwork
        >>> net = LayeredNetwork(2, 1, n_layers=1, n_modules=2, hidden_features=4,
        ...                      head="normal")
        >>> given = GivenRouting(net, torch.zeros(8, 1, dtype=torch.long), ["route_0"])
        >>> given(torch.zeros(8, 2), torch.zeros(8, 1)).shape
        torch.Size([8, 1])
    """

    routes: Tensor

    def __init__(
        self,
        model: Callable[..., Any],
        routes: Shaped[Tensor, "*examples sites"],
        sites: list[str],
    ) -> None:
        super().__init__()
        if routes.shape[-1] != len(sites):
            raise ValueError(
                f"routes must have one column for each of the sites {sites}, got shape "
                f"{tuple(routes.shape)}"
            )
        self.model = model
        self.sites = list(sites)
        self.register_buffer("routes", routes)

    def forward(self, x: Any, y: Any = None, index: Tensor | None = None) -> Any:
        """Run the model on the given routes of rows ``index``, else of all rows."""
        rows = self.routes
        if rows.dim() > 1:
            rows = rows if index is None else rows[index]
            if len(rows) != len(x):
                raise ValueError(
                    f"routes are given for {len(rows)} examples, got {len(x)} in x: "
                    "pass index, the rows that the batch holds"
                )
        data = dict(zip(self.sites, rows.unbind(-1), strict=True))
        conditioned = poutine.condition(self.model, data=data)
        # Marked, so that the program is known to be routed though nothing is latent.
        return poutine.infer_config(conditioned, self._mark)(x, y)

    def _mark(self, site: Any) -> Any:
        return {"route": {}} if site["name"] in self.sites else {}
