"""Style, scripts and data as they stand inside the page, and what it may load."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
STYLES: Final = ("page.css", "explorer.css")
SCRIPTS: Final = ("table.js", "zoom.js", "elements.js", "panel.js", "explorer.js")


def stylesheet() -> str:
    """All styles."""
    return "".join((HERE / name).read_text(encoding="utf-8") for name in STYLES)


def script() -> str:
    """All scripts as one, with names of their own."""
    parts = "".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    return f'"use strict";\n(() => {{\n{parts}}})();\n'


def policy(style: str, code: str) -> str:
    """A content security policy: this style, this script, no request of any kind."""
    allowed = {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": _digest(style),
        "script-src": _digest(code),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {source}" for name, source in allowed.items())


def as_json(value: Any) -> str:
    """Compact JSON that cannot end the script element that it stands in."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
