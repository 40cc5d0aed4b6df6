"""SIGTERM during training: what a machine that is taken back sends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Literal

from ..models.checks import check_choice

OnSigterm = Literal["save"]


class Stopped(SystemExit):
    """Training was asked to stop by SIGTERM, and saved: the process ends with code 0.

    Attributes:
        message: One line: the step, and the folder of the checkpoint.
    """

    def __init__(self, message: str) -> None:
        super().__init__(0)
        self.message = message


def check_on_sigterm(on_sigterm: OnSigterm | None, *, saves: bool) -> None:
    """Refuse what cannot be done at a SIGTERM, before training.

    Args:
        on_sigterm: What ``fit`` was given.
        saves: Whether there is a folder to save in.

    Raises:
        ValueError: Says why.
    """
    if on_sigterm is None:
        return
    check_choice("on_sigterm", on_sigterm, ("save",))
    if not saves:
        raise ValueError("on_sigterm='save' needs checkpoint=, the folder to save in")
    if threading.current_thread() is not threading.main_thread():
        raise ValueError(
            "on_sigterm='save' needs fit to run in the main thread, which Python gives "
            f"signals to, got {threading.current_thread().name!r}"
        )


@contextmanager
def sigterm(on_sigterm: OnSigterm | None) -> Iterator[Callable[[], bool]]:
    """Note a SIGTERM inside the ``with`` block in place of dying of it.

    Yields:
        Tells whether it came.
    """
    asked = threading.Event()
    if on_sigterm is None:
        yield asked.is_set
        return

    def note(number: int, frame: FrameType | None) -> None:
        asked.set()

    with _handled_by(note):
        yield asked.is_set


@contextmanager
def sigterm_leaves(on_sigterm: OnSigterm | None, message: str) -> Iterator[None]:
    """Leave the ``with`` block at a SIGTERM: for what stands around a training.

    Args:
        on_sigterm: ``None`` changes nothing.
        message: Of the :class:`Stopped` that is raised.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        raise Stopped(message)

    with nullcontext() if on_sigterm is None else _handled_by(leave):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
