"""Soft EM with a factorised posterior over the routes of each example."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ...guides.mean_field import MeanFieldGuide
from ...models.checks import check_count
from ..objective import Method, Model, Objective
from ..plan import check_memory
from ..structure import Structure
from ..terms import Terms
from .guided import decisions_of, guide_like


@dataclass(frozen=True)
class MeanField(Method):
    r"""A table q_n(a) = prod_l q_nl(a_l), by coordinate ascent (soft EM).

    .. math::
        q_{nl}(a_l) \propto \exp E_{q_n(a_{\setminus l})} \log p(y_n, a \mid x_n),
        \quad \nabla = \frac1N \sum_n E_{q_n} \nabla \log p(y_n, a \mid x_n)

    At each step the E-step updates the sites of the minibatch's examples in turn, in
    closed form from the table of all routes, and the M-step follows the gradient of the
    expected joint. Both climb the ELBO sum_n E_{q_n} log p(y_n, a | x_n) + H(q_n), of
    which the loss is minus the value after the E-step: its gradient is exact at this q.
    The ELBO stays below the marginal by KL(q || posterior), so that routes which the
    posterior correlates are pulled apart; with one site it is exact EM, whose gradient
    is that of the marginal. Cost: prod M_l evaluations an example, as ``exact``.

    Args:
        n_sweeps: Updates of every site in an E-step.
        memory_limit: Bytes that a step may take; ``None``: what is free.

    References:
        Neal, Hinton 1998, A view of the EM algorithm that justifies incremental,
        sparse, and other variants; Blei, Kucukelbir, McAuliffe 2017, arXiv:1601.00670,
        equation 17.
    """

    n_sweeps: int = 2
    memory_limit: int | None = None

    summary: ClassVar[str] = "a table of route probabilities an example, soft EM"
    wiring: ClassVar[str] = "posterior-guide ELBO, coordinate ascent"
    unbiased_for: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        check_count("n_sweeps", self.n_sweeps)

    def objective(
        self, model: Model, guide: Callable[..., Any] | None, **options: Any
    ) -> Objective:
        """The objective; without a guide, the table is made by ``prepare``."""
        if guide is not None and not isinstance(guide, MeanFieldGuide):
            raise TypeError(
                f"mean-field takes a MeanFieldGuide, got {type(guide).__name__}"
            )
        if guide is None and options["n_data"] is None:
            raise ValueError(
                "mean-field keeps probabilities an example: pass n_data=, their number"
            )
        return _MeanFieldObjective(self, model, guide, **options)


class _MeanFieldObjective(Objective):
    def __init__(
        self,
        method: MeanField,
        model: Model,
        guide: MeanFieldGuide | None,
        *,
        seed: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, seed=seed, **options)
        self.guide = guide
        self._method = method
        self._seed = seed

    def prepare(self, x: Any, y: Any = None, index: Tensor | None = None) -> None:
        """Read the program on an example batch, refuse what is unfit, make the table.

        Raises:
            ValueError: If a site is static, or all routes do not fit into memory.
        """
        super().prepare(x, y, index)
        structure = self._program.structure(*self._arguments(x, y, index))
        if structure.coupled:
            raise ValueError(
                "mean-field keeps a posterior for each example, and a static site "
                "couples the examples: use exact, or amortised"
            )
        check_memory(structure, len(x), self._method.memory_limit)
        if self.guide is None and self.n_data is not None:
            guide = MeanFieldGuide(
                decisions_of(structure), self.n_data, seed=self._seed
            )
            self.guide = guide_like(x, guide)

    def _loss(self, x: Any, y: Any, index: Tensor | None) -> Tensor:
        self.prepare(x, y, index)
        args = self._arguments(x, y, index)
        guide = self.guide
        assert guide is not None
        device = guide.log_probs.device
        rows = (
            torch.arange(len(x), device=device) if index is None else index.to(device)
        )
        joint = joint_table(
            self._program.enumerate(*args), self._program.structure(*args)
        )
        before = [log_q.to(joint) for log_q in guide.rows(rows)]
        log_q = coordinate_ascent(joint.detach(), before, self._method.n_sweeps)
        guide.set_rows(rows, log_q)
        return -factorised_elbo(joint, log_q).mean()


def joint_table(terms: Terms, structure: Structure) -> Float[Tensor, "batch *choices"]:
    """Log p(y, a | x) of an enumerated run: (N, M_0, .., M_{L-1})."""
    joint = terms.likelihood
    for log_p in terms.prior.values():
        joint = joint + log_p
    joint = joint.expand(*reversed(structure.n_choices), joint.shape[-1])
    return joint.permute(*reversed(range(joint.dim())))


def coordinate_ascent(
    joint: Float[Tensor, "batch *choices"],
    log_q: Sequence[Float[Tensor, "batch m"]],
    n_sweeps: int,
) -> list[Float[Tensor, "batch m"]]:
    """Update each site's probabilities in turn, given the others'.

    Where every choice of a site would meet a forbidden route, it is left as it was.

    Args:
        joint: (N, M_0, .., M_{L-1}) log p(y, a | x).
        log_q: For each site (N, M_l) log q to start from.
        n_sweeps: Updates of every site.

    Returns:
        The new log q, site by site. No sweep lowers the ELBO.
    """
    updated = list(log_q)
    for _ in range(n_sweeps):
        for site in range(len(updated)):
            others = [q for k, q in enumerate(updated) if k != site]
            at = [k for k in range(len(updated)) if k != site]
            expected = _expect(joint, others, at)
            possible = (expected > -torch.inf).any(-1, keepdim=True)
            new = expected.masked_fill(~possible, 0.0).log_softmax(-1)
            updated[site] = torch.where(possible, new, updated[site])
    return updated


def factorised_elbo(
    joint: Float[Tensor, "batch *choices"], log_q: Sequence[Float[Tensor, "batch m"]]
) -> Float[Tensor, " batch"]:
    """E_q log p(y, a | x) + H(q), differentiable in the joint."""
    value = _expect(joint, log_q, range(len(log_q)))
    for site in log_q:
        probs = site.exp()
        value = value - torch.where(probs > 0, probs * site, 0.0).sum(-1)
    return value


def _expect(
    joint: Float[Tensor, "batch *choices"],
    log_q: Sequence[Float[Tensor, "batch m"]],
    at: Iterable[int],
) -> Tensor:
    """Average the joint over the sites ``at``, each by its own probabilities."""
    sites = list(at)
    if not sites:
        return joint
    log_weight = torch.zeros((), dtype=joint.dtype, device=joint.device)
    for site, own in zip(sites, log_q, strict=True):
        shape = [1] * joint.dim()
        shape[0], shape[1 + site] = own.shape
        log_weight = log_weight + own.reshape(shape)
    weight = log_weight.exp().expand_as(joint)
    # A route of weight zero counts for nothing, be it forbidden.
    value = weight * torch.where(weight > 0, joint, 0.0)
    return value.sum([1 + site for site in sites])
