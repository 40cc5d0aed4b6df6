"""Damaged contents of files, for the fuzzer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random

# What readers of texts and of lengths stumble over.
TOKENS = (
    *(b"nan", b"inf", b"-1", b"1e400", b"99999999999999999999", b"\x00", b"\xff\xfe"),
    *(b'"', b"'", b",", b"\n", b"\r", b"\t", b"\xef\xbb\xbf", "é\u2028".encode()),
    *(b"{", b"[", b": ", b"&a ", b"*a", b"!!python/name:os.system", b"<script>"),
    *(b"\xff" * 4, b"\x00" * 8, b"\x7f\xff\xff\xff", b"PK\x05\x06", b"null", b"~"),
)


def mutations(seeds: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """Contents with one to 16 damages each, without end; the same for the same seed."""
    rng = Random(seed)
    while True:
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
            rng.choice(_DAMAGES)(rng, data)
        yield bytes(data)


def _flip(rng: Random, data: bytearray) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _replace(rng: Random, data: bytearray) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.randrange(256)


def _insert(rng: Random, data: bytearray) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.choice(TOKENS)


def _overwrite(rng: Random, data: bytearray) -> None:
    at, token = rng.randrange(len(data) + 1), rng.choice(TOKENS)
    data[at : at + len(token)] = token


def _cut(rng: Random, data: bytearray) -> None:
    start, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    del data[start:end]


def _truncate(rng: Random, data: bytearray) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _repeat(rng: Random, data: bytearray) -> None:
    start = rng.randrange(len(data) + 1)
    data[start:start] = data[start : start + rng.randrange(1, 64)]


_DAMAGES: tuple[Callable[[Random, bytearray], None], ...] = (
    *(_flip, _flip, _replace, _replace, _insert, _overwrite),
    *(_cut, _truncate, _repeat),
)
