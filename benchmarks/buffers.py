"""E-steps on route buffers against a plain forward of as many rows.

    python -m latentroute.benchmarks.buffers

A row is an example at a candidate route: S fresh ones and K incumbents an example. An
E-step draws the fresh ones from the routers, scores all and writes the best K; the
plain forward takes the likelihood of S + K given routes an example.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from ..guides import BufferGuide
from ..inference import build
from ..inference.buffered import candidates
from ..inference.program import RoutedProgram
from ..models import LayeredNetwork
from .timing import Ratio, ratio

ROWS = 100_000  # examples in the buffer


class Size(NamedTuple):
    """Of a problem, named as in the mathematics; B examples at once."""

    B: int
    L: int
    M: int
    D: int
    S: int
    K: int


SIZES = (
    Size(256, 2, 4, 32, 9, 1),
    Size(1024, 8, 4, 32, 8, 4),
    Size(1024, 8, 8, 64, 8, 4),
    Size(4096, 8, 8, 64, 8, 4),
)


def e_steps() -> Iterator[Ratio]:
    """Ratios at several sizes; of the last, also on a mapped file."""
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            yield _measured(size, None)
        yield _measured(SIZES[-1], folder)


def _measured(size: Size, path: str | None) -> Ratio:
    setting = ", ".join(f"{k} = {v}" for k, v in size._asdict().items())
    name = "E-step" if path is None else "E-step, mapped file"
    return ratio(name, setting, *_work(size, path), wanted=1.2)


def _work(
    size: Size, path: str | None
) -> tuple[Callable[[], None], str, Callable[[], None]]:
    """An E-step, and the plain forward of its rows."""
    torch.manual_seed(0)
    net = LayeredNetwork(
        6, 5, n_layers=size.L, n_modules=size.M, hidden_features=size.D
    )
    args = torch.randn(size.B, 6), torch.randint(5, (size.B,))
    objective = build(
        "topk-buffer",
        net,
        n_data=ROWS,
        seed=0,
        example=(*args, torch.arange(size.B)),
        capacity=size.K,
        path=path,
    )
    guide, program = objective.guide, RoutedProgram(net)
    assert isinstance(guide, BufferGuide)
    structure = program.structure(*args)
    given = torch.randint(size.M, (size.S + size.K, size.B, size.L))
    stream = torch.Generator().manual_seed(0)

    @torch.no_grad()
    def e_step() -> None:
        index = torch.randint(ROWS, (size.B,), generator=stream)
        places, filled = guide.buffer.rows(index)
        run = program.sample(*args, n_samples=size.S, given=places)
        best = candidates(run, structure, 1.0, "joint", filled=filled)
        guide.buffer.keep_best(index, *best)

    @torch.no_grad()
    def forward() -> None:
        program.given(*args, routes=given)

    return e_step, "plain forward of the same rows", forward


def main() -> None:
    """Print the ratios."""
    torch.set_num_threads(1)
    for found in e_steps():
        print(
            f"{found.name}, {found.setting}: {found.ratio:.2f} "
            f"({found.low:.2f} .. {found.high:.2f}) of a {found.reference}"
        )


if __name__ == "__main__":
    main()
