"""Stacked affine modules: every one at once, or for each row the chosen one."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

_ALIGNMENT = 16  # bytes: what grouped_mm asks of every stride


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

    def masked(
        self,
        h: Float[Tensor, "rows into"],
        mask: Float[Tensor, "rows m"],
    ) -> Float[Tensor, "rows out"]:
        """For each row its own module's map, as one product with all M.

        Args:
            h: Rows, in any order.
            mask: One where a row goes to a module, zero elsewhere.
        """
        rows = (mask.unsqueeze(-1) * h.unsqueeze(-2)).flatten(1)  # (rows, M in)
        weight = self.weight.flatten(0, 1)
        if self.bias is None:
            return rows @ weight
        return torch.addmm(mask @ self.bias, rows, weight)

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


def grouped_product(
    h: Float[Tensor, "rows into"],
    weight: Float[Tensor, "m into out"],
    ends: Int[Tensor, " m"],
) -> Float[Tensor, "rows out"]:
    """Multiply consecutive segments of rows by a matrix each.

    ``torch.nn.functional.grouped_mm`` where it applies: it refuses float64 (a loop over
    segments stands in) and strides that are no multiple of 16 bytes (odd widths are
    padded with zeros).

    Args:
        h: Rows; those of segment m end before row ``ends[m]``.
        weight: A matrix for each segment.
        ends: Ascending ends of the segments; empty ones are fine.

    Returns:
        The product, row by row. Its gradient must not be an expanded tensor
        (``out.sum().backward()``) where it reaches grouped_mm directly; picking rows
        from the result, as :class:`~latentroute.models.ModuleBank` does, avoids that.
    """
    device = h.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)  # torch's list lacks grouped_mm
        h, weight = h.to(dtype), weight.to(dtype)
    if h.dtype not in (torch.float32, torch.bfloat16):
        sizes = ends.diff(prepend=ends.new_zeros(1)).tolist()
        parts = [rows @ w for rows, w in zip(h.split(sizes), weight, strict=True)]
        return torch.cat(parts)
    into, out = weight.shape[-2:]
    step = _ALIGNMENT // h.element_size()
    pad_in, pad_out = -into % step, -out % step
    if pad_in or pad_out:
        h, weight = F.pad(h, (0, pad_in)), F.pad(weight, (0, pad_out, 0, pad_in))
    product: Tensor = F.grouped_mm(h.contiguous(), weight, offs=ends.to(torch.int32))
    return product[:, :out] if pad_out else product


def inverse(order: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """The permutation that undoes one: what argsort gives, without a second sort."""
    places = torch.arange(order.shape[0], device=order.device)
    return torch.empty_like(order).scatter_(0, order, places)
