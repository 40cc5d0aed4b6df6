"""Memory and time of exact posteriors, and what starting costs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import torch

from ..inference import route_posterior
from ..models import LayeredNetwork
from .growth import peak_bytes
from .timing import Elsewhere, Ratio, ratio, seconds

EXAMPLES, LAYERS, MODULES, WIDTH = 100_000, 6, 4, 4
MEMORY = 2 * 2**30  # bytes that the posterior may take beside the result


def posterior() -> Iterator[Ratio]:
    """The posterior over 4,096 routes of 100,000 examples: its memory, and its time."""
    torch.manual_seed(0)
    net = LayeredNetwork(
        6, 5, n_layers=LAYERS, n_modules=MODULES, hidden_features=WIDTH
    )
    x, y = torch.randn(EXAMPLES, 6), torch.randint(5, (EXAMPLES,))
    setting = f"N = {EXAMPLES}, L = {LAYERS}, M = {MODULES}, D = {WIDTH}"

    def run(n: int) -> Callable[[], None]:
        @torch.no_grad()
        def table() -> None:
            route_posterior(net, x[:n], y[:n])

        return table

    tenth, few = run(EXAMPLES // 10), []
    run(EXAMPLES // 1000 or 1)()  # the first is slower
    few.append(seconds(tenth, 1))
    begun = time.process_time()
    peak = peak_bytes(run(EXAMPLES))
    many = time.process_time() - begun
    few.append(seconds(tenth, 1))
    share = (peak - 4 * EXAMPLES * MODULES**LAYERS) / MEMORY
    yield Ratio(
        "memory of a posterior beside it", setting, share, share, share, "2 GiB", 0.0, 1
    )
    low, high = sorted(many / (10 * each) for each in few)
    yield Ratio(
        "time of a posterior",
        setting,
        (low + high) / 2,
        low,
        high,
        f"ten times N = {EXAMPLES // 10}",
        1e3 * many,
    )


class Command(Elsewhere):
    """A command of this Python, started anew each time."""

    def __init__(self, *words: str) -> None:
        self._words = [sys.executable, *words]

    def seconds(self, n: int) -> float:
        """Processor time of a start, the mean of n."""
        before = children_seconds()
        for _ in range(n):
            subprocess.run(self._words, check=True, stdout=subprocess.DEVNULL)
        return (children_seconds() - before) / n


def start() -> Iterator[Ratio]:
    """Starting the command line, and importing the package."""
    python = Command("-c", "pass")
    for name, words in (
        ("latentroute --help", ("-m", "latentroute", "--help")),
        ("import latentroute", ("-c", "import latentroute")),
    ):
        yield ratio(name, "", Command(*words), "an empty Python", python)


def children_seconds() -> float:
    import resource  # not on Windows: what measures nothing of others runs there, too

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
