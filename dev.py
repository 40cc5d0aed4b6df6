"""Bootstrap: makes .venv, installs the project there if that is needed, and runs.

    python3 dev.py compare [options]   compare inference methods on real data
    python3 dev.py test [options]      lint, format, types, tests (options: pytest's)
    python3 dev.py bench [options]     measure speed (options: latentroute's)
    python3 dev.py docs [options]      build the documentation (options: sphinx's)
    python3 dev.py install             only install
    python3 dev.py audit               known vulnerabilities of what is installed

Standard library only. The first run of each command installs what it needs; the later
ones see by a stamp in .venv that nothing which matters has changed.

Environment: LATENTROUTE_CONSTRAINTS names the file of exact versions to install with in
place of constraints.txt; empty means none, which leaves the build of torch to pip.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
OLDEST, NEWEST = (3, 11), (3, 13)
THIS = f"{sys.version_info[0]}.{sys.version_info[1]}"
CONSTRAINTS_VARIABLE = "LATENTROUTE_CONSTRAINTS"
COMPARE_DEFAULTS = {
    "--task": "digits",
    "--methods": "exact,score-function,hard-em,topk-buffer",
    "--seeds": "4",
    "--out": "runs/digits",
    "--backend": "process",  # the same numbers, by every processor
}
GRACE = 5.0  # seconds in which an interrupted command has taken down what it began
CHECKS = (("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",))


class Problem(Exception):
    """Something the user can mend; shown as one line."""


def check_python(version: tuple[int, int], candidates: list[str]) -> None:
    """Refuses a Python that the project does not support, naming one that it does."""
    if OLDEST <= version <= NEWEST:
        return
    low, high, got = (".".join(map(str, v)) for v in (OLDEST, NEWEST, version))
    cure = f"run {candidates[0]} dev.py" if candidates else f"install Python {high}"
    raise Problem(f"Python {low} to {high} is needed, this is {got}; {cure}")


def supported_pythons() -> list[str]:
    """Commands on the search path that are a supported Python, newest first."""
    names = (f"python3.{minor}" for minor in range(NEWEST[1], OLDEST[1] - 1, -1))
    return [name for name in names if shutil.which(name)]


def venv_python() -> Path:
    """The interpreter in .venv."""
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def venv_version() -> str | None:
    """The "3.x" that .venv was made with; None where there is no interpreter."""
    config = VENV / "pyvenv.cfg"
    if not (venv_python().exists() and config.exists()):
        return None
    for line in config.read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition("=")
        if key.strip() in ("version", "version_info"):
            return ".".join(value.strip().split(".")[:2])
    return None


def constraints_file() -> str | None:
    """The file of exact versions to install with, None for none."""
    named = os.environ.get(CONSTRAINTS_VARIABLE)
    if named is None:
        return str(ROOT / "constraints.txt")
    if not named:
        return None
    if not Path(named).is_file():
        raise Problem(f"{CONSTRAINTS_VARIABLE}={named}: there is no such file")
    return str(Path(named).resolve())


def fingerprint(extras: str) -> str:
    """A hash of everything that an installation depends on."""
    constraints = constraints_file()
    parts = [
        extras,
        sys.version,
        str(ROOT),  # scripts and the editable install hold absolute paths
        str(os.environ.get(CONSTRAINTS_VARIABLE)),
        (ROOT / "pyproject.toml").read_text(encoding="utf-8"),
        Path(constraints).read_text(encoding="utf-8") if constraints else "",
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def stamp(extras: str) -> Path:
    """Where a finished installation with `extras` leaves its fingerprint."""
    return VENV / f"latentroute-{extras.replace(',', '-')}.stamp"


def is_installed(extras: str) -> bool:
    """Whether .venv holds what `extras` needs, as of the files at hand."""
    path = stamp(extras)
    return (
        venv_version() == THIS
        and path.is_file()
        and path.read_text(encoding="utf-8") == fingerprint(extras)
    )


def make_venv() -> None:
    """Makes .venv, or again where another Python made it; one made by hand is kept."""
    found = venv_version()
    if found == THIS:
        return
    ours = any(VENV.glob("latentroute-*.stamp"))
    if VENV.exists() and found is not None and not ours:
        raise Problem(
            f".venv holds Python {found}, this is {THIS}; delete .venv, or run "
            f"python{found} dev.py ..."
        )
    say(f"making {VENV} with Python {THIS}")
    venv.create(VENV, clear=True, symlinks=os.name != "nt")


def pip_command() -> list[str]:
    """How to run pip for .venv: its own, else this Python's from outside."""
    own = module("pip")
    if succeeds([*own, "--version"]) or succeeds(module("ensurepip", "--default-pip")):
        return own
    outside = [sys.executable, "-m", "pip", "--python", str(venv_python())]
    if succeeds([*outside, "--version"]):
        return outside
    raise Problem(
        "no pip for .venv: this Python has neither ensurepip nor a pip >= 22.3; "
        "install one of them (Debian, Ubuntu: apt install python3-venv)"
    )


