"""Ratios as a table in Markdown, with what they were measured on."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence

from .timing import Ratio


def measured_on() -> str:
    """Versions, threads and what is measured, in a line."""
    versions = [f"{p} {importlib.metadata.version(p)}" for p in ("torch", "pyro-ppl")]
    python = f"Python {platform.python_version()}"
    parts = [python, *versions, platform.machine()]
    return ", ".join([*parts, "one thread, processor time, medians of rounds"])


def markdown(ratios: Sequence[Ratio], command: str) -> str:
    """The table, and the command that made it."""
    lines = [
        f"Made by `{command}`: {measured_on()}.",
        "",
        "| what | setting | ratio | quartiles | wanted | of |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for found in ratios:
        wanted = ""
        if found.wanted is not None:
            kept = "" if found.ratio <= found.wanted else " **missed**"
            wanted = f"≤ {found.wanted:.2f}{kept}"
        cells = (
            found.name,
            found.setting,
            f"{found.ratio:.2f}",
            f"{found.low:.2f} .. {found.high:.2f}",
            wanted,
            found.reference,
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
