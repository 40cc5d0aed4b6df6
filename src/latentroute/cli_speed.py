"""``latentroute benchmark speed``: ratios to the same mathematics done otherwise."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cli import PROG, UsageError
from .cli_choice import split_names
from .cli_output import Parser, print_json, print_table, tell, writable_folder

if TYPE_CHECKING:
    from .benchmarks.timing import Ratio

SPEED_FILE, TABLE_FILE = "speed.json", "speed.md"
MEASURED = "exact,sampled,banks,buffers,posterior,start,compiled"


def speed(words: Sequence[str]) -> int:
    """Steps and parts, as ratios to the same mathematics in plain torch."""
    options = _parser().parse_args(list(words))
    suites = _suites(options)
    folder = writable_folder(options.out) if options.out else None
    measured = _measured(suites)
    listed = [found._asdict() for found in measured]
    from .benchmarks.speed_table import markdown, measured_on

    if folder is not None:
        text = json.dumps(listed, indent=1) + "\n"
        (folder / SPEED_FILE).write_text(text, encoding="utf-8")
        command = shlex.join([PROG, "benchmark", "speed", *words])
        table = markdown(measured, command)
        (folder / TABLE_FILE).write_text(table, encoding="utf-8")
    if options.json:
        print_json(listed)
        return 0
    print(measured_on())
    print_table(
        ("what", "setting", "ratio", "quartiles", "wanted", "of", "ms"),
        [
            (
                found.name,
                found.setting,
                f"{found.ratio:.2f}",
                f"{found.low:.2f} .. {found.high:.2f}",
                "" if found.wanted is None else f"<= {found.wanted:.2f}",
                found.reference,
                f"{found.milliseconds:.2f}",
            )
            for found in measured
        ],
    )
    return 0


def _parser() -> Parser:
    parser = Parser(prog=f"{PROG} benchmark speed", description=speed.__doc__)
    parser.add_argument(
        "--suites",
        default=MEASURED,
        help=f"what to measure, comma-separated (default: all, {MEASURED}; compiled "
        "needs a C++ compiler)",
    )
    parser.add_argument(
        "--peers",
        metavar="DIR",
        help="measure against public libraries too, in environments that are made in "
        "DIR the first time (by pip, 3 GB)",
    )
    parser.add_argument("--out", help=f"folder to write {SPEED_FILE}, {TABLE_FILE} to")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _suites(options: Any) -> list[Callable[[], Iterator[Ratio]]]:
    from .benchmarks.against import against_peers
    from .benchmarks.speed import SUITES

    chosen = split_names(options.suites)
    unknown = [name for name in chosen if name not in SUITES]
    if unknown:
        raise UsageError(f"--suites: got {unknown[0]!r}; there are {', '.join(SUITES)}")
    suites = [SUITES[name] for name in chosen]
    if options.peers:
        folder: Path = writable_folder(options.peers)
        suites.append(partial(against_peers, folder))
    return suites


def _measured(suites: Sequence[Callable[[], Iterator[Ratio]]]) -> list[Ratio]:
    """All ratios, each told as it comes, on one thread."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    measured = []
    try:
        for suite in suites:
            for found in suite():
                tell(f"{found.name}, {found.setting}: {found.ratio:.2f}")
                measured.append(found)
    finally:
        torch.set_num_threads(threads)
    return measured
