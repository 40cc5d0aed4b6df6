"""Whether a program that ran on many routes at once did what it does on one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from .terms import Terms


def disagreement(
    terms: Terms, plain: Callable[[Tensor], Terms], names: Sequence[str]
) -> str | None:
    """How a broadcasting run differs from a run of natural shape at the same routes.

    Args:
        terms: Of the broadcasting run.
        plain: Runs the program at (N, L) routes, in natural shape.
        names: The routing sites.

    Returns:
        A sentence, or ``None`` where they agree, or where the program draws numbers of
        its own (dropout, say), so that no two runs are alike.
    """
    n = terms.likelihood.shape[-1]
    lead = torch.broadcast_shapes(*(a.shape[:-1] for a in terms.routes.values()))
    picks = [torch.randint(size, ()) for size in lead]
    routes = [_at(terms.routes[name], picks).expand(n) for name in names]
    expected, again = (dict(_labelled(plain(torch.stack(routes, -1)))) for _ in "12")
    for label, value in _labelled(terms):
        ours = _at(value, picks).broadcast_to(expected[label].shape)
        if not _close(ours, expected[label]):
            if not _close(again[label], expected[label]):
                return None
            return f"its {label} differs from that of a plain run"
    return None


def _at(term: Tensor, picks: list[Tensor]) -> Tensor:
    """A term at one index of each of its leading dimensions."""
    for pick in picks[len(picks) - term.dim() + 1 :]:
        term = term[0] if len(term) == 1 else term[pick]
    return term


def _labelled(terms: Terms) -> Iterator[tuple[str, Tensor]]:
    yield "log-likelihood", terms.likelihood
    yield "log-likelihood outside the plate", terms.static_likelihood
    for name, value in terms.prior.items():
        yield f"log-probability of {name!r}", value


def _close(a: Tensor, b: Tensor) -> bool:
    rtol = 1e-3 if a.dtype != torch.float64 else 1e-8
    return a.shape == b.shape and torch.allclose(
        a, b, rtol=rtol, atol=rtol, equal_nan=True
    )
