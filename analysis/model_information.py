"""Information of a trained model over data that are read batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .arrays import to_numpy
from .information import StreamedInformation, check_bootstrap, summarise
from .labels import CLASS_KINDS, LabelSums, LabelTable, Surprise, SurpriseSums
from .streaming import Batches, TwoPasses, rereadable, rows_of
from .whole_routes import RouteTable, entropies_in_turn, marginals, route_table

MOST_WHOLE = 4096  # routes whose joint use is kept for every bootstrap replicate

Floats = NDArray[np.float64]


class ModelInformation(NamedTuple):
    """What `model_information` finds, in nats.

    Attributes:
        names: The L sites: layers and slots in program order.
        sites: Of each site, from p(a_l|x), and how its modules are used.
        whole: Of whole routes, from p(a|x), as one layer of |A| modules: `h_b` is the
            joint H(A), `mi_lower` and `mi_upper` bracket I(A;X).
        in_turn: (L,) mean over examples of H(A_l|A_<l,x), which add up to the `h_a` of
            `whole`.
        router_labels: Labels against p(a_l|x).
        posterior_labels: Labels against p(a_l|x,y): the model's own I(A_l;Y).
        given_x: I(A_l;Y|X) of each site.
        whole_given_x: The same of whole routes.

    None where it does not apply: `whole`, `in_turn` and `whole_given_x` where routes
    are more than 4,096; the labels where y has no classes; the last four without y.
    """

    names: tuple[str, ...]
    sites: StreamedInformation
    whole: StreamedInformation | None
    in_turn: Floats | None
    router_labels: LabelTable | None
    posterior_labels: LabelTable | None
    given_x: Surprise | None
    whole_given_x: Surprise | None


def model_information(
    model: Callable[..., Any],
    loader: Batches,
    *,
    replicates: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> ModelInformation:
    """Entropies, information and use of a model's routes over a loader.

    Exact for the examples read: routes are summed out by listing them. The loader is
    read twice and every route of every example evaluated each time. Memory: a batch
    with all its routes, never the data.

    Args:
        model: A Pyro program `model(x, y=None)`; dropout and the like are turned off
            meanwhile.
        loader: A DataLoader, list or function that returns an iterator, of (x, y, …),
            or of x where the program needs no y. Both readings must give the same
            examples.
        replicates: Of the bootstrap (see `stream_information`).
        level: Of its intervals.
        seed: Of the bootstrap.

    Returns:
        The measures; `information_table` makes a table of them.

    Raises:
        ValueError: A static site, routes too many to list, an iterator that can be read
            only once, no examples.
    """
    check_bootstrap(replicates, level)
    start = rereadable(loader)
    sites = TwoPasses(replicates=replicates, seed=seed)
    whole = TwoPasses(replicates=replicates, seed=seed)
    others = _Others()
    with _evaluation_mode(model):
        for table, y in _tables(model, start()):
            others.add(table, y)
            _each(sites.add, marginals(table.routes, table.router, table.n_choices))
            if others.lists_whole:
                _each(whole.add, table.router)
        for table, _ in _tables(model, start()):
            _each(
                sites.add_again, marginals(table.routes, table.router, table.n_choices)
            )
            if others.lists_whole:
                _each(whole.add_again, table.router)
    return ModelInformation(
        names=others.names,
        sites=summarise(*sites.results(), level=level, n_modules=others.n_choices),
        whole=summarise(*whole.results(), level=level) if others.lists_whole else None,
        **others.results(),
    )


class _Others:
    """What one reading is enough for."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.n_choices: tuple[int, ...] = ()
        self.lists_whole = True
        self.n = 0
        self.in_turn: Floats = np.zeros(())
        self.has_y, self.has_classes = False, False
        self.router, self.posterior = LabelSums(), LabelSums()
        self.given_x, self.whole_given_x = SurpriseSums(), SurpriseSums()

    def add(self, table: RouteTable, y: Any) -> None:
        """Count in a batch."""
        routes, choices = table.routes, table.n_choices
        self.names, self.n_choices = table.names, choices
        self.lists_whole = len(routes) <= MOST_WHOLE
        self.n += len(table.router)
        if self.lists_whole:
            turns = entropies_in_turn(routes, table.router, choices)
            self.in_turn = self.in_turn + turns.sum(0)
        if y is None:
            return
        router, posterior = (
            marginals(routes, probs, choices)
            for probs in (table.router, table.posterior)
        )
        self.has_y = True
        self.given_x.add(posterior, router)
        if self.lists_whole:
            self.whole_given_x.add(table.posterior, table.router)
        labels = to_numpy(y)
        self.has_classes = labels.ndim == 1 and labels.dtype.kind in CLASS_KINDS
        if self.has_classes:
            self.router.add(router, labels)
            self.posterior.add(posterior, labels)

    def results(self) -> dict[str, Any]:
        """The fields of ModelInformation that rest on this."""
        whole, classes = self.lists_whole, self.has_classes
        return {
            "in_turn": self.in_turn / self.n if whole else None,
            "router_labels": self.router.table() if classes else None,
            "posterior_labels": self.posterior.table() if classes else None,
            "given_x": self.given_x.surprise() if self.has_y else None,
            "whole_given_x": (
                self.whole_given_x.surprise() if whole and self.has_y else None
            ),
        }


def _tables(
    model: Callable[..., Any], batches: Iterable[Any]
) -> Iterator[tuple[RouteTable, Any]]:
    """Whole routes' probabilities and the targets, batch by batch."""
    for batch in batches:
        x, y = (batch[0], batch[1]) if _has_target(batch) else (_only(batch), None)
        yield route_table(model, x, y), y


def _has_target(batch: Any) -> bool:
    return isinstance(batch, tuple | list) and len(batch) > 1 and batch[1] is not None


def _only(batch: Any) -> Any:
    return batch[0] if isinstance(batch, tuple | list) else batch


def _each(add: Callable[[Floats], None], probs: Floats) -> None:
    """Hand probabilities over, some rows at a time."""
    for rows in rows_of(probs):
        add(rows)


@contextmanager
def _evaluation_mode(model: Any) -> Iterator[None]:
    """Turn dropout and the like off meanwhile."""
    training = getattr(model, "training", False)
    if training:
        model.train(False)
    try:
        yield
    finally:
        if training:
            model.train(True)
