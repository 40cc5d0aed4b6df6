"""One chain of Hamiltonian Monte Carlo, by Pyro's kernel, that can be saved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import torch
from jaxtyping import Float
from pyro.infer.mcmc import NUTS as Kernel
from pyro.ops.integrator import potential_grad
from torch import Tensor

from ..random import RandomStream

_SITE = "w"  # the one latent that the kernel sees: all weights in a row


class Transition(NamedTuple):
    """Where a transition ends, and how it went; names of the numbers as ArviZ's.

    Attributes:
        weights: (D,) the draw.
        lp: The log density there, up to a constant.
        diverging: Whether the trajectory broke off; not told during warm-up.
        acceptance_rate: Mean over the trajectory.
        n_steps: Leapfrog steps, each one gradient.
        tree_depth: Doublings of the trajectory.
    """

    weights: Float[Tensor, " weights"]
    lp: float
    diverging: bool
    acceptance_rate: float
    n_steps: int
    tree_depth: int


class Chain:
    """One NUTS chain over a vector of unconstrained numbers.

    Step size by dual averaging and a diagonal mass matrix from windows of draws, both
    during warm-up alone, as in Stan. The first gradients, which find a step size, are
    taken at construction.

    Args:
        potential: Minus the log density of a (D,) vector; differentiable.
        start: (D,) where the chain starts.
        warmup: Transitions that adapt.
        target_accept: Acceptance rate that the step size is adapted to.
        max_tree_depth: At most 2^depth - 1 leapfrog steps a transition.
        stream: Where the chain's random numbers come from.

    Raises:
        FloatingPointError: If the density is zero or NaN at the start.

    References:
        Hoffman and Gelman 2014, arXiv:1111.4246 (dual averaging: section 3.2);
        Betancourt 2017, arXiv:1701.02434, appendix A (multinomial trajectories and the
        criterion to stop, as in Pyro).
    """

    def __init__(
        self,
        potential: Callable[[Tensor], Tensor],
        start: Float[Tensor, " weights"],
        *,
        warmup: int,
        target_accept: float,
        max_tree_depth: int,
        stream: RandomStream,
    ) -> None:
        self._potential, self._stream, self._evaluations = potential, stream, 0
        self._kernel: Any = Kernel(
            potential_fn=self._energy,
            target_accept_prob=target_accept,
            max_tree_depth=max_tree_depth,
        )
        self._kernel.initial_params = {_SITE: start.clone()}
        with self._stream(), pyro.validation_enabled(False):
            energy = potential_grad(self._energy, {_SITE: start.clone()})[1]
            if not torch.isfinite(energy):
                raise FloatingPointError(
                    f"minus the log posterior is {energy.item()} where a chain starts: "
                    "try a narrower prior, and look at the model's log-probabilities"
                )
            self._kernel.setup(warmup)

    @property
    def weights(self) -> Float[Tensor, " weights"]:
        """(D,) where the chain is."""
        weights: Tensor = self._kernel._z_last[_SITE]
        return weights

    @property
    def energy(self) -> float:
        """The potential there."""
        return float(self._kernel._potential_energy_last)

    def refresh(self) -> None:
        """Evaluate the potential anew where the chain is, because it has changed."""
        z = {_SITE: self.weights.clone()}
        gradient, energy = potential_grad(self._energy, z)
        self._kernel._cache(z, energy, gradient)

    def step(self) -> Transition:
        """One transition; not validated, a NaN ends the trajectory as a divergence."""
        kernel = self._kernel
        mean, divergences = kernel._mean_accept_prob, len(kernel._divergences)
        self._evaluations = 0
        with self._stream(), pyro.validation_enabled(False):
            kernel.sample(kernel.initial_params)
        t, warmup = kernel._t, kernel._warmup_steps
        n = t if t <= warmup else t - warmup  # the kernel keeps a mean over n
        rate = mean + (kernel._mean_accept_prob - mean) * n
        n_steps = self._evaluations
        return Transition(
            weights=self.weights,
            lp=-self.energy,
            diverging=len(kernel._divergences) > divergences,
            acceptance_rate=min(max(rate, 0.0), 1.0),
            n_steps=n_steps,
            tree_depth=n_steps.bit_length(),
        )

    def state(self) -> dict[str, Any]:
        """What another chain needs to go on bit for bit: numbers and tensors alone."""
        parts = [
            {name: _copy(value) for name, value in vars(part).items() if _plain(value)}
            for part in self._parts()
        ]
        return {"kernel": parts, "stream": self._stream.state}

    def load(self, state: dict[str, Any]) -> None:
        """Take up the state of another chain of the same warm-up."""
        for part, saved in zip(self._parts(), state["kernel"], strict=True):
            vars(part).update(_copy(saved))
        self._stream.state = state["stream"]

    def _parts(self) -> list[Any]:
        """The kernel and the parts of it that change as it adapts."""
        adapter = self._kernel._adapter
        masses = adapter.mass_matrix_adapter
        scheme = adapter._step_size_adapt_scheme
        return [self._kernel, adapter, scheme, masses, *masses._adapt_scheme.values()]

    def _energy(self, z: dict[str, Tensor]) -> Tensor:
        self._evaluations += 1
        return self._potential(z[_SITE])


def _plain(value: Any) -> bool:
    """Whether a value is made of numbers, words and tensors alone."""
    if type(value) in (list, tuple):
        return all(map(_plain, value))
    if type(value) is dict:
        return all(map(_plain, (*value.keys(), *value.values())))
    return value is None or isinstance(value, (bool, int, float, str, Tensor))


def _copy(value: Any) -> Any:
    """A copy that shares no tensor."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if type(value) in (list, tuple):
        return type(value)(map(_copy, value))
    if type(value) is dict:
        return {key: _copy(each) for key, each in value.items()}
    return value
