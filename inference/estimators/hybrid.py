"""Some sites summed out under a budget, the rest sampled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from ...models.checks import check_choice, check_count
from ..baselines import leave_one_out
from ..exact import expected_likelihood
from ..objective import Method, Model, Objective
from ..plan import EnumerationPlan, asked, check_memory, plan_sites
from ..structure import RouteSite, Structure
from ..tables import eliminate, sum_routes
from ..terms import Terms, choice_log_probs
from .mixed import Weighted, sampled_scores, sum_out, weigh
from .whole import refuse_guide

Sum = Literal["elbo", "marginal"]
Plan = Literal["adaptive", "first"]

_DECAY = 0.9  # of what earlier steps saw


@dataclass(frozen=True)
class Hybrid(Method):
    r"""Enumeration of some sites under a budget, score function for the rest.

    .. math::
        \text{elbo: } E_{s}\Bigl[\sum_e p(e) \log p(y \mid x, e, s)\Bigr], \quad
        \text{marginal: } E_s\Bigl[\log \sum_e p(e)\, p(y \mid x, e, s)\Bigr]

    e runs over the enumerated sites, s over the sampled ones, drawn anew for each
    choice e that they depend on, and compared with the other samples (leave-one-out, at
    least two). ``"elbo"`` is the router ELBO under every plan, and the gradient is
    unbiased for it. ``"marginal"`` is a bound between the ELBO and the marginal that
    depends on which sites are enumerated, so its plan is fixed; unbiased for that
    bound. With all sites in the budget nothing is sampled, and the two are the exact
    ELBO and the exact marginal.
    Cost: at most ``budget`` evaluations of a site's module an example.

    Args:
        budget: Evaluations an example: n plain routes of L sites take n L. ``None``:
            those of four plain routes. All sites are enumerated where it allows it.
        sum: Which objective.
        plan: ``"first"``: as many of the first sites as half the budget allows
            (:func:`plan_enumeration`). ``"adaptive"``, for the ELBO alone: the last
            site is enumerated where earlier steps found the router so undecided that
            it pays, else none: to sum over the first sites spends most evaluations
            on choices that a decided router hardly makes.
    """

    budget: int | None = None
    sum: Sum = "elbo"
    plan: Plan | None = None

    summary: ClassVar[str] = "some sites enumerated under a budget, the rest sampled"

    def __post_init__(self) -> None:
        if self.budget is not None:
            check_count("budget", self.budget)
        check_choice("sum", self.sum, get_args(Sum))
        if self.plan is not None:
            check_choice("plan", self.plan, get_args(Plan))
        if (self.sum, self.plan) == ("marginal", "adaptive"):
            raise ValueError(
                "plan='adaptive' would change the objective of sum='marginal' from "
                "step to step: use plan='first', or sum='elbo'"
            )

    @property
    def wiring(self) -> str:  # type: ignore[override]
        """Which training it is: the sum decides."""
        elbo = self.sum == "elbo"
        return "router-as-guide ELBO" if elbo else "bound of the marginal likelihood"

    @property
    def unbiased_for(self) -> str | None:  # type: ignore[override]
        """What its gradient is that of; the bound depends on what is enumerated."""
        return "elbo" if self.sum == "elbo" else None

    @property
    def adaptive(self) -> bool:
        """Whether the plan follows the router."""
        return self.plan == "adaptive" or (self.plan is None and self.sum == "elbo")

    def objective(
        self, model: Model, guide: Callable[..., Any] | None, **options: Any
    ) -> Objective:
        """The objective; it takes no guide."""
        refuse_guide("hybrid", guide)
        return _HybridObjective(self, model, **options)


class _HybridObjective(Objective):
    spread: Tensor | None

    def __init__(self, method: Hybrid, model: Model, **options: Any) -> None:
        super().__init__(model, **options)
        self._method = method
        self.register_buffer("spread", None)  # (L,) of each site, as it has been

    def prepare(self, x: Any, y: Any = None, index: Tensor | None = None) -> None:
        """Read the program on an example batch.

        Raises:
            ValueError: If the budget is too small, or the bound not defined.
        """
        super().prepare(x, y, index)
        structure = self._program.structure(*self._arguments(x, y, index))
        plan = fixed_plan(structure.sites, self._method.budget)
        exact = "sample" not in plan.values()
        if self._method.sum == "marginal" and structure.coupled and not exact:
            raise ValueError(
                "hybrid with sum='marginal' cannot sample beside static sites, which "
                "couple the examples: use sum='elbo', exact, or a larger budget"
            )
        if self.spread is None:
            device = getattr(x, "device", None)
            self.spread = torch.zeros(len(structure.sites), device=device)

    def _loss(self, x: Any, y: Any, index: Tensor | None) -> Tensor:
        self.prepare(x, y, index)
        args = self._arguments(x, y, index)
        structure = self._program.structure(*args)
        plan = self.plan(structure)
        if "sample" not in plan.values():
            return -self._exact(args, structure, len(x))
        summed = {name for name, how in plan.items() if how == "enumerate"}
        n_samples = _budget(structure.sites, self._method.budget) // plan.evaluations
        if summed:
            terms = self._program.mixed(
                *args, enumerate_sites=summed, n_samples=n_samples
            )
        else:
            terms = self._program.sample(*args, n_samples=n_samples)
        sampled = {k: p for k, p in terms.prior.items() if k not in summed}
        if self._method.sum == "marginal":
            return -sampled_bound(terms, sampled, len(x))
        weighted = weigh(terms, len(x) * self._data_scale(len(x)))
        self._look(weighted, terms, structure)
        static = {site.name for site in structure.static_sites}
        value = sum_out(weighted.weight * weighted.reward, terms.dims.values()).mean()
        return -value - sampled_scores(weighted, sampled, terms.dims, static=static)

    def plan(self, structure: Structure) -> EnumerationPlan:
        """What is enumerated at this step."""
        plan = fixed_plan(structure.sites, self._method.budget)
        if not self._method.adaptive or "sample" not in plan.values():
            return plan
        budget = _budget(structure.sites, self._method.budget)
        assert self.spread is not None
        return adapted_plan(structure.sites, self.spread.tolist(), budget)

    def _exact(self, args: Any, structure: Structure, n: int) -> Tensor:
        """Nothing is sampled."""
        check_memory(structure, n)
        scale = self._data_scale(n)
        terms = self._program.enumerate(*args)
        if self._method.sum == "elbo":
            return expected_likelihood(terms, scale * n).mean()
        value = sum_routes(terms, structure, data_scale=scale)
        return value / (scale * n) if structure.coupled else value.mean()

    @torch.no_grad()
    def _look(self, weighted: Weighted, terms: Terms, structure: Structure) -> None:
        """Keep in mind how undecided the router was at each site."""
        now = []
        for name in structure.names:
            log_p = choice_log_probs(terms.sites[name], structure.nesting)
            undecided = 1 - log_p.exp().square().sum(-1)
            mean = sum_out(weighted.weight * undecided, terms.dims.values()).mean()
            now.append(mean)
        if not now or self.spread is None:
            return
        seen = torch.stack(now).to(self.spread)
        self.spread = (
            seen if not self.spread.any() else self.spread.lerp(seen, 1 - _DECAY)
        )


def fixed_plan(sites: tuple[RouteSite, ...], budget: int | None) -> EnumerationPlan:
    """All sites where the budget allows it, else the first that half of it allows.

    Raises:
        ValueError: If two samples take more than the budget.
    """
    total = _budget(sites, budget)
    everything = EnumerationPlan(sites, ["enumerate"] * len(sites))
    if everything.evaluations <= total and all(s.plan != "sample" for s in sites):
        return everything
    least = 2 * EnumerationPlan(sites, asked(sites)).evaluations
    if total < least:
        raise ValueError(
            f"hybrid's budget must be at least {least} evaluations an example, two "
            f"samples of the sites {[site.name for site in sites]}, got {total}"
        )
    return plan_sites(sites, total // 2)


def adapted_plan(
    sites: tuple[RouteSite, ...], spread: list[float], budget: int
) -> EnumerationPlan:
    """The last site enumerated where that pays, besides what the program asks for.

    Args:
        sites: The program's sites.
        spread: 1 - sum_m p_m^2 of each site, the mean; 0: not known yet.
        budget: Evaluations an example.
    """
    plain = asked(sites)
    free = [i for i, site in enumerate(sites) if site.plan == "auto"]
    without = EnumerationPlan(sites, plain)
    if not free:
        return without
    last = free[-1]
    with_last = EnumerationPlan(sites, [*plain[:last], "enumerate", *plain[last + 1 :]])
    few, many = budget // with_last.evaluations, budget // without.evaluations
    most = 1 - 1 / sites[last].n_choices
    if few < 2 or spread[last] < 0.75 * most or not most:
        return without
    # Reward and score of the last site leave the noise; fewer samples add to it. The
    # limits 0.75 and 1.4 are fitted: docs/methods/hybrid.md measures what they give.
    left = (sum(spread) - spread[last]) / sum(spread)
    pays = left**2 * (many - 1) <= 1.4 * (few - 1)
    return with_last if pays else without


def sampled_bound(
    terms: Terms, sampled: dict[str, Tensor], n: int
) -> Float[Tensor, ""]:
    """The mean of log sum_e p(e) p(y | x, e, s) over samples s, with its gradient.

    Args:
        terms: A mixed run of (*enumerated sites, S, N), all sites dynamic.
        sampled: log p(a_l | z_l) of the sampled sites; what a sample draws for several
            choices e earns in all of them.
        n: Number of examples.
    """
    factors = [terms.likelihood] + [terms.prior[name] for name in terms.dims]
    value = sum(eliminate(factors, terms.dims)).reshape(-1, n)  # type: ignore[union-attr]
    advantage = leave_one_out(value.detach())
    score = value.new_zeros(())
    for log_p in sampled.values():
        drawn = sum_out(log_p - log_p.detach(), range(log_p.dim() - 2))
        score = score + (advantage * drawn).mean()
    return value.mean() + score


def _budget(sites: tuple[RouteSite, ...], budget: int | None) -> int:
    """Evaluations an example; by default of four samples."""
    if budget is not None:
        return budget
    return max(1, 4 * EnumerationPlan(sites, asked(sites)).evaluations)
