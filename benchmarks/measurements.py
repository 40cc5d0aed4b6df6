"""Files of measurements, a JSON line each: a killed run goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def begin(out: Path, head: dict[str, Any]) -> None:
    """Write the first line, what is run; refuse a file of other settings."""
    if not out.is_file():
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(head) + "\n", encoding="utf-8")
        return
    first, _, _ = out.read_text(encoding="utf-8").partition("\n")
    if json.loads(first) != head:
        raise SystemExit(f"{out} is of other settings or versions: give another --out")
    drop_cut_line(out)


def drop_cut_line(path: Path) -> None:
    """Take away what a killed run left of a line, so that the next begins anew."""
    if path.is_file():
        text = path.read_text(encoding="utf-8")
        if not text.endswith("\n"):
            path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")
