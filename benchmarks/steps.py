"""Training steps of the library and by hand on one problem, from the same weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..inference import build
from ..models import LayeredNetwork, ModuleBank
from . import handwritten
from .peers.served import CLASSES, FEATURES, experts_problem, layered_problem

Step = Callable[[], object]
Setting = Mapping[str, int]  # B, L, M, D and, where routes are sampled, S


class Pair(NamedTuple):
    """One training step, ours and by hand.

    Attributes:
        ours: Loss, gradient, Adam.
        hand: The same.
        losses: Ours and by hand before training, which must agree where they are exact.
    """

    ours: Step
    hand: Step
    losses: tuple[float, float]


def steps(
    method: str, setting: Setting, *, fused: bool = False, **options: Any
) -> Pair:
    """Steps of a method on a layered network.

    Args:
        method: ``"exact"`` or ``"score-function"``.
        setting: Sizes.
        fused: Whether Adam is torch's fused one, as ``fit`` has it.
        **options: The method's.
    """
    net, by_hand, x, y = networks(setting)
    if method == "score-function":
        options["n_samples"] = setting["S"]
    objective = build(method, net, n_data=len(x), seed=0, example=(x, y), **options)

    def loss() -> Tensor:
        if method == "exact":
            return handwritten.exact_loss(by_hand, x, y)
        return handwritten.score_function_loss(by_hand, x, y, setting["S"])

    losses = objective(x, y).item(), loss().item()
    ours = _training(objective, lambda: objective(x, y), fused)
    return Pair(ours, _training(by_hand, loss, fused), losses)


def networks(
    setting: Setting,
) -> tuple[LayeredNetwork, handwritten.Network, Tensor, Tensor]:
    """The network, ours and by hand, of the same weights, and its data x and y."""
    found = tensors(layered_problem(dict(setting)))
    x, y = found.pop("x"), found.pop("y")
    layers, m, width = (setting[k] for k in ("L", "M", "D"))
    net = LayeredNetwork(
        FEATURES, CLASSES, n_layers=layers, n_modules=m, hidden_features=width
    )
    net.load_state_dict({_own_name(name): value for name, value in found.items()})
    by_hand = handwritten.Network(
        FEATURES, CLASSES, n_layers=layers, n_modules=m, hidden=width
    )
    by_hand.load_state_dict(found)
    return net, by_hand, x, y


def router_elbo(setting: Setting) -> float:
    """The exact value of what the score-function step estimates, minus."""
    return steps("exact", setting, target="router-elbo").losses[0]


class HardLayer(nn.Module):
    """A layer of experts: each token through its first two, weighted by the gate.

    What mixture-of-experts and st-moe-pytorch compute, of our bank's dispatch.
    """

    def __init__(self, into: Tensor, out: Tensor, gate: Tensor) -> None:
        super().__init__()
        self.gate = nn.Parameter(gate)
        self.bank = ModuleBank([_expert(*both) for both in zip(into, out, strict=True)])

    def forward(self, tokens: Tensor) -> Tensor:
        """(*batch, D) -> (*batch, D)."""
        weight, route = (tokens @ self.gate).softmax(-1).topk(2)
        weight = weight / weight.sum(-1, keepdim=True)
        value = self.bank(tokens.unsqueeze(-2), route)  # (*batch, 2, D)
        mixed: Tensor = (value * weight.unsqueeze(-1)).sum(-2)
        return mixed


def hard_layer(setting: Setting) -> tuple[Step, float]:
    """Forward and backward of our layer of experts, and the value it has."""
    found = tensors(experts_problem(dict(setting)))
    tokens = found["tokens"].requires_grad_()
    layer = HardLayer(found["in"], found["out"], found["gate"])

    def run() -> Tensor:
        loss: Tensor = layer(tokens).square().mean()
        loss.backward()
        return loss

    return run, run().item()


def tensors(found: Mapping[str, Any]) -> dict[str, Tensor]:
    """Nested lists as tensors."""
    return {name: torch.tensor(value) for name, value in found.items()}


def _own_name(name: str) -> str:
    """A parameter of handwritten.Network as LayeredNetwork calls it."""
    kind, *rest = name.split(".")
    if kind in ("weights", "biases"):
        own = {"weights": "weight", "biases": "bias"}[kind]
        return f"banks.{rest[0]}._evaluate.stages.0.{own}"
    if kind == "encoder":
        return name
    return ".".join([kind, *rest[:-1], "linear", rest[-1]])


def _expert(into: Tensor, out: Tensor) -> nn.Sequential:
    """relu(z into) out."""
    maps = [nn.Linear(len(w), w.shape[1], bias=False) for w in (into, out)]
    for layer, weight in zip(maps, (into, out), strict=True):
        layer.weight.data = weight.T.contiguous()
    return nn.Sequential(maps[0], nn.ReLU(), maps[1])


def _training(module: nn.Module, loss: Callable[[], Tensor], fused: bool) -> Step:
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-3, fused=fused or None)

    def step() -> None:
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()

    return step
