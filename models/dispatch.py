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
        h = h.expand(len(self.weight), *h.shape[-2:])
        if self.bias is None:
            return torch.bmm(h, self.weight)
        return torch.baddbmm(self.bias.unsqueeze(1), h, self.weight)

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
        return out if self.bias is None else out + self.bias[module].to(out.dtype)


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
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=order.device)
    return back


class AffineStack(nn.Module):
    """M chains of one architecture (affine maps and functions without parameters).

    Args:
        chains: For each module, its layers; position by position they are all
            ``nn.Linear`` of one shape, or all the same parameterless function.
    """

    def __init__(self, chains: list[list[nn.Module]]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            StackedAffine([layer for layer in layers if isinstance(layer, nn.Linear)])
            if isinstance(layers[0], nn.Linear)
            else layers[0]
            for layers in zip(*chains, strict=True)
        )

    def every(self, z: Float[Tensor, "*batch into"]) -> Float[Tensor, "m *batch out"]:
        """Each module's value at every row, each evaluated once over the batch."""
        every: Tensor = self._run(z.reshape(-1, z.shape[-1])).unflatten(1, z.shape[:-1])
        return every

    def each(self, z: Float[Tensor, "m *batch into"]) -> Float[Tensor, "m *batch out"]:
        """Module m's value at the m-th block of rows."""
        blocks = self._run(z.reshape(len(z), -1, z.shape[-1]))
        each: Tensor = blocks.unflatten(1, z.shape[1:-1])
        return each

    def _run(self, h: Tensor) -> Tensor:
        for stage in self.stages:
            h = stage.every(h) if isinstance(stage, StackedAffine) else stage(h)
        return h

    def chosen(
        self, z: Float[Tensor, "rows into"], module: Int[Tensor, " rows"]
    ) -> Float[Tensor, "rows out"]:
        """Each row's own module alone: rows are sorted by module, then put back."""
        module, order = module.sort()
        n_modules = next(
            len(s.weight) for s in self.stages if isinstance(s, StackedAffine)
        )
        # Not bincount, which waits for an accelerator.
        places = torch.arange(n_modules, device=module.device)
        ends = torch.searchsorted(module, places, right=True, out_int32=True)
        h = z[order]
        for stage in self.stages:
            if isinstance(stage, StackedAffine):
                h = stage.sorted(h, module, ends)
            else:
                h = stage(h)
        return h[inverse(order)]


_ELEMENTWISE = (
    nn.ReLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.GELU,
    nn.ELU,
    nn.SiLU,
    nn.LeakyReLU,
    nn.Softplus,
    nn.Identity,
)


def stack(modules: list[object]) -> AffineStack | None:
    """The modules as one :class:`AffineStack` where their architecture is the same.

    Returns:
        The stack, or ``None`` where a module is not a chain of ``nn.Linear`` and
        elementwise functions without parameters, where the chains differ, or where
        two modules share weights (stacked copies would untie them).
    """
    chains = [_chain(module) for module in modules]
    learned = [
        id(p) for chain in chains for layer in chain or () for p in layer.parameters()
    ]
    if len(set(learned)) < len(learned):
        return None
    architectures = {_architecture(chain) for chain in chains}
    if len(architectures) != 1 or None in chains:
        return None
    return AffineStack([chain for chain in chains if chain is not None])


def _chain(module: object) -> list[nn.Module] | None:
    """The layers of a module that is such a chain."""
    layers = list(module) if type(module) is nn.Sequential else [module]
    kept = [
        layer
        for layer in layers
        if isinstance(layer, nn.Module) and type(layer) in (nn.Linear, *_ELEMENTWISE)
    ]
    if len(kept) < len(layers) or not any(isinstance(x, nn.Linear) for x in kept):
        return None
    hooked = any(getattr(x, hooks) for x in (module, *kept) for hooks in _HOOKS)
    return None if hooked else kept


_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def _architecture(chain: list[nn.Module] | None) -> tuple[object, ...]:
    """What two chains must share to be stacked."""
    return tuple(
        (
            repr(layer),
            *((p.dtype, p.device, p.requires_grad) for p in layer.parameters()),
        )
        for layer in chain or ()
    )
