"""Checks of option values: each returns the value or raises one line that helps."""

import difflib
import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

SEED_STOP = 2**32


def listed(items: Iterable[str], limit: int = 10) -> str:
    """The first `limit` items with commas, and how many more there are, in one line."""
    known = list(items)
    shown = ", ".join(known[:limit])
    return shown if len(known) <= limit else f"{shown} and {len(known) - limit} more"


def quoted(names: Iterable[object], limit: int = 10) -> str:
    """As `listed`, each name in quotes."""
    return listed([repr(str(name)) for name in names], limit)


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` where a known name is close, else an empty text."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def whole(name: str, value: Any, low: int, high: int | None = None) -> int:
    """An int in low..high (no upper end if high is None); bools are refused."""
    fits = isinstance(value, Integral) and not isinstance(value, bool)
    if not fits or value < low or (high is not None and value > high):
        upper = f"{low} or more" if high is None else f"in {low}..{high}"
        raise ValueError(f"{name} must be a whole number {upper}; got {value!r}")
    return int(value)


def seed_in_range(value: object) -> int:
    """A seed: whole number in 0..2**32-1."""
    return whole("seed", value, 0, SEED_STOP - 1)


def real(name: str, value: Any, low: float = -math.inf) -> float:
    """A finite number of at least `low`; bools are refused."""
    if not _is_real(value) or not math.isfinite(value) or value < low:
        least = "" if low == -math.inf else f" of at least {low:g}"
        raise ValueError(f"{name} must be a finite number{least}; got {value!r}")
    return float(value)


def choice(name: str, value: object, accepted: Sequence[str]) -> str:
    """One of the accepted texts."""
    if value not in accepted:
        raise ValueError(
            f"{name} must be one of {quoted(accepted)}; got {value!r}"
            f"{did_you_mean(value, accepted)}"
        )
    return str(value)


def texts(name: str, value: object) -> tuple[str, ...]:
    """A list or tuple of texts; a bare text is refused, not split into letters."""
    if not isinstance(value, list | tuple) or not all(
        isinstance(item, str) for item in value
    ):
        raise ValueError(f"{name} must be a list of texts; got {value!r}")
    return tuple(value)


def three_fractions(value: Any) -> tuple[float, float, float]:
    """The shares of train, valid and test: positive, 1 together."""
    fits = isinstance(value, list | tuple) and len(value) == 3
    fits = fits and all(_is_real(share) and share > 0 for share in value)
    if not fits or not math.isclose(sum(value), 1.0, abs_tol=1e-6):
        raise ValueError(
            "fractions must be three positive numbers with sum 1, for train, valid and "
            f"test; got {value!r}"
        )
    train, valid, test = map(float, value)
    return train, valid, test


def _is_real(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