def install(extras: str) -> None:
    """Installs the project with `extras` into .venv unless that has been done."""
    if is_installed(extras):
        return
    make_venv()
    for old in VENV.glob("latentroute-*.stamp"):
        old.unlink()  # an interruption from here on leaves no stamp
    constraints = constraints_file()
    pinned = ["-c", constraints] if constraints else []
    say(f"installing latentroute[{extras}] into {VENV} (the first time takes minutes)")
    code = run([*pip_command(), "install", *pinned, "-e", f"{ROOT}[{extras}]"])
    if code:
        raise Problem(f"the installation failed (pip's exit code {code}); see above")
    for done in {"test", extras}:  # every list of extras begins with test
        stamp(done).write_text(fingerprint(done), encoding="utf-8")


def compare_arguments(given: list[str]) -> list[str]:
    """The comparison's defaults, less those that `given` replaces, and `given`."""
    flags = {argument.partition("=")[0] for argument in given}
    dropped = set(flags)
    if flags & {"--task", "--data", "--config"}:  # these bring a task and a folder
        dropped |= {"--task", "--out"}
    if "--config" in flags:
        dropped |= set(COMPARE_DEFAULTS)
    kept = {k: v for k, v in COMPARE_DEFAULTS.items() if k not in dropped}
    return [word for pair in kept.items() for word in pair] + given


def compare(given: list[str]) -> int:
    install("test")
    return run(module("latentroute", "compare", *compare_arguments(given)))


def test(given: list[str]) -> int:
    install("test")
    for check in (*CHECKS, ("pytest", "-n", "auto", "--maxprocesses", "4", *given)):
        say(" ".join(check))
        code = run(module(*check), cwd=ROOT)
        if code:
            return code
    return 0


def bench(given: list[str]) -> int:
    install("test")
    defaults = ("--peers", "runs/peers", "--out", "runs/bench")
    return run(module("latentroute", "benchmark", "speed", *defaults, *given))


def docs(given: list[str]) -> int:
    install("test,docs")
    options = ("-W", "--keep-going", "-b", "html", *given)
    return run(module("sphinx", *options, "docs", "docs/_build/html"), cwd=ROOT)


def audit(given: list[str]) -> int:
    """Asks for advisories of all installed packages; of one first, to see if it can."""
    install("test,audit")
    with tempfile.TemporaryDirectory() as folder:
        one = Path(folder, "requirements.txt")
        one.write_text("pip==24.0\n", encoding="utf-8")
        probe = audited(["--requirement", str(one), "--no-deps", "--disable-pip"])
    if not any("vulns" in package for package in probe):
        say("not audited: pip-audit gets no advisories from here (no network?)")
        return 0
    packages = audited(["--local", "--skip-editable", *given])
    known = [package for package in packages if "vulns" in package]
    found = [(p, flaw) for p in known for flaw in p["vulns"]]
    for package, flaw in found:
        mended = ", ".join(flaw["fix_versions"]) or "no version yet"
        say(f"{package['name']} {package['version']}: {flaw['id']}, mended in {mended}")
    say(f"{len(known)} of {len(packages)} packages audited, {len(found)} advisories")
    return int(bool(found))


def audited(options: list[str]) -> list[dict[str, Any]]:
    """What pip-audit says of each package; nothing where it says nothing for long."""
    command = module("pip_audit", "--progress-spinner", "off", "--format", "json")
    whole = {"capture_output": True, "check": False, "text": True, "timeout": 120}
    try:
        done = subprocess.run([*command, *options], **whole)
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, subprocess.TimeoutExpired):
        return []
    return packages


def only_install(given: list[str]) -> int:
    if given:
        raise Problem(f"install takes no options, got: {' '.join(given)}")
    install("test")
    return 0


def module(*words: str) -> list[str]:
    """A module's command line in .venv; -P, or the root's folders were importable."""
    return [str(venv_python()), "-P", "-m", *words]


def say(line: str) -> None:
    print(f"dev.py: {line}", file=sys.stderr, flush=True)


def run(command: list[str], cwd: Path | None = None) -> int:
    """Runs to the end and gives the exit code; 128 + n for a death by signal n.

    On one thread, unless the environment says otherwise: small tensors gain nothing
    from more, and on a busy machine the threads wait for each other.
    """
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    child = subprocess.Popen(command, cwd=cwd, env=environment)
    try:
        code = child.wait()
    except KeyboardInterrupt:  # a terminal sends it to the command, too
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE)
        raise
    finally:
        child.kill()  # does nothing to one that has ended
    return code if code >= 0 else 128 - code


def succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


COMMANDS = {
    "compare": compare,
    "test": test,
    "bench": bench,
    "docs": docs,
    "install": only_install,
    "audit": audit,
}


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(__doc__)
        return 0 if arguments else 2
    try:
        check_python(sys.version_info[:2], supported_pythons())
        if arguments[0] not in COMMANDS:
            known = ", ".join(COMMANDS)
            raise Problem(f"unknown command {arguments[0]!r}; there are {known}")
        return COMMANDS[arguments[0]](arguments[1:])
    except Problem as problem:
        say(f"error: {problem}")
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
