"""Data parallelism by Lightning Fabric (the extra ``fabric``)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .data_parallel import naming_loss
from .distributed import ManyProcesses
from .strategy import Strategy, Team

_STRATEGY = "ddp_find_unused_parameters_true"


@dataclass(frozen=True)
class Fabric(Strategy):
    """Processes, devices and precision as a Lightning Fabric has them.

    It starts processes itself, on one machine or many; what is computed is as for
    :class:`~latentroute.inference.DataParallel`. Strategies that keep a whole copy of
    the parameters in every process will do: one device, or
    ``"ddp_find_unused_parameters_true"`` (a routed model has parts that the examples of
    a batch do not reach; plain ``"ddp"`` would train on wrong gradients, silently).
    Checkpoints are ``fit``'s own. Tested in 32 bits; in ``"bf16-mixed"`` today's banks
    of modules run one route at a time, and warn.

    Args:
        fabric: A ``lightning_fabric.Fabric`` that has been launched.

    Example:
        >>> from lightning_fabric import Fabric as Lightning  # doctest: +SKIP
        >>> lightning = Lightning(accelerator="cpu")  # doctest: +SKIP
        >>> fit(net, data, steps=100, strategy=Fabric(lightning))  # doctest: +SKIP
    """

    fabric: Any

    def __post_init__(self) -> None:
        try:
            import lightning_fabric
        except ImportError as error:
            raise ImportError(
                "Fabric needs Lightning Fabric: pip install 'latentroute[fabric]'"
            ) from error
        if not isinstance(self.fabric, lightning_fabric.Fabric):
            raise TypeError(
                "fabric must be a lightning_fabric.Fabric, got "
                f"{type(self.fabric).__name__}"
            )

    @property
    def is_main(self) -> bool:
        """Whether this is process 0."""
        return bool(self.fabric.is_global_zero)

    @contextmanager
    def processes(self, device: torch.device) -> Iterator[Team]:
        """The processes of the fabric; the model goes to its device.

        Raises:
            RuntimeError: If the fabric is not launched, or another process is gone.
        """
        with naming_loss():
            team = ManyProcesses(
                self.fabric.device, wrap=self._wrap, backward=self.fabric.backward
            )
            precision = self.fabric.strategy.precision
            team.scales_loss = getattr(precision, "scaler", None) is not None
            yield team
            team.wait()  # no file is half written when anybody goes on

    def _wrap(
        self, module: nn.Module, optimiser: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        wrapped, optimiser = self.fabric.setup(module, optimiser)
        inner = wrapped._forward_module
        is_ddp = isinstance(inner, DistributedDataParallel)
        if inner is module or (is_ddp and inner.find_unused_parameters):
            return wrapped, optimiser
        got = type(self.fabric.strategy).__name__
        got += " without find_unused_parameters" if is_ddp else ""
        raise ValueError(
            f"the fabric must have one device or strategy={_STRATEGY!r}, got {got}"
        )
