"""A sweep on disk: every finished run, whole or not at all, and what happened when."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ..files import write_whole
from .training_job import Job

if TYPE_CHECKING:
    from xarray import DataTree

SETTINGS_FILE, EVENTS_FILE, LOCK_FILE = "sweep.json", "events.jsonl", "lock"
RUNS = "runs"
_VERSION = 1
Settings = dict[str, str | int | float]


class SweepFolder:
    """A folder that holds the runs of a sweep, for a ``with`` block.

    ``sweep.json`` says what the runs have in common, ``runs/TASK/METHOD/seed_0.nc`` is
    a finished run, ``events.jsonl`` has a line for each start and end. A run's file is
    written beside its place, forced to disk and then renamed. Only one process at a
    time can hold the folder.

    Args:
        path: The folder, made if it is missing.
        resume: Take up the runs that are there.

    Raises:
        ValueError: If another process holds the folder, if it holds a sweep and
            ``resume`` is false, or one that differs.
    """

    def __init__(self, path: str | os.PathLike[str], *, resume: bool) -> None:
        from filelock import FileLock

        self.path = Path(path)
        self._resume = resume
        self._lock = FileLock(self.path / LOCK_FILE, timeout=0)

    def __enter__(self) -> SweepFolder:
        from filelock import Timeout

        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise ValueError(
                f"{self.path} is held by another sweep that is at work: wait for its "
                "end, or choose another folder"
            ) from error
        for part in self.path.glob("**/.*.part"):  # of a sweep that was killed
            part.unlink()
        self._end_last_event()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()

    def claim(self, settings: Settings, jobs: Iterable[Job]) -> None:
        """Make the folder that of a sweep, or see that it is.

        Args:
            settings: What must be the same for runs to be taken up; a setting that the
                folder does not know yet (of another task or method) joins it.
            jobs: Those of this sweep, finished or not.

        Raises:
            ValueError: In one line: the first setting that differs, that there are runs
                of unknown settings, or any where they are not to be taken up.
        """
        known = self._known()
        if not any(self.path.glob(f"{RUNS}/*/*/seed_*.nc")):
            known = None  # of a sweep that came to nothing: there is nothing to lose
        elif known is not None:
            if not self._resume:
                raise ValueError(
                    f"{self.path} holds a sweep already: resume it (resume=True), or "
                    "choose another folder"
                )
            for name, value in settings.items():
                if known.get(name, value) != value:
                    raise ValueError(
                        f"{self.path} holds a sweep with {name} = {known[name]!r}, got "
                        f"{value!r}: resume it with the same, or choose another folder"
                    )
        else:
            raise ValueError(
                f"{self.path} holds runs and no {SETTINGS_FILE} that says how they "
                "were made: choose another folder"
            )
        names = [job.name for job in jobs]
        found = {"version": _VERSION, "settings": (known or {}) | settings}
        text = json.dumps(found | {"runs": names}, indent=1, ensure_ascii=False)
        write_whole(self.path / SETTINGS_FILE, text + "\n")

    def _known(self) -> Settings | None:
        """The settings of the sweep that is here, if one is."""
        found = _read(self.path)
        if found is None:
            return None
        if found["version"] != _VERSION:
            raise ValueError(
                f"{self.path / SETTINGS_FILE} has version {found['version']}, not "
                f"{_VERSION}: choose another folder"
            )
        settings: Settings = found["settings"]
        return settings

    def finished(self, jobs: Iterable[Job]) -> dict[str, DataTree]:
        """The runs that are there, by name; what cannot be read is not there."""
        found = {}
        for job in jobs:
            tree = self._load(job)
            if tree is not None:
                found[job.name] = tree
                self.note("taken up", job)
        return found

    def _load(self, job: Job) -> DataTree | None:
        from ..analysis import load

        file = self._file(job)
        if not file.exists():
            return None
        try:
            tree = load(file)
        except (ValueError, OSError, KeyError) as error:
            self.note("unreadable", job, why=str(error))
            return None
        own = [tree.attrs.get(name) for name in ("method", "seed")]
        return tree if own == [job.label, job.seed] else None

    def save(self, job: Job, tree: DataTree) -> None:
        """Put a finished run in its place, whole or not at all."""
        from ..analysis import save

        save(tree, self._file(job))

    def note(self, event: str, job: Job, **more: Any) -> None:
        """Add a line to the events: ``time`` (UTC), ``event``, ``run`` and more."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "event": event, "run": job.name, **more})
        with (self.path / EVENTS_FILE).open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def _end_last_event(self) -> None:
        """End a line that a kill cut short, or it would spoil the next one."""
        file = self.path / EVENTS_FILE
        if file.exists() and not file.read_bytes().endswith(b"\n"):
            with file.open("a", encoding="utf-8") as out:
                out.write("\n")

    def _file(self, job: Job) -> Path:
        return self.path / _place(job.name)


def count_runs(path: Path) -> tuple[int, int] | None:
    """How many runs of a folder's sweep are there, of how many; None without a sweep.

    Raises:
        ValueError: If the folder's ``sweep.json`` is none.
    """
    found = _read(path)
    if found is None:
        return None
    names = found["runs"]
    return sum((path / _place(name)).exists() for name in names), len(names)


def failed_runs(path: Path) -> dict[str, str]:
    """Why runs of a folder's sweep raised, by name; of those that are not there."""
    last = {event["run"]: event for event in read_events(path)}
    return {
        name: event["why"]
        for name, event in last.items()
        if event["event"] == "failed" and not (path / _place(name)).exists()
    }


def read_events(path: Path) -> list[Mapping[str, Any]]:
    """The events of a sweep, without a line that a kill cut short."""
    events = []
    file = path / EVENTS_FILE
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    for line in text.splitlines():
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return events


def _place(name: str) -> Path:
    """Where a run's file is, whatever characters its task and method have."""
    task, label, seed = name.rsplit("/", 2)
    folders = [quote(part, safe=" ").replace(".", "%2E") for part in (task, label)]
    return Path(RUNS, *folders, f"{seed}.nc")


def _read(path: Path) -> dict[str, Any] | None:
    file = path / SETTINGS_FILE
    if not file.exists():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found["settings"], dict) or "version" not in found:
            raise ValueError("no settings")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} cannot be read: it is none of ours") from error
    return dict(found)
