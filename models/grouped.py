"""Segments of rows, each times a matrix of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch._subclasses import FakeTensor
from torch.nn import functional as F

Array = NDArray[np.float32]

_ALIGNMENT = 16  # bytes: what grouped_mm asks of every stride
_MANY = 32  # segments, from where on NumPy saves more than leaving torch costs
_SMALL = 2**18  # multiplications: a larger product of NumPy's may start threads
_GROUPED = (torch.float32, torch.bfloat16)  # what grouped_mm takes


def grouped_product(
    h: Float[Tensor, "rows into"],
    weight: Float[Tensor, "m into out"],
    ends: Int[Tensor, " m"],
) -> Float[Tensor, "rows out"]:
    """Multiply consecutive segments of rows by a matrix each.

    ``torch.nn.functional.grouped_mm`` where it applies: it refuses float64 (a loop over
    segments stands in) and strides that are no multiple of 16 bytes (odd widths are
    padded with zeros). On a processor that is a loop inside torch, in which calling a
    small product costs as much as its arithmetic: many small segments of float32 go
    through NumPy's products, whose loop is shorter although Python runs it. Where torch
    traces a graph, for which its own is not made, the graph has it as one operation.

    Cost: rows times into times out multiplications, whatever the number of segments,
    and on a processor one to four microseconds a segment.

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
    compiled = torch.compiler.is_compiling() and h.dtype == torch.float32
    if compiled or isinstance(h, FakeTensor):
        traced: Tensor = _product(h, weight, ends)
        return traced
    if _small(h, weight) and _plain():
        out: Tensor = _SmallProducts.apply(h, weight, ends)  # type: ignore[no-untyped-call]
        return out
    return _in_torch(h, weight, ends)


