"""The network of the `rules` lines: as in the paper, the router sees the rule alone."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..inference import default_network
from ..models import LayeredNetwork
from ..models.categorical import Categorical
from ..tasks.base import Task

NUMBERS = 2  # columns of x before those of the rule
WIDTH = 32  # of an encoding
UNITS = 128  # hidden units of all modules together


def rules_network(task: Task, **network: Any) -> LayeredNetwork:
    """Encodings of x1, x2 and the rule go to every module, the rule to the router.

    As Modular-op of Mittal, Bengio and Lajoie 2022 (arXiv:2206.02713, and its public
    code): modules see the rule too, and share out 128 hidden units. Here one module
    acts, where theirs are mixed; the router reads the one-hot rule, not its encoding;
    and the head that follows is affine, where theirs has a hidden layer.

    Args:
        task: `rules`.
        **network: Other options of `LayeredNetwork`.
    """
    n_rules = task.in_features - NUMBERS
    units = max(1, UNITS // n_rules)
    options: dict[str, Any] = {
        "hidden_features": 3 * WIDTH,
        "encoder": RuleEncoder(n_rules),
        "module": lambda into, out: _mlp(into, units, out),
        "router": RuleRouter,
        "router_input": "input",
    }
    return default_network(task, **(options | network))


class RuleEncoder(nn.Module):
    """One small network for both numbers, another for the rule; side by side."""

    def __init__(self, n_rules: int) -> None:
        super().__init__()
        self.number = _mlp(1, WIDTH, WIDTH)
        self.rule = _mlp(n_rules, WIDTH, WIDTH)

    def forward(self, x: Float[Tensor, "n columns"]) -> Float[Tensor, "n wide"]:
        """(N, 96) encodings."""
        numbers = [self.number(x[:, i : i + 1]) for i in range(NUMBERS)]
        return torch.cat([*numbers, self.rule(x[:, NUMBERS:])], -1)


class RuleRouter(nn.Module):
    """p(a | rule): a linear layer on the columns of the rule, and a softmax."""

    def __init__(self, in_features: int, n_modules: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features - NUMBERS, n_modules)

    def forward(self, x: Float[Tensor, "*batch columns"]) -> Categorical:
        """The distribution over modules."""
        return Categorical(self.linear(x[..., NUMBERS:]))


class GivenRule(nn.Module):
    """The rule's own module, as sure as 100 nats can be: ground-truth routing."""

    def __init__(self, in_features: int, n_modules: int) -> None:
        super().__init__()
        if in_features - NUMBERS != n_modules:
            raise ValueError(
                f"every rule needs a module: got {in_features - NUMBERS} rules and "
                f"n_modules={n_modules}"
            )

    def forward(self, x: Float[Tensor, "*batch columns"]) -> Categorical:
        """The distribution over modules."""
        return Categorical(100.0 * x[..., NUMBERS:])


def _mlp(into: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(into, hidden), nn.ReLU(), nn.Linear(hidden, out))
