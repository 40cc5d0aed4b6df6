"""Are the true modules found? What is trained: tasks, networks, steps and methods.

    latentroute benchmark recovery --lines composition-2-4 --methods recover

Settings were chosen on task and weight seeds from 100 on; reported are 0 .. 9.
A run's seed is that of its task and of its weights.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from .. import tasks
from ..inference import Exact, Method, Recover, ScoreFunction, default_network, fit
from ..inference.regularisers import MarginalEntropy, Regulariser
from ..inference.schedules import Linear
from ..models import LayeredNetwork
from .recovery_measure import Numbers, measure
from .rules_network import GivenRule, rules_network

_LATE = 0.3  # of a baseline's steps, at a tenth of the rate
_LR, _BATCH = 1e-2, 64  # of baselines, as Recover's
_STAGE = 1_000_003  # between the seeds of two stages
_FRESH = 500_000  # examples: each is seen once in a training, on average


class Line(NamedTuple):
    """A task, its network and the steps that every method gets."""

    task: str
    steps: int
    options: dict[str, Any]
    network: dict[str, Any]


LINES: Mapping[str, Line] = {
    "composition-2-4": Line("composition", 3000, {"n_layers": 2, "n_modules": 4}, {}),
    "composition-3-4": Line("composition", 9000, {"n_layers": 3, "n_modules": 4}, {}),
    "composition-4-8": Line(
        "composition", 31000, {"n_layers": 4, "n_modules": 8, "n_train": 8000}, {}
    ),
    **{
        f"clusters-{m}": Line("clusters", 2600, {}, {"n_modules": m})
        for m in (2, 5, 15)
    },
    **{
        f"rules-{r}": Line("rules", 8600, {"n_rules": r, "n_train": _FRESH}, {})
        for r in (2, 4, 8, 16, 32)
    },
    "digits": Line("digits", 2600, {}, {}),
}
NETWORKS: Mapping[str, Callable[..., LayeredNetwork]] = {"rules": rules_network}
METHODS: Mapping[str, Method] = {
    "recover": Recover(),
    "recover-sampled": Recover(inner=ScoreFunction()),
    "exact": Exact(),
    "exact-balanced": Exact(),
    "given": Exact(),  # on a network whose router is the truth
}


def applies(name: str, method: str) -> bool:
    """Whether a method is for a line: the true router of `rules` is known."""
    return method != "given" or LINES[name].task == "rules"


def run(name: str, method: str, seed: int, steps: int | None = None) -> Numbers:
    """Train and measure once.

    Args:
        name: A key of `LINES`.
        method: A key of `METHODS`.
        seed: Of the task and of the weights.
        steps: In place of the line's.
    """
    line = LINES[name]
    spec = spec_of(name, seed)
    task = spec.load()
    torch.manual_seed(seed)
    true = {"router": GivenRule} if method == "given" else {}
    make: Callable[..., LayeredNetwork] = NETWORKS.get(line.task, default_network)
    net = make(task, **line.network, **true)
    begun = time.process_time()
    train(net, task, method, seed=seed, steps=steps or line.steps)
    seconds = time.process_time() - begun
    return {
        **identity(name, method, seed, steps),
        "seconds": round(seconds, 1),
        "torch": importlib.metadata.version("torch"),
        **measure(net, task, spec),
    }


def spec_of(name: str, seed: int) -> tasks.TaskSpec:
    """What makes a line's data."""
    make: Callable[..., tasks.TaskSpec] = tasks.TASKS[LINES[name].task]
    return make(seed=seed, **LINES[name].options)


def identity(name: str, method: str, seed: int, steps: int | None = None) -> Numbers:
    """What makes a run this one and no other, as its JSON line says it."""
    line = LINES[name]
    return {
        "line": name,
        "method": method,
        "seed": seed,
        "steps": steps or line.steps,
        "task": repr(spec_of(name, seed)),
        "network": line.network,
        "settings": repr(METHODS[method]),
    }


def train(
    net: LayeredNetwork, task: tasks.Task, method: str, *, seed: int, steps: int
) -> None:
    """Train a network in place.

    Baselines have the preset's batches, and end at low rates as it does: `given` has
    ten stages, whose rates fall from 1e-2 to 1e-4, the others take the last 30% of
    their steps at 1e-3. A bonus on H(A) has come to 0 by then.
    """
    chosen = METHODS[method]
    if isinstance(chosen, Recover):
        fit(net, task, chosen, steps=steps, seed=seed, log_every=steps)
        return
    for i, (n, lr, parts) in enumerate(stages(method, steps)):
        batches = i * _STAGE if method == "given" else 0  # its data are fresh ones
        fit(
            net,
            task,
            chosen,
            steps=n,
            lr=lr,
            batch_size=_BATCH,
            seed=seed + batches,
            regularisers=parts,
            log_every=n,
        )


def stages(method: str, steps: int) -> list[tuple[int, float, list[Regulariser]]]:
    """Steps, learning rate and regularisers of the stages of a baseline."""
    if method == "given":
        ends = [steps * i // 10 for i in range(11)]
        return [
            (end - begin, _LR * 0.01 ** (i / 9), [])
            for i, (begin, end) in enumerate(itertools.pairwise(ends))
            if end > begin
        ]
    late = max(1, int(_LATE * steps))
    early = max(1, steps - late)
    bonus: list[Regulariser] = []
    if method == "exact-balanced":
        bonus = [MarginalEntropy(Linear(5.0, 0.0, early))]
    return [(early, _LR, bonus), (late, _LR / 10, [])]
