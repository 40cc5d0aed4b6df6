"""What torchrun says of this process, in its environment; nothing here needs torch."""

from __future__ import annotations

import os


def n_processes() -> int:
    """How many processes torchrun started together, this one included; else 1."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


def local_rank() -> int:
    """This one's number among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", 0)) if n_processes() > 1 else 0


def rank() -> int:
    """This one's number among them: 0 is the one that writes."""
    return int(os.environ["RANK"]) if n_processes() > 1 else 0
