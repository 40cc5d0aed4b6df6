"""``latentroute benchmark NAME``: the library against the arithmetic itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from .cli import PROG, UsageError
from .cli_recovery import recovery
from .cli_speed import speed


def benchmark(words: Sequence[str]) -> int:
    """``latentroute benchmark NAME [options]``."""
    names = ", ".join(BENCHMARKS)
    if not words or words[0] in ("-h", "--help"):
        print(f"usage: {PROG} benchmark NAME [--out DIR] [--json] [options]\n")
        print(f"benchmarks: {names}")
        print(f"{PROG} benchmark NAME --help tells a benchmark's options.")
        return 0 if words else 2
    name, *rest = words
    if name not in BENCHMARKS:
        raise UsageError(f"unknown benchmark {name!r}; there are {names}")
    return BENCHMARKS[name](rest)


BENCHMARKS: Mapping[str, Callable[[Sequence[str]], int]] = MappingProxyType(
    {"speed": speed, "recovery": recovery}
)
