"""A progress bar on stderr: rate, loss, and the router's entropies."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

_LINES = 10  # lines a run where stderr is no terminal


class Progress:
    """Shows how training goes, at most some times a second.

    Args:
        steps: Steps in all.
        enabled: Show anything at all.
        start: Steps done before, in a resumed run.
        label: What is trained.
    """

    def __init__(
        self, steps: int, *, enabled: bool, start: int = 0, label: str = "fit"
    ) -> None:
        self._steps, self._start, self._label = steps, start, label
        self._enabled = enabled
        self._begun = time.perf_counter()
        self._seen: dict[str, float] = {}
        self._bar: Any = None
        self._every = max(1, steps // _LINES)

    def __enter__(self) -> Progress:
        if self._enabled and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
            )

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(
                self._label, total=self._steps, completed=self._start, text=""
            )
        return self

    def show(self, row: dict[str, Any]) -> None:
        """Show one row of the history."""
        if not self._enabled:
            return
        for key in ("loss", "h_b", "h_a"):
            if key in row:
                self._seen[key] = row[key]
        step = row["step"]
        if self._bar is not None:
            self._bar.update(self._task, completed=step, text=self._text(step))
        elif step % self._every == 0 or step == self._steps:
            print(
                f"{self._label} {step}/{self._steps} {self._text(step)}",
                file=sys.stderr,
                flush=True,
            )

    def _text(self, step: int) -> str:
        seconds = max(time.perf_counter() - self._begun, 1e-9)
        rate = (step - self._start) / seconds
        text = f"{rate:.0f} steps/s  loss {self._seen['loss']:.3f}"
        if "h_a" in self._seen:
            text += (
                f"  H(A) {self._seen['h_b']:.2f}  H(A|X) {self._seen['h_a']:.2f} nats"
            )
        return text

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
