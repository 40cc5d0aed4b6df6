"""What goes to a worker and comes back from it, as bytes."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..training_job import Work
from .base import Ended

if TYPE_CHECKING:
    from xarray import DataTree


@contextmanager
def naming_what_cannot_be_sent(
    work: Work, dumps: Callable[[Any], bytes]
) -> Iterator[None]:
    """Say which part of the work is to blame where sending it fails.

    Args:
        work: What is sent.
        dumps: How it is made bytes.

    Raises:
        TypeError: In one line, with the cure.
    """
    try:
        yield
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        for training in work.values():
            for what, part in training.parts.items():
                _check(what, part, dumps, error)
        raise


def _check(
    what: str, part: Any, dumps: Callable[[Any], bytes], cause: Exception
) -> None:
    """Raise if it is this part that cannot be sent."""
    try:
        dumps(part)
    except Exception as error:  # what pickle raises depends on the object
        why = " ".join(str(error).split())
        raise TypeError(
            f"{what} cannot be sent to workers ({why}): define it at the top of a "
            "module, neither as a lambda nor inside a function"
        ) from cause


def sendable(ended: Ended) -> bytes:
    """How a job ended as bytes; an error with its traceback."""
    return pickle.dumps(ended._replace(result=_sendable_result(ended.result)))


def _sendable_result(result: DataTree | Exception) -> DataTree | Exception:
    """A run, or an error in its place that can be sent and read."""
    if not isinstance(result, Exception):
        return result
    lines = "".join(traceback.format_exception(result))
    result.add_note(f"in a worker:\n{lines}")
    try:
        pickle.loads(pickle.dumps(result))  # some can be written and not read
    except Exception:
        error = RuntimeError(f"{type(result).__name__}: {result}")
        error.add_note(f"in a worker:\n{lines}")
        return error
    return result
