"""Draws of a model's weights: what a chain or a guide over the weights gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Shaped
from torch import Tensor

from ..guides.weights import weights_at
from ..models.checks import check_count


@dataclass(frozen=True, eq=False)
class WeightDraws:
    r"""Draws of the trained tensors of a model, by chain.

    Args:
        parameters: The model's own tensors, by identity: what the draws are of.
        names: A name of each: the module's own, or ``parameter_0`` ...
        values: The draws of each, (chain, draw, \*shape of the tensor).
        stats: What is known of each draw, (chain, draw), under ArviZ's names:
            ``lp``, ``diverging``, ``acceptance_rate``, ``n_steps``, ``tree_depth``.

    Raises:
        ValueError: If the shapes or numbers do not agree.

    Example:
        >>> w = torch.zeros(3)
        >>> draws = WeightDraws((w,), ("w",), (torch.ones(4, 10, 3),))
        >>> draws.n_chains, draws.n_draws, draws.thin(5).n_draws
        (4, 10, 5)
        >>> with draws.at(0, 9):
        ...     w.sum().item()
        3.0
        >>> w.sum().item()
        0.0
    """

    parameters: tuple[Tensor, ...]
    names: tuple[str, ...]
    values: tuple[Shaped[Tensor, "chains draws *shape"], ...]
    stats: Mapping[str, Shaped[Tensor, "chains draws"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = [len(part) for part in (self.parameters, self.names, self.values)]
        if not lengths[0] or len(set(lengths)) > 1:
            raise ValueError(
                "parameters, names and values must be as many, at least one, got "
                f"{lengths[0]}, {lengths[1]} and {lengths[2]}"
            )
        lead = tuple(self.values[0].shape[:2])
        named = dict(zip(self.names, self.values, strict=True))
        shapes = dict(zip(self.names, (p.shape for p in self.parameters), strict=True))
        for name, value in {**named, **self.stats}.items():
            expected = (*lead, *shapes.get(name, ()))
            if tuple(value.shape) != expected or len(lead) < 2:
                raise ValueError(
                    f"{name} must have shape {expected}, chains and draws first, got "
                    f"{tuple(value.shape)}"
                )

    @property
    def n_chains(self) -> int:
        """How many chains there are."""
        return self.values[0].shape[0]

    @property
    def n_draws(self) -> int:
        """How many draws each chain has."""
        return self.values[0].shape[1]

    @contextmanager
    def at(self, chain: int, draw: int) -> Iterator[None]:
        """One draw in the place of the model's weights, inside ``with``."""
        with weights_at(self.parameters, [value[chain, draw] for value in self.values]):
            yield

    def thin(self, n_draws: int) -> WeightDraws:
        """At most so many draws of each chain, evenly spaced; the last one is kept."""
        check_count("n_draws", n_draws)
        if n_draws >= self.n_draws:
            return self
        kept = (torch.arange(1, n_draws + 1) * self.n_draws) // n_draws - 1
        return replace(
            self,
            values=tuple(value[:, kept.to(value.device)] for value in self.values),
            stats={
                name: stat[:, kept.to(stat.device)] for name, stat in self.stats.items()
            },
        )
