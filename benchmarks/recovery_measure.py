"""What is reported of one trained network: against the truth, and of its routers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from ..analysis.truth import RECOVERED, truth
from ..inference import evaluate, map_route
from ..inference.entropies import router_entropies
from ..models import GivenRouting
from ..tasks import TaskSpec
from ..tasks.base import Split, Task
from .generating import generating_log_lik

UNUSED = 0.1  # of a module's equal share
MITTAL = ("alignment", "inverse_mi", "collapse_avg", "collapse_worst", "adaptation")
Numbers = dict[str, Any]


def measure(net: Any, task: Task, spec: TaskSpec) -> Numbers:
    """Everything reported of one trained network.

    Where there are more than 65,536 routes, log p(y | x) is an estimate from 512 of
    them, and the mode of p(a | x, y) the best that a beam search finds.

    Args:
        net: The network.
        task: Its data.
        spec: What made the data.
    """
    test = task.test
    seen = evaluate(net, test.x, test.y, draws=0)
    h = router_entropies(seen.router_probs)
    found: Numbers = {
        "log_lik": seen.log_marginal.mean().item(),
        "generating": generating_log_lik(spec, test),
        "h_a": h.h_a.mean().item(),
        "h_b": h.h_b.mean().item(),
    }
    modes = map_route(net, test.x, test.y).routes
    counts = [
        np.bincount(layer, minlength=m) / len(layer) * m
        for layer, m in zip(modes.T.numpy(), seen.n_choices, strict=True)
    ]
    if "ood" in task.extra:
        found |= errors(net, task.extra["ood"])
    found["unused"] = [int((share < UNUSED).sum()) for share in counts]
    if test.routes is None:
        return found
    at_modes = truth(seen.route_probs, test.routes, modes=modes)
    by_router = truth(seen.router_probs, test.routes)
    return found | {
        "accuracy": at_modes.accuracy.tolist(),
        "recovered": bool(at_modes.accuracy.min() >= RECOVERED),
        "purity": purity(modes.numpy(), test.routes.numpy()),
        **{name: getattr(by_router, name).tolist() for name in MITTAL},
    }


def purity(modes: np.ndarray, true: np.ndarray) -> list[float]:
    """Per layer, examples whose module serves their true map more than any other."""
    shares = []
    for found, right in zip(modes.T, true.T, strict=True):
        counts = np.zeros((found.max() + 1, right.max() + 1))
        np.add.at(counts, (found, right), 1)
        shares.append(float(counts.max(1).sum() / len(found)))
    return shares


def errors(net: Any, split: Split) -> Numbers:
    """Mean squared errors: of the mean of y, and of its mean at the likeliest modules.

    The first mixes modules by p(a | x), as the networks of Mittal et al. do; the second
    is the network with one module at each decision, the mode of its router.
    """
    seen = evaluate(net, split.x, split.y, draws=1)
    if seen.predictive is None:
        raise ValueError("got a network whose y has no mean: there is no error of it")
    modes = seen.router_probs.argmax(-1)
    program = GivenRouting(net, modes, list(seen.names))
    with torch.no_grad():
        trace = poutine.trace(program).get_trace(split.x, split.y)
    target: Any = trace.nodes["y"]["fn"]
    return {
        "ood_error": _squared(seen.predictive - split.y),
        "ood_error_modes": _squared(target.mean - split.y),
    }


def _squared(difference: Tensor) -> float:
    return float(difference.square().mean())
