"""Regularisers: parts that any method takes, each with a schedule for its weight."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .program import RoutedProgram
from .schedules import Constant, Schedule
from .terms import choice_log_probs

Gather = Callable[[Sequence[Tensor]], list[Tensor]]


class Regulariser(ABC):
    """Something added to an objective, or done to it.

    All but :class:`Tempering` are computed from p(a_l | z_l) along one route drawn from
    the router for each example of the batch: one more run, shared by all of them. Where
    a router sees z_l, that is its distribution given the earlier choices, and the
    gradient goes through these probabilities alone, not through the chance of having
    made those choices. Where it sees x, the probabilities are p(a_l | x) themselves and
    values and gradients are exact for the batch. Values are summed over sites, in nats.
    A static site is one example.
    """

    def __post_init__(self) -> None:
        for option in fields(self):  # type: ignore[arg-type]
            value = getattr(self, option.name)
            if option.type in ("Schedule", Schedule) and not isinstance(
                value, Schedule
            ):
                raise TypeError(
                    f"{option.name} must be a schedule such as Constant(0.01), got "
                    f"{value!r}"
                )

    @abstractmethod
    def bonus(
        self, log_probs: Sequence[Float[Tensor, "examples _"]], step: int
    ) -> Float[Tensor, ""]:
        """What is added to the objective (taken from the loss) at a step.

        Args:
            log_probs: (N, M_l) of each site, log p(a_l | z_l).
            step: Counts from 0.
        """

    def likelihood_scale(self, step: int) -> float:
        """What every log-likelihood is multiplied by at a step."""
        return 1.0


@dataclass(frozen=True)
class StateEntropy(Regulariser):
    """A bonus on H(A | X): keeps the router undecided, as in A3C and IMPALA.

    The value estimates sum_l H(A_l | A_<l, X) = H(A | X), without bias; where routers
    see z_l its terms are not the h_a of the diagnostics, H(A_l | X). A negative weight
    makes the router certain.

    Args:
        weight: Of the entropy in nats.

    References:
        Mnih et al. 2016, arXiv:1602.01783, section 4.
    """

    weight: Schedule = field(default_factory=lambda: Constant(0.01))

    def bonus(self, log_probs: Sequence[Tensor], step: int) -> Tensor:
        """weight x sum_l mean_n H[p(a_l | z_l)]."""
        return self.weight(step) * _total(state_entropy(each) for each in log_probs)


@dataclass(frozen=True)
class MarginalEntropy(Regulariser):
    """A bonus on H(A_l): balances the use of modules, whatever the certainty.

    H of the batch's mean probabilities: biased low in small batches (Jensen). The sum
    over sites bounds the joint H(A) from above.

    Args:
        weight: Of the entropy in nats.
    """

    weight: Schedule = field(default_factory=lambda: Constant(0.1))

    def bonus(self, log_probs: Sequence[Tensor], step: int) -> Tensor:
        """weight x sum_l H[mean_n p(a_l | z_l)]."""
        return self.weight(step) * _total(marginal_entropy(each) for each in log_probs)


@dataclass(frozen=True)
class MutualInformation(Regulariser):
    """A bonus on H(A_l) - H(A_l | A_<l, X): balanced use by a certain router.

    For routers that see x it is I(A_l; X), by the plug-in estimate over the batch:
    biased low, at most log N. The sum over sites bounds nothing. It lowers H(A | X),
    where :class:`StateEntropy` raises it.

    Args:
        weight: Of the information in nats.
    """

    weight: Schedule = field(default_factory=lambda: Constant(0.1))

    def bonus(self, log_probs: Sequence[Tensor], step: int) -> Tensor:
        """weight x sum_l (H[mean_n p(a_l | z_l)] - mean_n H[p(a_l | z_l)])."""
        information = (marginal_entropy(p) - state_entropy(p) for p in log_probs)
        return self.weight(step) * _total(information)


@dataclass(frozen=True)
class LoadBalancing(Regulariser):
    """A penalty on uneven use: the squared coefficient of variation of importance.

    Args:
        weight: Of the penalty.

    References:
        Shazeer et al. 2017, arXiv:1701.06538, equations 6 and 7; there the importance
        is of top-k gates, here of the router's probabilities.
    """

    weight: Schedule = field(default_factory=lambda: Constant(0.1))

    def bonus(self, log_probs: Sequence[Tensor], step: int) -> Tensor:
        """- weight x sum_l CV(sum_n p(a_l | z_l))^2."""
        importance = (each.exp().sum(0) for each in log_probs)
        return -self.weight(step) * _total(map(squared_variation, importance))


@dataclass(frozen=True)
class Tempering(Regulariser):
    """Multiplies every log-likelihood by a number: annealing.

    From below 1, modules are shared out before the data decides; the loss is that of
    the tempered model. For the router-as-guide ELBO, whose KL term is zero, it is the
    gradient's scale and changes little under Adam.

    Args:
        scale: The number; end it at 1 to end with the model itself.
    """

    scale: Schedule = field(default_factory=lambda: Constant(1.0))

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.scale(0), self.scale(sys.maxsize)) < 0:  # schedules are monotone
            raise ValueError(f"scale must be >= 0 at every step, got {self.scale}")

    def bonus(self, log_probs: Sequence[Tensor], step: int) -> Tensor:
        """Zero: tempering changes the likelihood itself."""
        return torch.zeros(())

    def likelihood_scale(self, step: int) -> float:
        """The number at a step."""
        return self.scale(step)


REGULARISERS: Mapping[str, Regulariser] = {
    "state-entropy": StateEntropy(),
    "marginal-entropy": MarginalEntropy(),
    "mutual-information": MutualInformation(),
    "load-balancing": LoadBalancing(),
    "tempering": Tempering(),
}


def state_entropy(log_probs: Float[Tensor, "examples m"]) -> Float[Tensor, ""]:
    """mean_n H[p_n] from log-probabilities; 0 log 0 is 0, and has no gradient."""
    finite = log_probs.masked_fill(torch.isneginf(log_probs), 0.0)
    return -(log_probs.exp() * finite).sum(-1).mean()


def marginal_entropy(log_probs: Float[Tensor, "examples m"]) -> Float[Tensor, ""]:
    """H[mean_n p_n]."""
    mean = log_probs.exp().mean(0)
    # Nobody's choice has no gradient: that of -p log p is infinite there.
    return -(mean * mean.clamp_min(torch.finfo(mean.dtype).tiny).log()).sum()


def squared_variation(use: Float[Tensor, " m"]) -> Float[Tensor, ""]:
    """The squared coefficient of variation: variance over squared mean (of M)."""
    mean = use.mean()
    return (use - mean).square().mean() / mean.square()


def penalty(
    program: RoutedProgram,
    args: tuple[Any, ...],
    regularisers: Sequence[Regulariser],
    step: int,
    gather: Gather = list,
) -> Float[Tensor, ""]:
    """What regularisers add to the loss.

    Cost: one run of the program on one sampled route an example.

    Args:
        program: The program.
        args: Its arguments.
        regularisers: The parts.
        step: Counts from 0.
        gather: Brings the sites' (N, M_l) log-probabilities of the whole batch together
            where these examples are a part of it.
    """
    parts = [r for r in regularisers if not isinstance(r, Tempering)]
    if not parts:
        return torch.zeros(())
    structure = program.structure(*args)
    terms = program.sample(*args, n_samples=1)
    log_probs = [
        choice_log_probs(terms.sites[site.name], structure.nesting).flatten(0, -2)
        for site in structure.sites
    ]
    if not log_probs:
        raise ValueError("every routing site is given: there is nothing to regularise")
    whole = gather(log_probs)
    return -_total(part.bonus(whole, step) for part in parts)


def _total(values: Any) -> Tensor:
    return torch.stack(list(values)).sum()
