"""The router as the guide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro import poutine


class RouterGuide:
    """q(a | x) = p(a | x): the model's own routers propose the routes.

    For any model with routing sites. The objectives of this library see that guide and
    model are one and run the network once. As a Pyro program (for Pyro's own ELBOs) it
    runs the model with its observations hidden. It has no parameters beside the
    model's, and the KL term of its ELBO is zero.

    Args:
        model: The Pyro program whose routers are used.

    Example:
        >>> import torch
        >>> from latentroute.models import LayeredNetwork, route_sites
        >>> net = LayeredNetwork(2, 3, n_layers=1, n_modules=4, hidden_features=4)
        >>> x, y = torch.zeros(5, 2), torch.zeros(5, dtype=torch.long)
        >>> route_sites(RouterGuide(net), x, y)
        ['route_0']
    """

    def __init__(self, model: Callable[..., Any]) -> None:
        self.model = model

    def __call__(self, *args: Any) -> Any:
        """Sample the routes, given what the model takes."""
        return poutine.block(self.model, hide_fn=_is_observed)(*args)


def _is_observed(site: Any) -> bool:
    return bool(site["type"] == "sample" and site["is_observed"])
