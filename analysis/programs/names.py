"""Names of sites that stand for one thing at several places."""

from __future__ import annotations

import re
from collections.abc import Sequence

_NUMBERED = re.compile(r"(?P<stem>.*?)[_\[]?(?P<number>\d+)\]?")


def split_number(name: str) -> tuple[str, int] | None:
    """The stem and the number of a name such as `y_3`; None where there is none."""
    found = _NUMBERED.fullmatch(name)
    if found is None or not found["stem"]:
        return None
    return found["stem"], int(found["number"])


def shared_name(names: Sequence[str]) -> str:
    """One name for several sites: their stem, or all names in a row.

    Example:
        >>> shared_name(["y_0", "y_1"]), shared_name(["y"]), shared_name(["u", "v"])
        ('y', 'y', 'u+v')
    """
    if len(names) == 1:
        return names[0]
    parts = [split_number(name) for name in names]
    stems = {part[0] for part in parts if part is not None}
    if None not in parts and len(stems) == 1:
        return stems.pop()
    return "+".join(names)
