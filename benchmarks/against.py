"""The library against public ones, each in an environment and a process of its own.

``latentroute benchmark speed --peers DIR`` makes the environments in DIR, which takes
some minutes and 3 GB the first time, and measures. Data and first weights are the same
on both sides, and so must be the values before training.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .peer import Peer, environment, peer
from .speed import said, step_name
from .steps import Setting, hard_layer, router_elbo, steps
from .timing import Ratio, ratio

SMALL = {"B": 32, "L": 2, "M": 4, "D": 8}
LARGE = {"B": 2048, "L": 3, "M": 4, "D": 32}
EXPERTS = {"G": 16, "T": 256, "D": 64, "H": 256, "E": 16}


class Library(NamedTuple):
    """A peer: its script, the file of its requirements, and what a table calls it."""

    script: str
    requirements: str | None  # None: our own environment has it
    title: str


PYRO = Library("pyro_plain.py", None, "Pyro, weights by index")
NUMPYRO = Library("numpyro_jit.py", "numpyro", "NumPyro, jit")
STORCHASTIC = Library("storchastic_score.py", "storchastic", "storchastic")
LAYERS = (
    Library("mixture_of_experts_layer.py", "mixture-of-experts", "mixture-of-experts"),
    Library("st_moe_layer.py", "st-moe-pytorch", "st-moe-pytorch"),
)


def against_peers(folder: Path) -> Iterator[Ratio]:
    """Ratios of our steps to those of public libraries.

    Args:
        folder: Where their environments are, or are to be.

    Raises:
        RuntimeError: If one cannot be installed, or computes something else.
    """
    yield from _exact(PYRO, SMALL, folder, (None,))
    yield from _exact(NUMPYRO, SMALL, folder, (None, "capture", "inductor"))
    yield from _exact(NUMPYRO, LARGE, folder, (None,))
    for n, width in ((32, 8), (32, 64), (256, 64)):
        setting = {"B": n, "L": 2, "M": 4, "D": width, "S": 8}
        yield from _score_function(setting, folder)
    for library in LAYERS:
        yield _layer(library, folder)


def _exact(
    library: Library, setting: Setting, folder: Path, ways: tuple[str | None, ...]
) -> Iterator[Ratio]:
    with peer(_python(library, folder), library.script, setting) as other:
        for compile in ways:
            pair = steps("exact", setting, fused=True, compile=compile)
            _same(library, pair.losses[0], other.about["loss"], 1e-4)
            wanted = None
            if library is NUMPYRO and (setting is LARGE or compile == "inductor"):
                wanted = 1.0 if setting is LARGE else 2.0
            name, title = step_name("exact", compile), _title(library, other)
            yield ratio(name, said(setting), pair.ours, title, other, wanted=wanted)


def _score_function(setting: Setting, folder: Path) -> Iterator[Ratio]:
    library, method = STORCHASTIC, "score-function"
    small = setting["D"] == SMALL["D"]
    for by_index in (0, 1):
        # As its users write it, by index; the other has our dispatch.
        ways = (None, "capture", "inductor") if small and by_index else (None,)
        asked = {**setting, "by_index": by_index}
        with peer(_python(library, folder), library.script, asked) as other:
            error = 6 * other.about["loss_error"]  # of fifty draws
            _same(library, router_elbo(setting), other.about["loss"], error)
            title = _title(library, other)
            if by_index:
                title = title.replace("storchastic", "storchastic, by index", 1)
            for compile in ways:
                ours = steps(method, setting, fused=True, compile=compile).ours
                wanted = 1 / 3 if by_index and compile == ways[-1] else None
                name = step_name(method, compile)
                yield ratio(name, said(setting), ours, title, other, wanted=wanted)


def _layer(library: Library, folder: Path) -> Ratio:
    ours, value = hard_layer(EXPERTS)
    with peer(_python(library, folder), library.script, EXPERTS) as other:
        _same(library, value, other.about["value"], 1e-4)
        title = _title(library, other)
        return ratio(
            "layer of experts, two a token",
            said(EXPERTS),
            ours,
            title,
            other,
            wanted=1 / 1.5,
        )


def _python(library: Library, folder: Path) -> Path:
    if library.requirements is None:
        return Path(sys.executable)
    return environment(folder, library.requirements)


def _title(library: Library, other: Peer) -> str:
    name, version = next(iter(other.about["versions"].items()))
    seconds = other.about["first_step_seconds"]
    return f"{library.title} ({name} {version}; first step {seconds:.0f} s)"


def _same(library: Library, ours: float, theirs: float, tolerance: float) -> None:
    if not math.isclose(ours, theirs, rel_tol=0, abs_tol=tolerance):
        raise RuntimeError(
            f"{library.script} computes {theirs}, ours {ours}: they are not the same "
            "problem"
        )
