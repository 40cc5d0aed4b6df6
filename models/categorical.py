"""The categorical distribution of routers and heads."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

_ONE = torch.Size()  # one draw of each
_NARROW = (torch.bfloat16, torch.float16)
# float32 numbers in a register: of fewer, torch's softmax takes one at a time.
_WIDTH = 16 if "512" in torch.backends.cpu.get_cpu_capability() else 8


def single(parameter: Tensor) -> Tensor:
    """A distribution's parameter in float32 where it is narrower, as under autocast."""
    return parameter.float() if parameter.dtype in _NARROW else parameter


class Categorical(dist.Categorical):
    """Pyro's Categorical of logits, made in a third of the time.

    Normalised by one fused log_softmax, and without torch's checks of parameters and
    values, which on a small network take as long as the network: routers and heads give
    logits of the right shape, and heads check y themselves. Of logits in bfloat16 the
    log-probabilities are float32.

    Log-probabilities are kept with the choices last or, as :func:`categorical_of` makes
    them, first: the log-probabilities of an enumerated site are then the table itself.

    Args:
        logits: Unnormalised log-probabilities, choices last.
    """

    def __init__(self, logits: Float[Tensor, "*batch choices"]) -> None:
        normalised = single(logits).log_softmax(-1)
        self._set(normalised, normalised, -1)

    @classmethod
    def choices_first(cls, logits: Float[Tensor, "choices *batch"]) -> Categorical:
        """Of logits whose choices stand first."""
        normalised = single(logits).log_softmax(0)
        return cls._of(normalised, normalised, 0)

    @classmethod
    def _of(cls, table: Tensor, distinct: Tensor, axis: int) -> Categorical:
        """Of normalised log-probabilities."""
        new = cls.__new__(cls)
        new._set(table, distinct, axis)
        return new

    def _set(self, table: Tensor, distinct: Tensor, axis: int) -> None:
        self._table = table
        self._distinct = distinct  # the same before it was expanded
        self._axis = axis  # of the choices: the first or the last
        shape = table.shape
        self._num_events = shape[axis]
        batch = shape[:-1] if axis else shape[1:]
        Distribution.__init__(self, batch, validate_args=False)

    @property
    def logits(self) -> Float[Tensor, "*batch choices"]:
        """Normalised log-probabilities."""
        return self._table if self._axis else self._table.movedim(0, -1)

    _param = logits

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All choices, (choices, *batch) or, not expanded, (choices, 1, ..)."""
        values = torch.arange(self._num_events, device=self._table.device)
        values = values.view(-1, *(1,) * len(self._batch_shape))
        if expand:
            return values.expand(-1, *self._batch_shape)
        values._pyro_categorical_support = id(self)  # type: ignore[attr-defined]
        return values

    def expand(self, batch_shape: Any, _instance: Any = None) -> Categorical:
        """The same distribution, of another batch shape."""
        if tuple(batch_shape) == self.batch_shape:  # a plate asks at each statement
            return self
        return self._of(self._wide(torch.Size(batch_shape)), self._distinct, self._axis)

    def after(self, n: int) -> Categorical:
        """The same without the first n of its leftmost batch dimension."""
        table = self._table[n:] if self._axis else self._table[:, n:]
        return self._of(table, table, self._axis)

    def _wide(self, batch: torch.Size) -> Tensor:
        """The table expanded to another batch shape."""
        if self._axis:
            return self._table.expand(*batch, self._num_events)
        more = len(batch) - len(self.batch_shape)
        table = self._spread(more) if more > 0 else self._table
        return table.expand(self._num_events, *batch)

    def _spread(self, n: int) -> Tensor:
        """(choices, *batch) with n dimensions of size 1 in between."""
        table = self._table.movedim(-1, 0) if self._axis else self._table
        return table.reshape(len(table), *(1,) * n, *self.batch_shape) if n else table

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probabilities of choices, whose shape broadcasts with the batch."""
        shape, batch, table = value.shape, self._batch_shape, self._table
        if shape != batch:
            more = len(shape) - len(batch)
            if more > 0 and _marked(value) == id(self) and shape[0] == self._num_events:
                return self._spread(more - 1)  # every choice, on a dimension of its own
            if more > 0 and shape[more:] == batch:
                if self._axis == 0 and more == len(batch) == 1:
                    return table.gather(0, value.long())  # without expanding it
                table = self._wide(shape)
            elif more <= 0 and shape and shape == batch[-more:]:
                value = value.expand(batch)
            else:  # Pyro's, which broadcasts any
                found: Tensor = super().log_prob(value)  # type: ignore[no-untyped-call]
                return found
        at = value.long().unsqueeze(self._axis)
        return table.gather(self._axis, at).squeeze(self._axis)

    def sample(self, sample_shape: Any = _ONE) -> Tensor:
        """Draw choices by inverting the cumulative probabilities.

        One random number a draw, where ``torch.multinomial`` takes one a choice: a
        fifth to a tenth of its time. A choice of probability zero is never drawn;
        probabilities are rounded to multiples of 2^-24 in float32.
        """
        return self.draw(self._extended_shape(sample_shape))

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """Draw choices of a shape with which the batch broadcasts."""
        table, axis = self._distinct.detach(), self._axis
        cumulative = table.exp().cumsum(axis)
        total = cumulative.select(axis, -1)
        # u < 1 leaves u total < total after rounding, so the last choice is M - 1
        at = torch.rand(shape, dtype=table.dtype, device=table.device).mul_(total)
        if axis:
            at = at.unsqueeze(-1)
        elif more := len(shape) - total.dim():
            ones = (1,) * more
            cumulative = cumulative.view(self._num_events, *ones, *total.shape)
        return (cumulative <= at).sum(axis)


def categorical_of(
    linear: nn.Linear, z: Float[Tensor, "*batch features"]
) -> Categorical:
    """Categorical(linear(z)), the choices first in memory where they are few.

    Softmax, gather and their gradients then run along the examples, which are many, a
    register of them at a time: at five choices, in a fifth to a third of the time.
    """
    few = linear.out_features < _WIDTH and z.device.type == "cpu"
    if not few or type(linear) is not nn.Linear or hooked(linear):
        return Categorical(linear(z))
    rows = z if z.dim() == 2 else z.reshape(-1, z.shape[-1])
    if linear.bias is None:
        table = linear.weight @ rows.t()
    else:
        table = torch.addmm(linear.bias.unsqueeze(-1), linear.weight, rows.t())
    if rows is not z:
        table = table.view(linear.out_features, *z.shape[:-1])
    return Categorical.choices_first(table)


def hooked(module: nn.Module) -> bool:
    """Whether something of its own happens where the module is called."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _marked(value: Tensor) -> int | None:
    """Of which distribution a value lists all choices, as Pyro says it."""
    return getattr(value, "_pyro_categorical_support", None)
