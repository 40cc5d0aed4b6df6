"""Sparse routers, summed over their support alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ...models.checks import check_choice
from ...models.sparse import Mapping, SparseRouting
from ..exact import expected_likelihood
from ..objective import Method, Model, Objective
from ..plan import check_memory, free_memory
from ..program import RoutedProgram
from ..structure import Structure, untouched_randomness
from ..tables import logsumexp, sum_routes
from .relaxation import check_no_guide

Target = Literal["marginal", "router-elbo"]


@dataclass(frozen=True)
class Sparsemax(Method):
    r"""Marginal likelihood of the model with sparsemax routers.

    .. math::
        \log \sum_{a \in \mathrm{supp}} p(a \mid x)\, p(y \mid x, a), \quad
        p(a_l \mid z_l) = \mathrm{sparsemax}(s_l)
        = \mathrm{argmin}_{p \in \Delta} \lVert p - s_l \rVert^2

    with s_l the router's scores. Exact, and of another model: most routes have a
    probability of exactly zero, so those of the support alone are evaluated. The
    program that is trained, and that ``fit`` and ``compare`` evaluate, is
    :class:`~latentroute.models.SparseRouting` of the model: ``Fit.evaluated``. A module
    that nobody's support holds gets no gradient. Cost: the largest support of the batch
    in evaluations an example (all routes, where the scores are nearly equal, as at the
    start), and a run without gradients up to each site to find it. Where a site is
    static, all routes.

    Args:
        target: ``"marginal"``, or ``"router-elbo"``: E_{p(a|x)} log p(y | x, a), which
            is what Correia et al. train.

    References:
        Martins, Astudillo 2016, arXiv:1602.02068, equation 2; Correia, Niculae, Aziz,
        Martins 2020, arXiv:2007.01919, section 3.
    """

    target: Target = "marginal"

    summary: ClassVar[str] = "sparse routers, summed over their support: another model"
    wiring: ClassVar[str] = "marginal likelihood of sparse routers"
    unbiased_for: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        check_choice("target", self.target, get_args(Target))

    def objective(
        self, model: Model, guide: Callable[..., Any] | None, **options: Any
    ) -> Objective:
        """The objective of the model; it takes no guide."""
        check_no_guide("sparsemax", guide)
        return _SparseObjective(
            model,
            "sparsemax",
            self.target,
            **options,
        )


@dataclass(frozen=True)
class Entmax15(Method):
    r"""Marginal likelihood of the model with 1.5-entmax routers.

    As :class:`Sparsemax`, with

    .. math::
        p(a_l \mid z_l) = \mathrm{argmax}_{p \in \Delta}\; p \cdot s_l
        + \tfrac43 \sum_m (p_m - p_m^{3/2})

    between the softmax and sparsemax: a larger support, and no kinks in the gradient.

    Args:
        target: ``"marginal"``, or ``"router-elbo"``.

    References:
        Peters, Niculae, Martins 2019, arXiv:1905.05702, equation 10.
    """

    target: Target = "marginal"

    summary: ClassVar[str] = "1.5-entmax routers, summed likewise: another model"
    wiring: ClassVar[str] = "marginal likelihood of sparse routers"
    unbiased_for: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        check_choice("target", self.target, get_args(Target))

    def objective(
        self, model: Model, guide: Callable[..., Any] | None, **options: Any
    ) -> Objective:
        """The objective of the model; it takes no guide."""
        check_no_guide("entmax15", guide)
        return _SparseObjective(
            model,
            "entmax15",
            self.target,
            **options,
        )


class _SparseObjective(Objective):
    def __init__(
        self, model: Model, mapping: Mapping, target: Target, **options: Any
    ) -> None:
        super().__init__(model, **options)
        self._mapping: Mapping = mapping
        self._target = target

    def prepare(self, x: Any, y: Any = None, index: Tensor | None = None) -> None:
        """Read the program on an example batch, and make its routers sparse."""
        super().prepare(x, y, index)
        if isinstance(self._program.model, SparseRouting):
            return
        args = self._arguments(x, y, index)
        structure, scale = (
            self._program.structure(*args),
            self._program.likelihood_scale,
        )
        if not structure.sites:
            raise ValueError("every routing site is given: no router can be sparse")
        sparse = SparseRouting(
            self._program.model, self._mapping, sites=structure.names
        )
        with torch.no_grad(), untouched_randomness():
            sparse(*args)  # shows at once what cannot be sparse
        self._program = RoutedProgram(sparse, structure)
        self._program.likelihood_scale = scale

    def _loss(self, x: Any, y: Any, index: Tensor | None) -> Tensor:
        self.prepare(x, y, index)
        args = self._arguments(x, y, index)
        structure = self._program.structure(*args)
        if structure.coupled:
            return self._static_loss(args, structure)
        found = support(self._program, args, structure)
        terms = self._program.given(*args, routes=found.routes)
        log_prior = torch.stack([terms.prior[name] for name in structure.names]).sum(0)
        log_prior = log_prior.masked_fill(~found.is_in, -torch.inf)
        if self._target == "router-elbo":
            return -(log_prior.exp() * terms.likelihood).sum(0).mean()
        return -logsumexp(terms.likelihood + log_prior, 0).mean()

    def _static_loss(self, args: tuple[Any, ...], structure: Structure) -> Tensor:
        n = len(args[0])
        scale = self._data_scale(n)
        check_memory(structure, n)
        terms = self._program.enumerate(*args)
        if self._target == "router-elbo":
            return -expected_likelihood(terms, scale * n).mean()
        return -sum_routes(terms, structure, data_scale=scale) / (scale * n)


class Support(NamedTuple):
    """The routes of an example that have a probability above zero.

    Attributes:
        routes: (C, N, L), C the largest support of the batch; smaller ones are padded
            with their first route.
        is_in: (C, N) which are no padding.
    """

    routes: Int[Tensor, "paths examples sites"]
    is_in: Bool[Tensor, "paths examples"]


@torch.no_grad()
def support(
    program: RoutedProgram, args: tuple[Any, ...], structure: Structure
) -> Support:
    """Find the support site by site, each from those before it.

    Raises:
        ValueError: If evaluating it would not fit into memory.
    """
    n, device = len(args[0]), args[0].device
    routes = torch.zeros(1, n, 0, dtype=torch.long, device=device)
    is_in = torch.ones(1, n, dtype=torch.bool, device=device)
    for site in structure.sites:
        log_probs = program.peek(*args, routes=routes)  # (C, N, M)
        found = is_in.unsqueeze(-1) & ~torch.isneginf(log_probs)
        routes, is_in = _extend(routes, found)
        _check_fits(len(routes), n, structure, site.name)
    return Support(routes, is_in)


def _extend(
    routes: Int[Tensor, "paths examples sites"],
    found: Bool[Tensor, "paths examples m"],
) -> tuple[Tensor, Tensor]:
    """The paths with one choice more, those in the support first."""
    m = found.shape[-1]
    found = found.movedim(-1, 1).flatten(0, 1)  # (C * M, N)
    width = int(found.sum(0).max())
    order = found.int().argsort(dim=0, descending=True, stable=True)[:width]
    path = (order // m).unsqueeze(-1).expand(-1, -1, routes.shape[-1])
    routes = torch.cat([routes.gather(0, path), (order % m).unsqueeze(-1)], -1)
    is_in = found.gather(0, order)
    return torch.where(is_in.unsqueeze(-1), routes, routes[:1]), is_in


def _check_fits(n_routes: int, n: int, structure: Structure, name: str) -> None:
    needed = n_routes * sum(structure.stage_bytes) * n // structure.n_examples
    if needed > free_memory():
        raise ValueError(
            f"up to site {name!r} the support has {n_routes:,} routes an example, "
            f"about {needed / 2**30:,.1f} GiB for {n:,} examples: take fewer at "
            "once, or a method that samples, such as score-function"
        )
