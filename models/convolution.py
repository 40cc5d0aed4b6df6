"""Stacked convolutions: every one at once, or for each row the chosen one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
CONVOLUTIONS: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_FUNCTIONS: Final[tuple[Callable[..., Tensor], ...]] = (F.conv1d, F.conv2d, F.conv3d)


class StackedConvolution(nn.Module):
    """M convolutions of one shape as one parameter.

    As one grouped convolution, whose groups are the modules or, for chosen ones, the
    rows: no loop over modules, and rows need not be sorted. Cost: what the modules take
    at their own rows, whatever M; a copy of the chosen module's weights for each row.

    Args:
        layers: The M convolutions whose weights it takes over, all of one shape, padded
            with zeros where they are padded.
    """

    def __init__(self, layers: list[Convolution]) -> None:
        super().__init__()
        first = layers[0]
        weight = torch.stack([layer.weight.detach() for layer in layers])
        self.weight = nn.Parameter(weight, first.weight.requires_grad)  # (M, out, ..)
        self.bias = None
        if first.bias is not None:
            biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
            learned = first.bias.requires_grad
            self.bias = nn.Parameter(torch.stack(biases), learned)  # (M, out)
        self._groups = first.groups
        self._convolve = _FUNCTIONS[len(first.kernel_size) - 1]
        self._options: dict[str, Any] = {
            "stride": first.stride,
            "padding": first.padding,
            "dilation": first.dilation,
        }

    def every(
        self, h: Float[Tensor, "*m rows channels *space"]
    ) -> Float[Tensor, "m rows out *out_space"]:
        """All M: of the same rows, or of M blocks of rows, one for each."""
        weight, bias = self.weight, self.bias
        shared = h.dim() < weight.dim()
        if shared and self._groups == 1:
            value = self._grouped(h, weight, bias, 1)
        else:
            blocks = h.expand(len(weight), *h.shape) if shared else h
            beside = blocks.movedim(0, 1).flatten(1, 2)  # (rows, M channels, *space)
            value = self._grouped(beside, weight, bias, len(weight) * self._groups)
        every: Tensor = value.unflatten(1, (len(weight), -1)).movedim(1, 0)
        return every

    def chosen(
        self,
        h: Float[Tensor, "rows channels *space"],
        module: Int[Tensor, " rows"],
    ) -> Float[Tensor, "rows out *out_space"]:
        """The convolution of each row's own module."""
        weight = self.weight.index_select(0, module)
        bias = None if self.bias is None else self.bias.index_select(0, module)
        beside = h.flatten(0, 1).unsqueeze(0)  # (1, rows channels, *space)
        value = self._grouped(beside, weight, bias, len(h) * self._groups)
        chosen: Tensor = value.squeeze(0).unflatten(0, (len(h), -1))
        return chosen

    def _grouped(
        self, h: Tensor, weight: Tensor, bias: Tensor | None, groups: int
    ) -> Tensor:
        return self._convolve(
            h,
            weight.flatten(0, 1),
            None if bias is None else bias.flatten(),
            groups=groups,
            **self._options,
        )
