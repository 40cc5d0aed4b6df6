"""Whether a program that ran on many routes at once did what it does on one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from .structure import Structure
from .terms import Terms

_MOST_RUNS = 8


def disagreement(
    terms: Terms,
    structure: Structure,
    plain: Callable[[Tensor], Terms],
    dims: Mapping[str, int],
) -> str | None:
    """How a broadcasting run differs from runs of natural shape at the same routes.

    Examples are compared at different routes, so that as many choices as can be are
    met in the fewest runs (two at least, eight at most): a program that is right by
    chance at one route, or where two sites agree, is found out.

    Args:
        terms: Of the broadcasting run.
        structure: The program's sites.
        plain: Runs the program at (N, L) routes, in natural shape.
        dims: Where each enumerated site stands.

    Returns:
        A sentence, or ``None`` where they agree, or where the program draws numbers of
        its own (dropout, say), so that no two runs are alike.
    """
    n = terms.likelihood.shape[-1]
    lead = torch.broadcast_shapes(*(a.shape[:-1] for a in terms.routes.values()))
    shared = {dims.get(s.name, -2) for s in structure.static_sites}
    together = 1 if shared else n
    n_runs = max(lead, default=1) // together + 1
    for run in range(max(2, min(n_runs, _MOST_RUNS))):
        picks = []
        for i, size in enumerate(lead):
            offset = run + len(lead) - i
            is_shared = i - len(lead) - 1 in shared
            row = torch.zeros(1).long() if is_shared else torch.arange(n)
            picks.append((row + offset) % size)
        routes = [_at(terms.routes[name], picks).expand(n) for name in structure.names]
        table = torch.stack(routes, -1)
        expected = dict(_labelled(plain(table)))
        for label, value in _labelled(terms):
            if _close(_at(value, picks), expected[label]):
                continue
            if not _close(dict(_labelled(plain(table)))[label], expected[label]):
                return None
            return f"its {label} differs from that of a plain run"
    return None


def _at(term: Tensor, picks: list[Tensor]) -> Tensor:
    """(*lead, N or 1) -> (N or 1,): each example at its own index of each dimension.

    Raises:
        IndexError: If the term has dimensions that no site explains.
    """
    lead = term.dim() - 1
    if lead > len(picks):
        raise IndexError(f"a term has {lead} dimensions of routes, not {len(picks)}")
    rows = torch.arange(term.shape[-1])
    index = [
        pick if size > 1 else torch.zeros(1).long()
        for pick, size in zip(picks[len(picks) - lead :], term.shape, strict=False)
    ]
    return term[(*index, rows)]


def _labelled(terms: Terms) -> Iterator[tuple[str, Tensor]]:
    yield "log-likelihood", terms.likelihood
    yield "log-likelihood outside the plate", terms.static_likelihood
    for name, value in terms.prior.items():
        yield f"log-probability of {name!r}", value


def _close(a: Tensor, b: Tensor) -> bool:
    tolerance = 1e-3 if a.dtype != torch.float64 else 1e-8
    return a.shape == b.shape and torch.allclose(
        a, b, rtol=tolerance, atol=tolerance, equal_nan=True
    )
