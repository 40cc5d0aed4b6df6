"""A table of independent route probabilities for each example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pyro
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..models.checks import check_count
from .decision import Decision


class MeanFieldGuide(nn.Module):
    """q_n(a) = prod_l q_nl(a_l): one distribution an example and a site.

    Trained by no gradient: :mod:`latentroute.inference.estimators.mean_field` updates
    the rows of a minibatch in closed form. Each row starts uniformly at random on the
    simplex, as responsibilities of a mixture do. As a Pyro program it samples the sites
    independently. Memory: N x sum M_l floats.

    Args:
        decisions: The routing sites in program order, all dynamic.
        n_rows: Number of examples N.
        seed: Of the random start; ``None``: torch's global generator.

    Attributes:
        log_probs: (N, sum M_l) the sites' log q_nl, side by side.
        row_buffers: Names of the buffers of a row an example.

    Raises:
        ValueError: If there is no decision, or one is static.
    """

    row_buffers: ClassVar[tuple[str, ...]] = ("log_probs",)
    log_probs: Tensor

    def __init__(
        self, decisions: Sequence[Decision], n_rows: int, *, seed: int | None = None
    ) -> None:
        super().__init__()
        check_count("n_rows", n_rows)
        static = [decision.name for decision in decisions if decision.static]
        if not decisions or static:
            raise ValueError(
                "a mean-field table takes at least one decision, all of them dynamic: "
                f"got {len(decisions)}, static: {static}"
            )
        self.decisions = tuple(decisions)
        self._widths = [decision.n_choices for decision in decisions]
        generator = None
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)
        waits = torch.empty(n_rows, sum(self._widths)).exponential_(generator=generator)
        # Exponential variables normalised are uniform on the simplex.
        parts = [part.log().log_softmax(-1) for part in waits.split(self._widths, -1)]
        self.register_buffer("log_probs", torch.cat(parts, -1))

    def rows(self, index: Int[Tensor, " batch"]) -> list[Float[Tensor, "batch m"]]:
        """Log q of the given examples, site by site."""
        return list(self.log_probs[index].split(self._widths, -1))

    def set_rows(
        self,
        index: Int[Tensor, " batch"],
        log_probs: Sequence[Float[Tensor, "batch m"]],
    ) -> None:
        """Replace log q of the given examples, site by site."""
        self.log_probs[index] = torch.cat(list(log_probs), -1).to(self.log_probs.dtype)

    def forward(
        self, x: Tensor, y: Tensor | None = None, index: Tensor | None = None
    ) -> Int[Tensor, "*batch sites"]:
        """Sample the sites of rows ``index``, else of the first rows."""
        if index is None:
            index = torch.arange(len(x), device=self.log_probs.device)
        with pyro.plate("data", len(x), dim=-1):
            chosen = [
                decision.sample(log_q)
                for decision, log_q in zip(
                    self.decisions, self.rows(index), strict=True
                )
            ]
        return torch.stack(torch.broadcast_tensors(*chosen), -1)