def _in_torch(h: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """The products by torch, which can differentiate and batch them itself."""
    if h.dtype not in _GROUPED:
        sizes = _sizes(ends)
        parts = [rows @ w for rows, w in zip(h.split(sizes), weight, strict=True)]
        return torch.cat(parts)
    into, out = weight.shape[-2:]
    pad_in, pad_out = _padding(h, into), _padding(h, out)
    if pad_in or pad_out:
        h, weight = F.pad(h, (0, pad_in)), F.pad(weight, (0, pad_out, 0, pad_in))
    product: Tensor = F.grouped_mm(h.contiguous(), weight, offs=ends.to(torch.int32))
    return product[:, :out] if pad_out else product


def _sizes(ends: Tensor) -> list[int]:
    sizes: list[int] = ends.diff(prepend=ends.new_zeros(1)).tolist()
    return sizes


def _padding(h: Tensor, width: int) -> int:
    return -width % (_ALIGNMENT // h.element_size())


def _small(h: Tensor, weight: Tensor) -> bool:
    """Whether there are many segments, most of them small, for NumPy."""
    if h.dtype != torch.float32 or h.device.type != "cpu":
        return False
    n_segments, *widths = weight.shape
    work = h.shape[0] * widths[0] * widths[1]
    return n_segments >= _MANY and 2 * work <= _SMALL * n_segments


def _plain() -> bool:
    """Whether nobody traces, transforms or counts what torch does."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
    )


class _SmallProducts(torch.autograd.Function):
    """The same in a loop over NumPy's products, on a processor.

    A product of sixteen rows and a matrix of 64 x 64 takes NumPy two microseconds and
    grouped_mm four, of which its own loop is the half.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
        ctx.save_for_backward(h, weight, ends)
        return _by_numpy(h, weight, ends)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        h, weight, ends = ctx.saved_tensors
        batched = torch._C._functorch.is_legacy_batchedtensor(grad)  # is_grads_batched
        if torch.is_grad_enabled() or batched or not _plain():
            return (*_gradients(h, weight, ends, grad), None)
        of_h, of_weight, _ = ctx.needs_input_grad
        d_h, d_weight = _gradients_by_numpy(h, weight, ends, grad, of_h, of_weight)
        return d_h if of_h else None, d_weight if of_weight else None, None


def _by_numpy(h: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    out = h.new_empty(h.shape[0], weight.shape[2])
    rows, products, begin = _array(h), _array(out), 0
    most = _most_rows(weight)
    for end, w in zip(ends.tolist(), _array(weight), strict=True):
        multiply = np.ndarray.dot if end - begin <= most else _by_torch
        multiply(rows[begin:end], w, products[begin:end])
        begin = end
    return out


def _gradients_by_numpy(
    h: Tensor,
    weight: Tensor,
    ends: Tensor,
    grad: Tensor,
    of_h: bool = True,
    of_weight: bool = True,
) -> tuple[Tensor, Tensor]:
    """Both gradients, or nothing in the place of one."""
    d_h = h.new_empty(h.shape if of_h else 0)
    d_weight = weight.new_empty(weight.shape if of_weight else (len(weight), 0))
    rows, grads, d_rows, begin = _array(h), _array(grad), _array(d_h), 0
    most = _most_rows(weight)
    # In one loop: a segment's gradient is still at hand for its second product.
    segments = zip(ends.tolist(), _array(weight), _array(d_weight), strict=True)
    for end, w, d_w in segments:
        multiply = np.ndarray.dot if end - begin <= most else _by_torch
        own = grads[begin:end]
        if of_h:
            multiply(own, w.T, d_rows[begin:end])
        if of_weight:
            multiply(rows[begin:end].T, own, d_w)
        begin = end
    return d_h, d_weight


def _gradients(
    h: Tensor, weight: Tensor, ends: Tensor, grad: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients that torch can differentiate and batch."""
    learned = [t for t in (h, weight) if t.requires_grad]
    with torch.enable_grad():
        out = _in_torch(h, weight, ends)
    found = iter(torch.autograd.grad(out, learned, grad, create_graph=True))
    return tuple([next(found) if t.requires_grad else None for t in (h, weight)])


def _array(tensor: Tensor) -> Array:
    """A tensor's own memory, of whatever strides."""
    return tensor.detach().numpy()


def _most_rows(weight: Tensor) -> int:
    """How many a segment may have for NumPy."""
    return _SMALL // max(1, weight[0].numel())


def _by_torch(left: Array, right: Array, out: Array) -> None:
    a, b = torch.from_numpy(left), torch.from_numpy(right)
    torch.mm(a, b, out=torch.from_numpy(out))


# As operations of a graph: torch 2.13 cannot tell the shape of grouped_mm in float32.


@torch.library.custom_op(
    "latentroute::grouped_product",
    mutates_args=(),
    schema="(Tensor h, Tensor weight, Tensor ends) -> Tensor",
)
def _product(h: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    if _small(h, weight):
        return _by_numpy(h, weight, ends)
    return _in_torch(h, weight, ends).contiguous()


@torch.library.custom_op(
    "latentroute::grouped_product_gradients",
    mutates_args=(),
    schema="(Tensor h, Tensor weight, Tensor ends, Tensor grad) -> (Tensor, Tensor)",
)
def _product_gradients(
    h: Tensor, weight: Tensor, ends: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    if _small(h, weight):
        return _gradients_by_numpy(h, weight, ends, grad)
    grad = grad.contiguous()
    d_h = _in_torch(grad, weight.mT, ends).contiguous()
    if h.dtype not in _GROUPED:
        sizes = _sizes(ends)
        segments = zip(h.split(sizes), grad.split(sizes), strict=True)
        return d_h, torch.stack([rows.T @ own for rows, own in segments])
    into, out = weight.shape[-2:]
    rows = F.pad(h.contiguous(), (0, _padding(h, into)))
    own = F.pad(grad, (0, _padding(h, out)))
    d_weight = F.grouped_mm(rows.T, own, offs=ends.to(torch.int32))
    return d_h, d_weight[:, :into, :out].contiguous()


@_product.register_fake
def _(h: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    return h.new_empty(h.shape[0], weight.shape[2])


@_product_gradients.register_fake
def _(h: Tensor, weight: Tensor, ends: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(h).contiguous(), torch.empty_like(weight).contiguous()


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*_product_gradients(*ctx.saved_tensors, grad), None)


_product.register_autograd(_backward, setup_context=_save)
