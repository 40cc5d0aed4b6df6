"""Any Pyro program as an ArviZ tree: its discrete sites summed out and drawn."""

from .convert import from_pyro

__all__ = ["from_pyro"]
