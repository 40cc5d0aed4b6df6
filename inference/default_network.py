"""The network that fits a task, where the user gives none."""

from __future__ import annotations

from typing import Any

from ..models.layered import LayeredNetwork


def default_network(task: Any, **network: Any) -> LayeredNetwork:
    """A layered network that fits a task, with the task's suggested sizes.

    Args:
        task: Says widths, head and suggestions.
        **network: Options of :class:`~latentroute.models.LayeredNetwork` in their
            place.
    """
    options = network_options(task, **network)
    return LayeredNetwork(task.in_features, task.out_features, **options)


def network_options(task: Any, **network: Any) -> dict[str, Any]:
    """The options of :func:`default_network`: ours, the task's, then the given ones."""
    sizes = {"n_layers": 2, "n_modules": 4, "hidden_features": 32, "head": task.head}
    return {**sizes, **task.network, **network}
