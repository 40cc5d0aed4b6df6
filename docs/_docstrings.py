"""Docstrings of the library for Sphinx: their own marks kept, noise left out."""

from __future__ import annotations

import re
from typing import Any

# Shapes such as (*batch, M) and sizes such as |A| and |g|, which reStructuredText would
# take for the start of an emphasis or of a substitution.
MARKS = re.compile(
    r"(?<=[('\"])\*(?=\w)|(?<=, )\*(?=\w+\))"  # (*batch, ..) and (.., *batch)
    r"|(?<!\S)(?<![\w`])\|(?=\S)|(?<=[(/,])\|(?=\S)"  # a bar that opens
)


def escape(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Escape such marks outside formulas and code."""
    formula = None  # the indentation of the formula that we are in
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if formula is not None and (not line.strip() or indent > formula):
            continue
        formula = indent if line.lstrip().startswith(".. math::") else None
        if formula is None:
            parts = line.split("``")  # every other one is code
            parts[::2] = [MARKS.sub(r"\\\g<0>", part) for part in parts[::2]]
            lines[i] = "``".join(parts)


def skip(
    app: Any, what: str, name: str, member: Any, skipped: bool, options: Any
) -> bool | None:
    """Leave out what a NamedTuple says of its fields: their numbers."""
    doc = getattr(member, "__doc__", None) or ""
    return True if doc.startswith("Alias for field number") else None


def setup(app: Any) -> dict[str, bool]:
    """Connect to autodoc."""
    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-docstring", escape)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
