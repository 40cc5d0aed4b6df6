"""Sparse routers: many modules have a probability of exactly zero."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from .checks import check_choice

Mapping = Literal["sparsemax", "entmax15"]


class SparseRouting(nn.Module):
    """A model whose routers are sparse: p(a | z) = sparsemax(scores), say.

    The same program over the same parameters, but at each routing site the softmax of
    the router's scores is replaced by a map that gives many choices a probability of
    exactly zero. Everything that takes a routed program takes this one:
    ``log_marginal``, ``route_posterior``, ``evaluate``, any method.

    A choice of probability zero gets no gradient, neither its module nor its score,
    until the other scores fall: sparsemax needs a score within 1 of the highest (of two
    choices), 1.5-entmax within 2.

    Args:
        model: A Pyro program with routing sites, of Categorical or OneHotCategorical
            distributions.
        mapping: ``"sparsemax"`` or ``"entmax15"``.
        sites: Names of the routing sites; ``None``: those sampled by
            :func:`~latentroute.models.route`.

    Raises:
        ValueError: If the mapping is unknown; at a run, if no routing site was met, or
            one of another distribution.

    References:
        Martins, Astudillo 2016, arXiv:1602.02068, equation 2; Peters, Niculae, Martins
        2019, arXiv:1905.05702, equation 10.

    Example:
        >>> from latentroute.models import LayeredNetwork
        >>> net = LayeredNetwork(2, 3, n_layers=1, n_modules=4, hidden_features=4)
        >>> SparseRouting(net)(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        model: Callable[..., Any],
        mapping: Mapping = "sparsemax",
        *,
        sites: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        check_choice("mapping", mapping, get_args(Mapping))
        self.model = model
        self.mapping: Mapping = mapping
        self.sites = None if sites is None else tuple(sites)

    def forward(self, x: Any, y: Any = None, *more: Any) -> Any:
        """Run the model with sparse routers; arguments as the model's own."""
        sparse = _Sparse(self.mapping, self.sites)
        with sparse:
            result = self.model(x, y, *more)
        if not sparse.met:
            raise ValueError(
                "no routing site was met: name them by sites=, or sample them by "
                "latentroute.models.route"
            )
        return result


def sparse_log_probs(
    scores: Float[Tensor, "*batch m"], mapping: Mapping
) -> Float[Tensor, "*batch m"]:
    """Log-probabilities of a sparse map of scores; -inf off its support.

    Off the support the gradient is zero, and so it is where a score is -inf.
    """
    import entmax

    # The maps shift by the highest score; -inf itself would give NaN.
    finite = scores.clamp_min(torch.finfo(scores.dtype).min / 4)
    finite = finite - finite.amax(-1, keepdim=True).detach()
    function = entmax.sparsemax if mapping == "sparsemax" else entmax.entmax15
    probs = function(finite, dim=-1)
    inside = probs > 0
    # Where twice: the logarithm's own derivative must not meet a zero.
    return torch.where(inside, probs.where(inside, 1.0).log(), -torch.inf)


class _Sparse(Messenger):
    """Replaces the distributions of routing sites as they are sampled."""

    def __init__(self, mapping: Mapping, sites: tuple[str, ...] | None) -> None:
        super().__init__()
        self.met = False
        self._mapping: Mapping = mapping
        self._sites = sites

    def _pyro_sample(self, msg: Any) -> None:
        named = self._sites is not None and msg["name"] in self._sites
        if not named and (self._sites is not None or "route" not in msg["infer"]):
            return
        self.met = True
        fn = msg["fn"]
        if not isinstance(fn, dist.Categorical | dist.OneHotCategorical):
            raise ValueError(
                f"the routing site {msg['name']!r} is a {type(fn).__name__}: a sparse "
                "router takes a Categorical or OneHotCategorical"
            )
        kind = type(fn)
        msg["fn"] = kind(logits=sparse_log_probs(fn.logits, self._mapping))
