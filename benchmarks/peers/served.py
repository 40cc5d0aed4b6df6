"""What the peers' scripts share: the problem they solve, and how they are asked.

A script is started by ``benchmarks/peer.py`` in an environment of its own with one
argument, its setting as JSON. It says what it is in one line of JSON, then answers each
line of a number of steps with the processor seconds that a step took. Standard library
alone, since the environments share nothing else.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

FEATURES, CLASSES = 6, 5


def numbers(seed: int, *shape: int, scale: float = 1.0) -> Any:
    """Nested lists of normal numbers."""
    draw = random.Random(seed).gauss

    def nested(sizes: tuple[int, ...]) -> Any:
        if not sizes:
            return scale * draw(0.0, 1.0)
        return [nested(sizes[1:]) for _ in range(sizes[0])]

    return nested(shape)


def layered_problem(setting: dict[str, int]) -> dict[str, Any]:
    """Data and first weights of a layered network, named as in handwritten.py.

    ``setting`` has the batch B, layers L, modules M and width D. Module m of layer l
    is z -> tanh(z W + b) with W = weights.l[m] and b = biases.l[m].
    """
    n, layers, m, d = (setting[k] for k in ("B", "L", "M", "D"))
    found = {
        "x": numbers(1, n, FEATURES),
        "y": [i % CLASSES for i in range(n)],
        "encoder.weight": numbers(2, d, FEATURES, scale=FEATURES**-0.5),
        "encoder.bias": numbers(3, d),
        "head.weight": numbers(4, CLASSES, d, scale=d**-0.5),
        "head.bias": numbers(5, CLASSES),
    }
    for i in range(layers):
        found[f"weights.{i}"] = numbers(10 + i, m, d, d, scale=d**-0.5)
        found[f"biases.{i}"] = numbers(20 + i, m, d)
        found[f"routers.{i}.weight"] = numbers(30 + i, m, d, scale=d**-0.5)
        found[f"routers.{i}.bias"] = numbers(40 + i, m)
    return found


def experts_problem(setting: dict[str, int]) -> dict[str, Any]:
    """Tokens and weights of a layer of experts relu(z in) out with a linear gate.

    ``setting`` has G sequences of T tokens of width D, E experts of hidden width H.
    """
    g, t, d, e, h = (setting[k] for k in ("G", "T", "D", "E", "H"))
    return {
        "tokens": numbers(1, g, t, d),
        "gate": numbers(2, d, e, scale=d**-0.5),
        "in": numbers(3, e, d, h, scale=d**-0.5),
        "out": numbers(4, e, h, d, scale=h**-0.5),
    }


def capacity(found: dict[str, Any]) -> float:
    """The least capacity factor at which no token's first two experts are full.

    Of a sequence's tokens an expert takes int(tokens * factor / experts) at most.
    """
    tokens, gate = found["tokens"], found["gate"]
    t, e = tokens.shape[1], gate.shape[1]
    chosen = (tokens @ gate).topk(2).indices.flatten(1)
    most = max(int(row.bincount().max()) for row in chosen)
    return float((most + 0.5) * e / t)


def serve(
    make: Callable[[dict[str, Any]], tuple[Callable[[int], object], dict[str, Any]]],
    *packages: str,
) -> None:
    """Make the step that the setting asks for, and time it as often as asked.

    Args:
        make: From a setting to what does n steps, and what is to be said of it.
        packages: Whose versions are said.
    """
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print as they please
    begun = time.perf_counter()
    run, about = make(json.loads(sys.argv[1]))
    run(1)
    about |= {
        "versions": {name: version(name) for name in packages},
        "first_step_seconds": time.perf_counter() - begun,
    }
    print(json.dumps(about), file=answers, flush=True)
    for line in sys.stdin:
        n, begun = int(line), time.process_time()
        run(n)
        print((time.process_time() - begun) / n, file=answers, flush=True)
