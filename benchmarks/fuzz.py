"""Fuzzes every reader of files: whatever they hold, one line and no traceback.

    python -m latentroute.benchmarks.fuzz --seconds 600 --engine atheris

Each reader gets so many seconds in a process of its own, begun anew where it dies or
hangs (a C library may). By ``mutations``, or guided by coverage where atheris is there
(``pip install atheris``), which goes on from what it kept in --out/corpus. Inputs that
are not read or refused as they should be are kept in --out; exit code 1 if any.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .fuzz_readers import READERS, Reader, problem
from .mutations import mutations

TRACED = ["latentroute.tasks", "latentroute.analysis.storage", "latentroute.inference"]
TALLY, BYTES = "tally.json", "bytes"
PATIENCE = 20.0  # seconds for one input


class Fuzzer:
    """Feeds a reader and counts.

    Args:
        reader: The reader.
        name: Its name, which files of inputs get.
        folder: For the file that is read, and the count.
        out: For the inputs that found a problem.
    """

    def __init__(self, reader: Reader, name: str, folder: Path, out: Path) -> None:
        self._reader, self._name, self._out = reader, name, out
        self._path = folder / f"input{reader.suffix}"
        self._bytes = folder / BYTES
        self._tally = folder / TALLY
        self.seeds = reader.seeds(folder)
        self.count, self.problems = 0, set[str]()
        for seed in self.seeds:
            if said := self._feed(seed):
                raise RuntimeError(f"a good {name} file is not read: {said}")

    def __call__(self, data: bytes) -> None:
        """One input."""
        self._bytes.write_bytes(data)  # what the process dies of, if it does
        said = self._feed(data)
        self.count += 1
        new = said is not None and said[:80] not in self.problems
        if said is not None and new:
            self.problems.add(said[:80])
            kept = keep(self._out, self._name, data)
            print(f"{self._name}: {kept}: {said}", flush=True)
        if new or self.count % 20 == 0:
            tally = {"count": self.count, "problems": len(self.problems)}
            self._tally.write_text(json.dumps(tally), encoding="utf-8")

    def _feed(self, data: bytes) -> str | None:
        self._reader.whole(self._path, data)
        return problem(self._reader.read, self._path)


def keep(out: Path, name: str, data: bytes) -> Path:
    """Keep an input; where."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    return path


def work(name: str, folder: Path, out: Path, seconds: float, options: Any) -> None:
    """The process of one reader."""
    warnings.simplefilter("ignore")
    if options.engine == "atheris":
        import atheris

        with atheris.instrument_imports(include=TRACED):
            from .. import analysis, inference, tasks  # noqa: F401
        fuzzer = Fuzzer(READERS[name], name, folder, out)
        corpus = out / "corpus" / name
        for seed in fuzzer.seeds:
            keep(corpus, "seed", seed)
        limits = [f"-max_total_time={int(seconds)}", "-rss_limit_mb=4096"]
        flags = [*limits, f"-seed={options.seed + 1}", "-verbosity=0", "-max_len=65536"]
        atheris.Setup([sys.argv[0], *flags, str(corpus)], fuzzer)
        atheris.Fuzz()
    fuzzer = Fuzzer(READERS[name], name, folder, out)
    end = time.monotonic() + seconds
    for data in mutations(fuzzer.seeds, options.seed):
        fuzzer(data)
        if time.monotonic() > end:
            return


class Tally(NamedTuple):
    """What came of fuzzing a reader.

    Attributes:
        inputs: How many were fed.
        problems: Kinds of problem.
        deaths: Of the process, hangs included.
    """

    inputs: int = 0
    problems: int = 0
    deaths: int = 0


def fuzz(name: str, options: argparse.Namespace) -> Tally:
    """Fuzz one reader."""
    end = time.monotonic() + options.seconds
    tally = Tally()
    for attempt in itertools.count():
        left = end - time.monotonic()
        if left < 1:
            break
        with tempfile.TemporaryDirectory() as folder:
            words = ["--worker", name, folder, str(left), "--out", str(options.out)]
            words += ["--engine", options.engine, "--seed", str(options.seed + attempt)]
            command = [sys.executable, "-P", "-m", "latentroute.benchmarks.fuzz"]
            last = Path(folder, BYTES)
            how = died([*command, *words], last)
            inputs, problems = _counted(Path(folder, TALLY))
            if how is not None:
                if not last.exists():
                    raise RuntimeError(f"the fuzzer of {name} does not start: {how}")
                kept = keep(options.out, name, last.read_bytes())
                print(f"{name}: the process {how}: {kept}", flush=True)
            tally = Tally(
                tally.inputs + inputs,
                tally.problems + problems,
                tally.deaths + (how is not None),
            )
    return tally


def died(command: Sequence[str], beat: Path, patience: float = PATIENCE) -> str | None:
    """Run a process to its end.

    Args:
        command: Of the process.
        beat: A file that it writes now and then.
        patience: Seconds between two such writes, after which it is killed: what hangs
            in C hears no clock of Python's.

    Returns:
        How it died; ``None`` where it ended well.
    """
    process = subprocess.Popen(command)
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(patience / 20)
                return f"died (exit code {code})" if code else None
            if beat.exists() and time.time() - beat.stat().st_mtime > patience:
                return f"hung for {patience:g} s"
    finally:
        process.kill()
        process.wait()


def _counted(path: Path) -> tuple[int, int]:
    """Inputs and kinds of problem, as the process last said."""
    if not path.exists():
        return 0, 0
    seen = json.loads(path.read_text(encoding="utf-8"))
    return seen["count"], seen["problems"]


def main(words: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--readers", default=",".join(READERS), help="A,B")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each reader")
    parser.add_argument("--engine", choices=("mutate", "atheris"), default="mutate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("fuzz-found"))
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.worker:
        name, folder, seconds = options.worker
        work(name, Path(folder), options.out, float(seconds), options)
        return 0
    chosen = options.readers.split(",")
    if unknown := [name for name in chosen if name not in READERS]:
        parser.error(f"--readers: got {unknown[0]!r}; there are {', '.join(READERS)}")
    bad = 0
    for name in chosen:
        found = fuzz(name, options)
        bad += found.problems + found.deaths
        print(
            f"{name}: {found.inputs} inputs, {found.problems} kinds of problem, "
            f"{found.deaths} deaths",
            flush=True,
        )
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
