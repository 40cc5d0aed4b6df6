"""What goes to a worker and comes back from it, as bytes."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..training_job import Work


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


def sendable(result: Any) -> bytes:
    """A run, or the error in its place, as bytes; an error with its traceback."""
    if not isinstance(result, Exception):
        return pickle.dumps(result)
    lines = "".join(traceback.format_exception(result))
    result.add_note(f"in a worker:\n{lines}")
    try:
        message = pickle.dumps(result)
        pickle.loads(message)  # some errors can be written and not read
    except Exception:
        error = RuntimeError(f"{type(result).__name__}: {result}")
        error.add_note(f"in a worker:\n{lines}")
        return pickle.dumps(error)
    return message
