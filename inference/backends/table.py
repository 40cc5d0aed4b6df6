"""The backends by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from ...models.checks import check_choice
from .base import Backend
from .processes import Processes
from .ray_cluster import RayCluster
from .serial import Serial

BACKENDS: Mapping[str, Backend] = MappingProxyType(
    {"serial": Serial(), "process": Processes(), "ray": RayCluster()}
)


def get_backend(backend: str | Backend, workers: int | None = None) -> Backend:
    """A backend by name or as it is, with another number of workers if one is given.

    Raises:
        ValueError: If the name is unknown, or it has no workers to choose.
        TypeError: If it is neither a name nor a backend.
    """
    if isinstance(backend, str):
        check_choice("backend", backend, BACKENDS)
        backend = BACKENDS[backend]
    if not isinstance(backend, Backend):
        raise TypeError(f"backend must be a name or a Backend, got {backend!r}")
    if workers is None:
        return backend
    if isinstance(backend, Serial):
        raise ValueError(
            f"backend 'serial' is one worker, got workers={workers!r}: choose "
            "'process' or 'ray'"
        )
    return dataclasses.replace(backend, workers=workers)  # type: ignore[type-var]
