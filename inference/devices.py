"""Where training runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..launched import local_rank, n_processes
from .objective import Model

Device = str | torch.device


def choose_device(wanted: Device) -> torch.device:
    """A device by name; ``"auto"`` is a CUDA device where there is one, else the CPU.

    Of several processes that torchrun started, each has a CUDA device of its own.

    Raises:
        ValueError: If there is no such device here, or not one for each process.
    """
    if wanted == "auto":
        return _own_gpu() if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(wanted)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device must be auto, cpu or a device of this machine, got {wanted!r} "
            f"({str(error).splitlines()[0]})"
        ) from error
    return device


def _own_gpu() -> torch.device:
    """The CUDA device of this process."""
    if n_processes() == 1:
        return torch.device("cuda")
    own, n_devices = local_rank(), torch.cuda.device_count()
    if own >= n_devices:
        raise ValueError(
            f"device='auto' gives each process a GPU of its own, got process {own} "
            f"(from 0) of a machine that has {n_devices}: start torchrun with "
            f"--nproc-per-node {n_devices}, or train on device='cpu'"
        )
    return torch.device("cuda", own)


def place(
    model: Model,
    parameters: Sequence[Tensor] | None,
    wanted: Device | None,
    x: Tensor,
) -> torch.device:
    """Where to train: a module is moved where one says, in place.

    Args:
        model: What is trained.
        parameters: The tensors to train, where they are not the module's own.
        wanted: Device; ``None``: where the parameters are.
        x: The data, which say where a model without parameters runs.

    Raises:
        ValueError: If there is no such device, or given tensors are elsewhere.
    """
    if wanted is not None:
        device = choose_device(wanted)
        if isinstance(model, nn.Module):
            model.to(device)
        for tensor in parameters or ():
            if tensor.device.type != device.type:
                raise ValueError(
                    f"parameters are on {tensor.device}, device is {device}: make "
                    "them there, since other tensors would be trained in their place"
                )
        return device
    own = model.parameters() if isinstance(model, nn.Module) else ()
    return next((p.device for p in parameters or own), x.device)
