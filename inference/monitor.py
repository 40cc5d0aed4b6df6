"""What is followed during a training run."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..models.routers import GivenRouting
from .collapse import collapsed_layers, warn_of_collapse
from .entropies import router_entropies
from .evaluate import evaluate_program
from .objective import Model
from .program import RoutedProgram
from .strategy import Team
from .training_data import batch

_MONITORED = 256  # examples on which entropies and validation are followed


class Monitor:
    """Follows the router's entropies and the validation likelihood.

    Warns once where a layer has collapsed.

    Args:
        model: What is evaluated; of given routing, the router itself.
        data: What ``fit`` was given; its validation split is used where it has one.
        x: Inputs of the training data.
        y: Targets of the training data.
        team: Where the model is; of several processes the main one warns.
    """

    def __init__(
        self, model: Model, data: Any, x: Tensor, y: Tensor | None, team: Team
    ) -> None:
        # Given routes are the training data's: followed is the router itself.
        followed = model.model if isinstance(model, GivenRouting) else model
        self._program = RoutedProgram(followed)
        valid = getattr(data, "valid", None)
        self._has_valid = valid is not None
        self._warned = not team.is_main
        if valid is not None:
            x, y = valid.x, valid.y
        n = min(len(x), _MONITORED)
        chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:n]
        self._x, self._y, _ = batch(x, y, chosen, team.device)

    def measure(self) -> dict[str, Any]:
        """Entropies in nats and, with a validation split, the mean log p(y | x)."""
        seen = evaluate_program(self._program, self._x, self._y, draws=0)
        h_a, h_b = entropies = router_entropies(seen.router_probs)
        if not self._warned and (layers := collapsed_layers(seen, entropies)):
            self._warned = True
            warn_of_collapse(layers)
        measured: dict[str, Any] = {
            "h_a": h_a.mean().item() if len(h_a) else math.nan,
            "h_b": h_b.mean().item() if len(h_b) else math.nan,
            "h_a_layers": h_a.tolist(),
            "h_b_layers": h_b.tolist(),
        }
        if self._has_valid:
            measured["valid"] = seen.log_marginal.mean().item()
        return measured
