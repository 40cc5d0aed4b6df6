"""The categorical distribution of routers and heads."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

_ONE = torch.Size()  # one draw of each
_NARROW = (torch.bfloat16, torch.float16)


def single(parameter: Tensor) -> Tensor:
    """A distribution's parameter in float32 where it is narrower, as under autocast."""
    return parameter.float() if parameter.dtype in _NARROW else parameter


class Categorical(dist.Categorical):
    """Pyro's Categorical of logits, made in a third of the time.

    Normalised by one fused log_softmax, and without torch's checks of parameters and
    values, which on a small network take as long as the network: routers and heads give
    logits of the right shape, and heads check y themselves. Of logits in bfloat16 the
    log-probabilities are float32.

    Args:
        logits: Unnormalised log-probabilities, choices last.
    """

    def __init__(self, logits: Float[Tensor, "*batch choices"]) -> None:
        normalised = single(logits).log_softmax(-1)
        self._set(normalised, normalised)

    def _set(self, logits: Tensor, distinct: Tensor) -> None:
        self.logits = self._param = logits
        self._distinct = distinct  # the same before it was expanded
        self._num_events = logits.shape[-1]
        Distribution.__init__(self, logits.shape[:-1], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Categorical:
        """The same distribution, of another batch shape."""
        if tuple(batch_shape) == self.batch_shape:  # a plate asks at each statement
            return self
        new = Categorical.__new__(Categorical)
        logits = self.logits.expand(*torch.Size(batch_shape), self._num_events)
        new._set(logits, self._distinct)
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probabilities of choices, whose shape broadcasts with the batch."""
        shape, batch, logits = value.shape, self.batch_shape, self.logits
        if shape != batch:
            if len(shape) > len(batch) and shape[len(shape) - len(batch) :] == batch:
                logits = logits.expand(*shape, self._num_events)
            elif shape and shape == batch[len(batch) - len(shape) :]:
                value = value.expand(batch)
            else:  # Pyro's, which knows an enumerated value, and broadcasts any
                found: Tensor = super().log_prob(value)  # type: ignore[no-untyped-call]
                return found
        return logits.gather(-1, value.long().unsqueeze(-1)).squeeze(-1)

    def sample(self, sample_shape: Any = _ONE) -> Tensor:
        """Draw choices by inverting the cumulative probabilities.

        One random number a draw, where ``torch.multinomial`` takes one a choice: a
        fifth to a tenth of its time. A choice of probability zero is never drawn;
        probabilities are rounded to multiples of 2^-24 in float32.
        """
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            wide = torch.promote_types(self.logits.dtype, torch.float32)
            cumulative = self._distinct.to(wide).exp().cumsum(-1)
            total = cumulative[..., -1:]
            # u < 1 leaves u total < total after rounding, so the last choice is M - 1
            at = total * torch.rand(*shape, 1, dtype=total.dtype, device=total.device)
            return (cumulative <= at).sum(-1)
