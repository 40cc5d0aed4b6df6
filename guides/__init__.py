"""Guides q(a | x, y): Pyro programs over a model's routing sites."""

from .buffer import BufferGuide, RouteBuffer
from .router import RouterGuide

__all__ = ["BufferGuide", "RouteBuffer", "RouterGuide"]
