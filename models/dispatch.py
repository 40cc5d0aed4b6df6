"""Stacked affine modules: every one at once, or for each row the chosen one."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .grouped import grouped_product


class StackedAffine(nn.Module):
    """M affine maps of one shape as one parameter: h -> h W_m + b_m.

    Args:
        layers: The M ``nn.Linear`` whose weights it takes over, all of one shape.
    """

    def __init__(self, layers: list[nn.Linear]) -> None:
        super().__init__()
        learned = layers[0].weight.requires_grad
        weight = torch.stack([layer.weight.detach().T for layer in layers])
        self.weight = nn.Parameter(weight.contiguous(), learned)  # (M, in, out)
        self.bias = None
        if layers[0].bias is not None:
            bias = torch.stack([layer.bias.detach() for layer in layers])
            learned = layers[0].bias.requires_grad
            self.bias = nn.Parameter(bias, learned)  # (M, out)

    def every(self, h: Float[Tensor, "*m rows into"]) -> Float[Tensor, "m rows out"]:
        """All M maps: of the same rows, or of M blocks of rows, one for each map."""
        weight, bias = self.weight, self.bias
        if h.dim() == 2:
            h = h.expand(weight.shape[0], -1, -1)
        if bias is None:
            return torch.bmm(h, weight)
        return torch.baddbmm(bias.unsqueeze(1), h, weight)

    def picked(
        self, h: Float[Tensor, "rows into"], module: Int[Tensor, " rows"]
    ) -> Float[Tensor, "rows out"]:
        """For each row its own module's map, out of one product with all M.

        Cost: rows times M times into times out multiplications, and rows times M times
        out numbers.

        Args:
            h: Rows, in any order.
            module: Which module each row goes to.
        """
        m, into, out = self.weight.shape
        weight = self.weight.transpose(0, 1).reshape(into, -1)  # (into, M out)
        if self.bias is None:
            every = h @ weight
        else:
            every = torch.addmm(self.bias.flatten(), h, weight)
        own = module.view(-1, 1, 1).expand(-1, 1, out)
        return every.view(-1, m, out).gather(1, own).squeeze(1)

    def sorted(
        self,
        h: Float[Tensor, "rows into"],
        module: Int[Tensor, " rows"],
        ends: Int[Tensor, " m"],
    ) -> Float[Tensor, "rows out"]:
        """For rows sorted by module, the map of each row's own module.

        Args:
            h: Rows, those of module 0 first.
            module: Which module each row goes to, ascending.
            ends: Where each module's rows end.
        """
        out = grouped_product(h, self.weight, ends)
        if self.bias is None:
            return out
        return self.bias.index_select(0, module).to(out.dtype).add_(out)


def inverse(order: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """The permutation that undoes one: what argsort gives, without a second sort."""
    places = torch.arange(order.shape[0], device=order.device)
    return torch.empty_like(order).scatter_(0, order, places)
