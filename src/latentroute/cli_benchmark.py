"""``latentroute benchmark NAME``: the library against the arithmetic itself."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from .cli import PROG, UsageError
from .cli_choice import split_names
from .cli_output import Parser, print_json, print_table, tell, writable_folder

SPEED_FILE = "speed.json"
MEASURED = "exact,sampled,banks"


def benchmark(words: Sequence[str]) -> int:
    """``latentroute benchmark NAME [options]``."""
    names = ", ".join(BENCHMARKS)
    if not words or words[0] in ("-h", "--help"):
        print(f"usage: {PROG} benchmark NAME [--out DIR] [--json] [options]\n")
        print(f"benchmarks: {names}")
        print(f"{PROG} benchmark NAME --help tells a benchmark's options.")
        return 0 if words else 2
    name, *rest = words
    if name not in BENCHMARKS:
        raise UsageError(f"unknown benchmark {name!r}; there are {names}")
    return BENCHMARKS[name](rest)


def speed(words: Sequence[str]) -> int:
    """Steps and parts, as ratios to the same mathematics in plain torch."""
    parser = Parser(prog=f"{PROG} benchmark speed", description=speed.__doc__)
    parser.add_argument(
        "--suites",
        default=MEASURED,
        help=f"what to measure, comma-separated (default: {MEASURED}); compiled takes "
        "minutes to compile",
    )
    parser.add_argument("--out", help=f"folder to write {SPEED_FILE} to")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(list(words))
    import torch

    from .benchmarks.speed import SUITES

    chosen = split_names(options.suites)
    unknown = [name for name in chosen if name not in SUITES]
    if unknown:
        raise UsageError(f"--suites: got {unknown[0]!r}; there are {', '.join(SUITES)}")
    folder = writable_folder(options.out) if options.out else None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    measured = []
    try:
        for name in chosen:
            for found in SUITES[name]():
                tell(f"{found.name}, {found.setting}: {found.ratio:.2f}")
                measured.append(found)
    finally:
        torch.set_num_threads(threads)
    listed = [found._asdict() for found in measured]
    if folder is not None:
        text = json.dumps(listed, indent=1) + "\n"
        (folder / SPEED_FILE).write_text(text, encoding="utf-8")
    if options.json:
        print_json(listed)
        return 0
    versions = [f"{p} {importlib.metadata.version(p)}" for p in ("torch", "pyro-ppl")]
    python = f"Python {platform.python_version()}"
    print(", ".join([python, *versions, "one thread, processor time, medians"]))
    print_table(
        ("what", "setting", "ratio", "quartiles", "of", "ms"),
        [
            (
                found.name,
                found.setting,
                f"{found.ratio:.2f}",
                f"{found.low:.2f} .. {found.high:.2f}",
                found.reference,
                f"{found.milliseconds:.2f}",
            )
            for found in measured
        ],
    )
    return 0


BENCHMARKS: Mapping[str, Callable[[Sequence[str]], int]] = MappingProxyType(
    {"speed": speed}
)
