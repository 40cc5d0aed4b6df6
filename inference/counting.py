"""What work takes, in counts that no other program on the machine can change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from ..models.banks import ModuleBank

_WAYS = ("every", "each", "chosen")  # how a bank evaluates its modules


class Evaluations:
    """Module evaluations so far.

    Attributes:
        rows: Rows that modules were evaluated at: M for each row of ``z`` where a bank
            evaluates every module, one where it evaluates the chosen one.
        calls: How often a bank evaluated modules, all of them or the chosen ones.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.calls = 0


@contextmanager
def count_evaluations() -> Iterator[Evaluations]:
    """Count the module evaluations of every :class:`ModuleBank` called inside.

    Of any program, whether an ``nn.Module`` or a function that closes over its banks.
    What a backward pass inside runs again (checkpoints) counts again. Cost: a Python
    call at each call of a module.

    Example:
        >>> import torch
        >>> from latentroute.models import LayeredNetwork
        >>> net = LayeredNetwork(2, 2, n_layers=2, n_modules=3, hidden_features=4)
        >>> with count_evaluations() as count:
        ...     _ = net(torch.zeros(10, 2))
        >>> count.rows, count.calls
        (20, 2)
    """
    count = Evaluations()
    own: dict[nn.Module, dict[str, Any]] = {}  # what the banks' evaluators had before

    def meet(module: Any, args: Any) -> None:
        if not isinstance(module, ModuleBank) or module._evaluate in own:
            return
        evaluator = module._evaluate
        own[evaluator] = {way: vars(evaluator).get(way) for way in _WAYS}
        for way in _WAYS:
            times = module.n_modules if way == "every" else 1
            plain = getattr(evaluator, way)
            setattr(evaluator, way, _counted(plain, count, module.event_dim, times))

    hook = register_module_forward_pre_hook(meet)
    try:
        yield count
    finally:
        hook.remove()
        for evaluator, before in own.items():
            for way, value in before.items():
                delattr(evaluator, way)  # the class's own shows again
                if value is not None:
                    setattr(evaluator, way, value)


def _counted(
    plain: Callable[..., Tensor], count: Evaluations, event_dim: int, times: int
) -> Callable[..., Tensor]:
    def evaluate(z: Tensor, *more: Any) -> Tensor:
        count.rows += times * z.shape[: z.dim() - event_dim].numel()
        count.calls += 1
        return plain(z, *more)

    return evaluate


class KernelCount(TorchDispatchMode):
    """Counts the operations inside that compute, and what they allocate.

    Backward passes inside are counted too. Views are not: they launch no kernel.

    Attributes:
        kernels: Operations that are not views.
        allocated: Bytes of the new tensors that they made.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kernels = 0
        self.allocated = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.kernels += 1
            made = out if isinstance(out, (tuple, list)) else (out,)
            given = {t.data_ptr() for t in args if isinstance(t, Tensor)}
            self.allocated += sum(
                t.numel() * t.element_size()
                for t in made
                if isinstance(t, Tensor) and t.data_ptr() not in given
            )
        return out
