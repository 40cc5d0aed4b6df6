"""Draws of the weights from their posterior, with the routes summed out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from ...guides.weights import NormalPrior, Prior, weights_at
from ...models.checks import check_choice, check_count
from ..chunks import marginal_loss
from ..evaluate import evaluation_mode
from ..objective import Method, Model, Objective
from ..plan import MemoryLimit
from ..random import RandomStream
from ..regularisers import penalty
from ..sampler import Sampler
from ..weight_draws import WeightDraws
from .chain import Chain
from .kept_draws import KeptDraws

Start = Literal["prior", "model"]


@dataclass(frozen=True)
class NUTS(Method):
    r"""Hamiltonian Monte Carlo over the weights of a small model, routes summed out.

    .. math::
        U(w) = -\log p(w) - \sum_n \log \sum_a p(y_n \mid x_n, a, w)\, p(a \mid x_n, w)

    The no-U-turn sampler draws w from exp(-U), the posterior of the weights, on all the
    data. A training step is one transition of every chain: the first ``warmup`` adapt
    step size and a diagonal mass matrix, the later ones are draws. As a loss it is
    U / N; its draws have the posterior as their limit, whatever the modules' labels: a
    chain may stay in one of their permutations. The trained model holds the last state
    of the first chain. Cost: a transition of a chain takes at most 2^max_tree_depth - 1
    gradients over all data, each with all routes enumerated, as ``exact``.

    Args:
        n_chains: Independent chains, one after the other in each step.
        warmup: Transitions before the first draw; ``None``: half of the steps. A run
            resumed for more steps keeps the warm-up that it began with.
        prior: Of every weight, by default Normal(0, 1):
            :class:`~latentroute.guides.NormalPrior` or
            :class:`~latentroute.guides.LaplacePrior`.
        start: Where chains start: ``"prior"``, each at a draw of its own, or
            ``"model"``, all at the weights that the model has.
        target_accept: Acceptance rate that the step size is adapted to, in (0, 1).
        max_tree_depth: Doublings of a trajectory, at most.
        max_draws: Draws kept of each chain, at most, at least 2: beyond it every second
            one is dropped, and from then on every second one kept.
        max_weights: Weights that a model may have.
        memory_limit: Bytes that a gradient may take; ``None``: what is free.

    References:
        Hoffman and Gelman 2014, arXiv:1111.4246; Betancourt 2017, arXiv:1701.02434.
    """

    n_chains: int = 2
    warmup: int | None = None
    prior: Prior = field(default_factory=NormalPrior)
    start: Start = "prior"
    target_accept: float = 0.8
    max_tree_depth: int = 6
    max_draws: int = 1000
    max_weights: int = 2000
    memory_limit: int | None = None

    summary: ClassVar[str] = "chains of draws of the weights, every route enumerated"
    wiring: ClassVar[str] = "posterior of the weights under the marginal likelihood"
    unbiased_for: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        for name in ("n_chains", "max_tree_depth", "max_weights"):
            check_count(name, getattr(self, name))
        check_count("max_draws", self.max_draws, least=2)
        if self.warmup is not None:
            check_count("warmup", self.warmup)
        check_choice("start", self.start, get_args(Start))
        if not isinstance(self.prior, Prior):
            raise TypeError(
                f"prior must be a Prior such as NormalPrior(), got {self.prior!r}"
            )
        if not 0 < self.target_accept < 1:
            raise ValueError(
                f"target_accept must lie between 0 and 1, got {self.target_accept}"
            )

    def check_steps(self, n_steps: int) -> None:
        """Refuse a run that would end before the first draw."""
        if self.warmup is not None and n_steps <= self.warmup:
            raise ValueError(
                f"nuts makes no draw in {n_steps} steps, of which {self.warmup} are "
                "warm-up: take more steps, or a smaller warmup"
            )

    def objective(
        self, model: Model, guide: Callable[..., Any] | None, **options: Any
    ) -> Objective:
        """The objective; it takes no guide, all routes being summed out."""
        if guide is not None:
            raise ValueError("nuts takes no guide: the routes are summed out")
        return _NUTSObjective(self, model, **options)


class _NUTSObjective(Sampler):
    def __init__(self, method: NUTS, model: Model, **options: Any) -> None:
        super().__init__(model, **options)
        self._method = method
        self._weights = self._named_weights()
        self._check_size()
        self._warmup = 0
        self._chains: list[Chain] = []
        self._saved: list[dict[str, Any]] = []  # states of chains not yet made
        self._draws = KeptDraws(method.max_draws)
        self._args: tuple[Any, ...] = ()
        self._memory_limit = MemoryLimit(method.memory_limit)

    def _check_size(self) -> None:
        n_weights = sum(weight.numel() for weight in self._weights.values())
        if not n_weights:
            raise ValueError(
                "nuts draws the trained weights, and there are none: pass the tensors "
                "to train, with requires_grad"
            )
        if n_weights > self._method.max_weights:
            raise ValueError(
                f"nuts is for small models: this one has {n_weights:,} weights, and "
                f"max_weights is {self._method.max_weights:,}; take fewer "
                "hidden_features or modules, svi-bayes, or raise max_weights"
            )

    def _loss(self, x: Any, y: Any, index: Tensor | None) -> Tensor:
        scale = self._data_scale(len(x))
        misfit = self._misfit(self._arguments(x, y, index), scale)
        parts = [self._log_prior(weight) for weight in self._weights.values()]
        return misfit - torch.stack(parts).sum() / (len(x) * scale)

    def _misfit(self, args: tuple[Any, ...], data_scale: float) -> Tensor:
        """Minus the mean log p(y | x, w) at the weights as they are."""
        return marginal_loss(self._program, args, data_scale, self._memory_limit())

    def _log_prior(self, weights: Tensor) -> Float[Tensor, ""]:
        return self._method.prior.distribution(weights).log_prob(weights).sum()

    def potential(self, flat: Float[Tensor, " weights"]) -> Float[Tensor, ""]:
        """U at weights in a row, differentiable once.

        Minus log p(y, w | x) of all the data, and N times what regularisers add, at one
        forward and backward pass.
        """
        parameters, n_data = list(self._weights.values()), len(self._args[0])
        with weights_at(parameters, self._split(flat)):
            energy = n_data * (self._misfit(self._args, 1.0) + self._penalty())
            found = torch.autograd.grad(energy, parameters, materialize_grads=True)
        gradient = torch.cat([part.flatten() for part in found])
        # The energy's value, and its gradient: that at the parameters, carried over.
        carried = energy.detach() + gradient @ (flat - flat.detach())
        return carried - self._log_prior(flat)

    def _penalty(self) -> Tensor | float:
        """What regularisers add; with the same random numbers at any weights."""
        if not self._regularisers:
            return 0.0
        with RandomStream(0)():
            return penalty(self._program, self._args, self._regularisers, self.step)

    def begin(self, n_steps: int) -> None:
        """Fix the warm-up, unless a resumed run has its own."""
        if not self._saved:
            warmup = self._method.warmup
            self._warmup = n_steps // 2 if warmup is None else warmup

    def advance(self, x: Any, y: Any = None, index: Tensor | None = None) -> float:
        """One transition of every chain; the loss is U / N, their mean."""
        self._args = self._arguments(x, y, index)
        self._temper()
        with evaluation_mode(self._program.model):
            if not self._chains:
                self._make_chains()
            if self._regularisers:
                for chain in self._chains:
                    chain.refresh()
            transitions = [chain.step() for chain in self._chains]
        self.step += 1
        if self.step > self._warmup:
            self._draws.add(transitions)
        with torch.no_grad():
            first = self._split(transitions[0].weights)
            for weight, value in zip(self._weights.values(), first, strict=True):
                weight.copy_(value)
        return -sum(t.lp for t in transitions) / len(transitions) / len(x)

    def _make_chains(self) -> None:
        saved: list[dict[str, Any] | None] = [*self._saved]
        saved = saved or [None] * self._method.n_chains
        with self._stream():
            seeds = [0 if s else int(torch.randint(2**62, ())) for s in saved]
        for seed, state in zip(seeds, saved, strict=True):
            stream = RandomStream(seed)
            chain = Chain(
                self.potential,
                self._start(stream, resumed=state is not None),
                warmup=self._warmup,
                target_accept=self._method.target_accept,
                max_tree_depth=self._method.max_tree_depth,
                stream=stream,
            )
            if state is not None:
                chain.load(state)
            self._chains.append(chain)
        self._saved = []

    def _start(self, stream: RandomStream, *, resumed: bool) -> Tensor:
        """(D,) where a chain starts; of a resumed one, any good place."""
        weights = [weight.detach() for weight in self._weights.values()]
        if self._method.start == "prior" and not resumed:
            prior = self._method.prior
            with stream():
                weights = [prior.distribution(w).sample(w.shape) for w in weights]
        return torch.cat([weight.flatten() for weight in weights])

    def _split(self, flat: Float[Tensor, "*lead weights"]) -> list[Tensor]:
        """Weights in a row as tensors of the model's own shapes."""
        own = list(self._weights.values())
        parts = flat.split([weight.numel() for weight in own], dim=-1)
        return [
            part.to(weight).reshape((*flat.shape[:-1], *weight.shape))
            for part, weight in zip(parts, own, strict=True)
        ]

    def weight_draws(
        self, n_draws: int | None = None, *, seed: int = 0
    ) -> WeightDraws | None:
        """The draws kept, thinned to ``n_draws`` a chain; ``None`` before the first."""
        if not len(self._draws):
            return None
        draws = WeightDraws(
            parameters=tuple(self._weights.values()),
            names=tuple(self._weights),
            values=tuple(self._split(self._draws.weights)),
            stats=self._draws.stats,
        )
        return draws if n_draws is None else draws.thin(n_draws)

    def get_extra_state(self) -> dict[str, Any]:
        """Step, streams, the chains as they are and their draws, for a checkpoint."""
        return {
            **super().get_extra_state(),
            "warmup": self._warmup,
            "chains": self._saved or [chain.state() for chain in self._chains],
            "draws": self._draws.state(),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take up what a checkpoint holds; chains are made again at the next step."""
        super().set_extra_state(state)
        self._warmup, self._saved, self._chains = state["warmup"], state["chains"], []
        self._draws.load(state["draws"])
