"""Ratios of two pieces of work, measured side by side in one run."""

from __future__ import annotations

import gc
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

_ROUND = 0.05  # seconds of processor time that one measurement should take


class Ratio(NamedTuple):
    """How much longer one piece of work takes than another.

    Attributes:
        name: What was measured.
        setting: At which sizes.
        ratio: Median over rounds of the time divided by the reference's.
        low: Lower quartile of that.
        high: Upper quartile.
        reference: What it is divided by.
        milliseconds: Median time of the work itself, for orientation alone.
        wanted: What the ratio should be at most, where something is wanted.
    """

    name: str
    setting: str
    ratio: float
    low: float
    high: float
    reference: str
    milliseconds: float
    wanted: float | None = None


class Elsewhere(ABC):
    """Work that another process does, and times."""

    @abstractmethod
    def seconds(self, n: int) -> float:
        """Processor time of the work, the mean of n times."""


Work = Callable[[], object] | Elsewhere


def ratio(
    name: str,
    setting: str,
    work: Work,
    reference: str,
    other: Work,
    *,
    rounds: int = 15,
    wanted: float | None = None,
) -> Ratio:
    """Measure two pieces of work in turn, round by round.

    In processor time of the process that works, which other programs on the machine
    change less than the wall's; each round's ratio is of neighbours in time.

    Args:
        name: What is measured.
        setting: At which sizes.
        work: Does it once, or times it elsewhere.
        reference: What it is measured against.
        other: Does that.
        rounds: Of both, after a first that does not count.
        wanted: What the ratio should be at most.
    """
    often = [repeats(each) for each in (work, other)]
    times = np.empty((rounds, 2))
    with _collected():
        for row in times:
            for i, each in enumerate((work, other)):
                row[i] = seconds(each, often[i])
    ratios = times[:, 0] / times[:, 1]
    low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75]).tolist()
    milliseconds = 1e3 * float(np.median(times[:, 0]))
    return Ratio(name, setting, median, low, high, reference, milliseconds, wanted)


def repeats(work: Work) -> int:
    """How often a round does it; the first times, which are slower, do not count."""
    seconds(work, 3)
    return max(1, round(_ROUND / max(seconds(work, 1), 1e-6)))


def seconds(work: Work, n: int) -> float:
    """Processor time of a piece of work, the mean of n times."""
    if isinstance(work, Elsewhere):
        return work.seconds(n)
    begun = time.process_time()
    for _ in range(n):
        work()
    return (time.process_time() - begun) / n


@contextmanager
def _collected() -> Iterator[None]:
    """No garbage collection inside, as timeit has it."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
