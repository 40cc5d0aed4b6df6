"""A network that reads an example and its target, and proposes routes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import pyro
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..models.checks import check_count
from .decision import Decision


class AmortisedGuide(nn.Module):
    r"""Autoregressive q(a | x, y) = prod_l q(a_l | a_<l, x, y).

    .. math::
        q(a_l \mid a_{<l}, x, y) = \mathrm{softmax}(V_l \tanh(W_l [x; y]
        + \textstyle\sum_{k<l} E_{lk}[a_k] + b_l) + c_l)

    Each site has a network with one hidden layer of its own. V starts at zero, so that
    q starts uniform. A static site sees neither x and y nor the dynamic choices.

    *Encoding*: x is flattened to numbers. y is one-hot where ``n_classes`` is given,
    flattened to numbers otherwise, and left out where ``y_features`` is 0. Nothing is
    standardised: inputs far from unit scale saturate the tanh, so scale them before.

    Broadcasts to the left: every site may be enumerated, or have dimensions of samples.

    Args:
        decisions: The routing sites in program order.
        in_features: Numbers in one x.
        y_features: Numbers in one y; 0: the guide does not see y.
        n_classes: Classes of y where it is one of 0 .. n_classes - 1, in place of
            ``y_features``.
        hidden_features: Width of the hidden layers.
        seed: Of the random start; ``None``: torch's global generator.

    Raises:
        ValueError: If there is no decision, or a size is wrong.

    Example:
        >>> from latentroute.models import route_sites
        >>> guide = AmortisedGuide([Decision("a", 3), Decision("b", 2)], 4, n_classes=5)
        >>> guide(torch.zeros(6, 4), torch.zeros(6, dtype=torch.long)).shape
        torch.Size([6, 2])
    """

    def __init__(
        self,
        decisions: Sequence[Decision],
        in_features: int,
        *,
        y_features: int = 0,
        n_classes: int | None = None,
        hidden_features: int = 32,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        check_count("in_features", in_features)
        check_count("hidden_features", hidden_features)
        check_count("y_features", y_features, least=0)
        if n_classes is not None:
            check_count("n_classes", n_classes)
        if not decisions:
            raise ValueError("a guide needs at least one decision, got none")
        self.decisions = tuple(decisions)
        self.in_features = in_features
        self.y_features = y_features
        self.n_classes = n_classes
        generator = None
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)
        width = in_features + (n_classes or y_features)
        self.networks = nn.ModuleList(
            _SiteNetwork(self.decisions, i, width, hidden_features, generator)
            for i in range(len(decisions))
        )

    def forward(
        self, x: Tensor, y: Tensor | None = None
    ) -> Int[Tensor, "*batch sites"]:
        """Sample the sites.

        Args:
            x: Inputs, examples first.
            y: Targets, examples first.

        Returns:
            The choices, as indices.

        Raises:
            ValueError: If x or y is not of the size that the guide was made for.
        """
        seen = self._encode(x, y)
        plate = pyro.plate("data", len(x), dim=-1)
        chosen: list[Tensor] = []
        for decision, network in zip(self.decisions, self.networks, strict=True):
            with contextlib.nullcontext() if decision.static else plate:
                chosen.append(decision.sample(network(seen, chosen)))
        return torch.stack(torch.broadcast_tensors(*chosen), -1)

    def _encode(self, x: Tensor, y: Tensor | None) -> Float[Tensor, "batch features"]:
        dtype = next(self.parameters()).dtype
        parts = [_rows("x", x, len(x), self.in_features).to(dtype)]
        if self.n_classes is None and not self.y_features:
            return parts[0]
        if y is None:
            raise ValueError("the guide was made for a y: got y=None")
        width = 1 if self.n_classes else self.y_features
        rows = _rows("y", y, len(x), width)
        if self.n_classes:
            rows = nn.functional.one_hot(rows.squeeze(-1).long(), self.n_classes)
        return torch.cat([*parts, rows.to(dtype)], -1)


class _SiteNetwork(nn.Module):
    """Logits of one site from the encoded example and the earlier choices."""

    def __init__(
        self,
        decisions: Sequence[Decision],
        place: int,
        in_features: int,
        hidden_features: int,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        own = decisions[place]
        self._seen = [
            k for k in range(place) if decisions[k].static or not own.static
        ]  # earlier choices that this one may depend on
        inputs = 0 if own.static else in_features
        bound = 1 / math.sqrt(max(inputs + len(self._seen), 1))

        def uniform(*shape: int) -> nn.Parameter:
            values = torch.empty(shape)
            return nn.Parameter(values.uniform_(-bound, bound, generator=generator))

        self.weight = None if own.static else uniform(hidden_features, in_features)
        self.bias = uniform(hidden_features)
        self.previous = nn.ParameterList(
            uniform(decisions[k].n_choices, hidden_features) for k in self._seen
        )
        self.out_weight = nn.Parameter(torch.zeros(own.n_choices, hidden_features))
        self.out_bias = nn.Parameter(torch.zeros(own.n_choices))

    def forward(
        self, seen: Float[Tensor, "batch features"], chosen: Sequence[Tensor]
    ) -> Float[Tensor, "*batch m"]:
        hidden: Tensor = self.bias
        if self.weight is not None:
            hidden = nn.functional.linear(seen, self.weight, self.bias)
        for k, table in zip(self._seen, self.previous, strict=True):
            hidden = hidden + table[chosen[k]]
        return nn.functional.linear(hidden.tanh(), self.out_weight, self.out_bias)


def _rows(name: str, values: Tensor, n: int, width: int) -> Tensor:
    """One row of ``width`` numbers an example."""
    if len(values) != n or values[0].numel() != width:
        raise ValueError(
            f"the guide was made for {name} of {width} numbers an example, examples "
            f"first: got shape {tuple(values.shape)} for {n} examples"
        )
    return values.reshape(n, width)
