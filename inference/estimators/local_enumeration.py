"""Local expectation gradients: each site summed out in turn, the others sampled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from ...models.checks import check_count
from ..objective import Method, Model, Objective
from .mixed import Weighted, sum_out, weigh
from .whole import refuse_guide


@dataclass(frozen=True)
class LocalEnumeration(Method):
    r"""ELBO by one pass a site: that site summed out, the others sampled.

    .. math::
        \nabla = \sum_l \frac1S \sum_s \sum_m R_{l m s} \nabla p(m \mid z_{l s})
        + \frac1L \sum_l \frac1S \sum_s \sum_m p(m \mid z_{l s}) \nabla R_{l m s}

    In pass l the sites before l are drawn, all choices m of l are taken, and the sites
    after it are drawn for each of them; R is log p(y | x, a). No baseline is needed: a
    constant in R drops out of each sum over m. Unlike in the paper, whose factors do
    not see one another, a later router that sees z is drawn anew after each choice.
    Unbiased for the router ELBO. Cost: S sum_l (l + M_l (L - l)) evaluations of a
    module an example, some S L M / 2 routes, in L vectorised runs.

    Args:
        n_samples: S, for each site.

    References:
        Titsias, Lazaro-Gredilla 2015, arXiv:1503.01494, algorithm 1.
    """

    n_samples: int = 2

    summary: ClassVar[str] = "ELBO, each site summed out in turn, the others sampled"
    wiring: ClassVar[str] = "router-as-guide ELBO"
    unbiased_for: ClassVar[str | None] = "elbo"

    def __post_init__(self) -> None:
        check_count("n_samples", self.n_samples)

    def objective(
        self, model: Model, guide: Callable[..., Any] | None, **options: Any
    ) -> Objective:
        """The objective; it takes no guide."""
        refuse_guide("local-enumeration", guide)
        return _LocalObjective(self, model, **options)


class _LocalObjective(Objective):
    def __init__(self, method: LocalEnumeration, model: Model, **options: Any) -> None:
        super().__init__(model, **options)
        self._method = method

    def _loss(self, x: Any, y: Any, index: Tensor | None) -> Tensor:
        args = self._arguments(x, y, index)
        n_data = len(x) * self._data_scale(len(x))
        names = self._program.structure(*args).names
        passes = [
            weigh(
                self._program.mixed(
                    *args, enumerate_sites=set(site), n_samples=self._method.n_samples
                ),
                n_data,
            )
            for site in ([name] for name in names)
        ]
        if not passes:  # every site is given
            terms = self._program.sample(*args, n_samples=1)
            return -(terms.likelihood.mean() + terms.static_likelihood.mean() / n_data)
        return -local_expectation(passes)


def local_expectation(passes: list[Weighted]) -> Float[Tensor, ""]:
    """The mean reward, with local expectation gradients as its gradient.

    Args:
        passes: For each site (M, S, N) probabilities of its choices and rewards.
    """
    total = passes[0].reward.new_zeros(())
    for weight, reward in passes:
        given = sum_out(weight.detach() * reward, [0]).mean() / len(passes)
        score = sum_out((weight - weight.detach()) * reward.detach(), [0]).mean()
        total = total + given + score
    return total
