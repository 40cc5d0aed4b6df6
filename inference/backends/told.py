"""Warnings of a run that a worker trains: kept there, issued where its result goes."""

from __future__ import annotations

import pickle
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Told(NamedTuple):
    """A warning, as values that any process can be sent.

    Attributes:
        text: What it says.
        category: Its class.
        filename: Where it was issued.
        lineno: Where there.
        module: The name of that file's module.
    """

    text: str
    category: type[Warning]
    filename: str
    lineno: int
    module: str | None

    def issue(self, run: str) -> None:
        """Issue it as if from its own place, so that filters see it as it was.

        The run's name stands last: filters go by how a text begins.

        Raises:
            Warning: If the filters make an error of it.
        """
        warnings.warn_explicit(
            f"{self.text} (in {run})",
            self.category,
            self.filename,
            self.lineno,
            self.module,
        )


@contextmanager
def keeping_warnings() -> Iterator[list[Told]]:
    """Keep warnings, each place's words once, in place of printing or raising them.

    Which of them are shown, or made errors, is for the filters of the process that
    issues them. The list is full once the block has ended.
    """
    told: list[Told] = []
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default")
        try:
            yield told
        finally:
            told += map(_told, found)


def _told(found: warnings.WarningMessage) -> Told:
    return Told(
        str(found.message),
        _sendable(found.category),
        found.filename,
        found.lineno,
        _module(found.filename),
    )


def _sendable(category: type[Warning]) -> type[Warning]:
    """The category; of one that no other process can make, its nearest base."""
    for one in category.__mro__:
        try:
            pickle.loads(pickle.dumps(one("made of a text")))
        except Exception:  # what pickle and a class of the user's raise is their affair
            continue
        return one
    return Warning


def _module(filename: str) -> str | None:
    """The name of a file's module, by which filters may go."""
    for name, module in list(sys.modules.items()):
        if getattr(module, "__file__", None) == filename:
            return name
    return None
