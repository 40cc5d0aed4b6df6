"""dev.py: when it installs, what it runs, and what it says; nothing is installed."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
THIS = f"{sys.version_info[0]}.{sys.version_info[1]}"


class World:
    """What dev.py would have done."""

    def __init__(self, dev):
        self.dev = dev
        self.ran = []
        self.codes = {}
        self.made = 0

    def run(self, command, cwd=None):
        self.ran.append([str(word) for word in command])
        outcome = next(
            (code for word, code in self.codes.items() if word in command), 0
        )
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def create(self, home, **options):
        self.made += 1
        for old in Path(home).glob("*.stamp"):
            old.unlink()
        make_venv(self.dev, THIS)

    @property
    def installs(self):
        return [command for command in self.ran if "install" in command]


def make_venv(dev, version):
    dev.venv_python().parent.mkdir(parents=True, exist_ok=True)
    dev.venv_python().touch()
    (dev.VENV / "pyvenv.cfg").write_text(f"home = /usr/bin\nversion = {version}.4\n")


@pytest.fixture
def dev(tmp_path, monkeypatch):
    """A fresh dev.py in a folder of its own."""
    spec = importlib.util.spec_from_file_location("dev", ROOT / "dev.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "dev", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.delenv(module.CONSTRAINTS_VARIABLE, raising=False)
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "constraints.txt").write_text("torch==2\n")
    return module


@pytest.fixture
def world(dev, monkeypatch):
    found = World(dev)
    monkeypatch.setattr(dev, "run", found.run)
    monkeypatch.setattr(dev, "succeeds", lambda command: True)
    monkeypatch.setattr(dev.venv, "create", found.create)
    return found


def test_the_first_run_makes_an_environment_and_installs_once(dev, world):
    assert dev.main(["install"]) == 0
    assert dev.main(["install"]) == 0
    assert world.made == 1
    (install,) = world.installs
    assert install[0] == str(dev.venv_python())
    assert install[-2:] == ["-e", f"{dev.ROOT}[test]"]
    assert install[install.index("-c") + 1] == str(dev.ROOT / "constraints.txt")


@pytest.mark.parametrize("file", ["pyproject.toml", "constraints.txt"])
def test_a_change_that_matters_installs_again(dev, world, file):
    dev.main(["install"])
    (dev.ROOT / file).write_text("changed")
    dev.main(["install"])
    dev.main(["install"])
    assert len(world.installs) == 2
    assert world.made == 1


def test_another_place_or_python_installs_again(dev, world, monkeypatch):
    first = dev.fingerprint("test")
    monkeypatch.setattr(dev.sys, "version", "3.11.99")
    second = dev.fingerprint("test")
    (dev.ROOT / "moved").mkdir()
    for name in ("pyproject.toml", "constraints.txt"):
        (dev.ROOT / "moved" / name).write_text((dev.ROOT / name).read_text())
    monkeypatch.setattr(dev, "ROOT", dev.ROOT / "moved")
    assert len({first, second, dev.fingerprint("test")}) == 3


def test_the_variable_names_other_constraints_or_none(dev, world, monkeypatch):
    own = dev.ROOT / "own.txt"
    own.write_text("torch==1\n")
    monkeypatch.setenv(dev.CONSTRAINTS_VARIABLE, str(own))
    dev.main(["install"])
    monkeypatch.setenv(dev.CONSTRAINTS_VARIABLE, "")
    dev.main(["install"])
    first, second = world.installs
    assert first[first.index("-c") + 1] == str(own)
    assert "-c" not in second


def test_a_file_of_constraints_that_is_not_there_is_told(
    dev, world, monkeypatch, capsys
):
    monkeypatch.setenv(dev.CONSTRAINTS_VARIABLE, "nowhere.txt")
    assert dev.main(["install"]) == 2
    assert "nowhere.txt" in capsys.readouterr().err
    assert not world.ran


def test_a_failed_installation_is_told_and_tried_again(dev, world, capsys):
    world.codes["install"] = 3
    assert dev.main(["install"]) == 2
    assert "exit code 3" in capsys.readouterr().err
    world.codes.clear()
    assert dev.main(["install"]) == 0
    assert len(world.installs) == 2


def test_an_interrupted_installation_leaves_no_stamp(dev, world):
    dev.main(["install"])
    (dev.ROOT / "pyproject.toml").write_text("changed")
    world.codes["install"] = KeyboardInterrupt()
    assert dev.main(["install"]) == 130
    (dev.ROOT / "pyproject.toml").write_text("[project]\n")  # as the old stamp saw it
    world.codes.clear()
    assert dev.main(["install"]) == 0
    assert len(world.installs) == 3


def test_docs_install_more_and_cover_the_tests(dev, world):
    dev.main(["docs"])
    dev.main(["test"])
    dev.main(["docs"])
    (install,) = world.installs
    assert install[-1].endswith("[test,docs]")


def test_an_environment_of_another_python_is_made_again(dev, world):
    dev.main(["install"])
    make_venv(dev, "3.9")
    assert dev.main(["install"]) == 0
    assert world.made == 2


def test_an_environment_made_by_hand_is_not_thrown_away(dev, world, capsys):
    make_venv(dev, "3.9")
    assert dev.main(["install"]) == 2
    assert "delete .venv" in capsys.readouterr().err
    assert world.made == 0


def test_an_environment_made_by_hand_is_used(dev, world):
    make_venv(dev, THIS)
    assert dev.main(["install"]) == 0
    assert (world.made, len(world.installs)) == (0, 1)


def test_pip_from_outside_serves_where_ensurepip_is_missing(dev, world, monkeypatch):
    monkeypatch.setattr(dev, "succeeds", lambda command: "--python" in command)
    assert dev.main(["install"]) == 0
    (install,) = world.installs
    assert install[:5] == [
        *(sys.executable, "-m", "pip", "--python"),
        str(dev.venv_python()),
    ]


def test_no_pip_at_all_is_told(dev, world, monkeypatch, capsys):
    monkeypatch.setattr(dev, "succeeds", lambda command: False)
    assert dev.main(["install"]) == 2
    assert "python3-venv" in capsys.readouterr().err


@pytest.mark.parametrize("failing", ["ruff", "format", "mypy", "pytest"])
def test_test_stops_at_the_first_failure_with_its_exit_code(dev, world, failing):
    make_venv(dev, THIS)
    world.codes[failing] = 7
    assert dev.main(["test", "-k", "word"]) == 7
    assert failing in world.ran[-1]
    if failing == "pytest":
        assert world.ran[-1][-2:] == ["-k", "word"]


def test_compare_runs_the_command_of_the_readme(dev, world):
    assert dev.main(["compare"]) == 0
    assert world.ran[-1][-12:] == [
        *("latentroute", "compare", "--task", "digits"),
        *("--methods", "exact,score-function,hard-em,topk-buffer"),
        *("--seeds", "4", "--out", "runs/digits", "--backend", "process"),
    ]


def test_bench_measures_everything_and_the_peers(dev, world):
    assert dev.main(["bench", "--suites", "exact"]) == 0
    assert world.ran[-1][-9:] == [
        *("latentroute", "benchmark", "speed", "--peers", "runs/peers"),
        *("--out", "runs/bench", "--suites", "exact"),
    ]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["--seeds=2"], {"--task", "--methods", "--out", "--backend"}),
        (["--task", "rules"], {"--methods", "--seeds", "--backend"}),
        (["--data", "a.csv", "--target", "y"], {"--methods", "--seeds", "--backend"}),
        (["--config", "a.yaml"], set()),
        (["--json"], {"--task", "--methods", "--seeds", "--out", "--backend"}),
        (["--backend", "serial"], {"--task", "--methods", "--seeds", "--out"}),
    ],
)
def test_what_is_given_replaces_the_defaults(dev, given, kept):
    found = dev.compare_arguments(given)
    assert found[-len(given) :] == given
    assert {word for word in found[: -len(given)] if word.startswith("--")} == kept


@pytest.mark.parametrize("version", [(3, 10), (3, 14)])
def test_an_unsupported_python_is_refused_with_one_that_is_there(dev, version):
    with pytest.raises(dev.Problem, match=r"3\.11 to 3\.13 .*run python3\.12 dev\.py"):
        dev.check_python(version, ["python3.12"])
    with pytest.raises(dev.Problem, match=r"install Python 3\.13"):
        dev.check_python(version, [])


def test_the_supported_pythons_are_those_of_pyproject(dev):
    for minor in (11, 12, 13):
        dev.check_python((3, minor), [])
    text = (ROOT / "pyproject.toml").read_text()
    assert 'requires-python = ">=3.11"' in text


def test_paths_of_windows(dev, monkeypatch):
    monkeypatch.setattr(dev.os, "name", "nt")
    assert dev.venv_python() == dev.VENV / "Scripts/python.exe"


def test_bad_usage(dev, capsys):
    assert dev.main([]) == 2
    assert dev.main(["--help"]) == 0
    assert "python3 dev.py compare" in capsys.readouterr().out
    assert dev.main(["tset"]) == 2
    assert "compare, test, bench, docs, install, audit" in capsys.readouterr().err
    assert dev.main(["install", "x"]) == 2


def test_the_exit_code_of_a_signal(dev):
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert dev.run([sys.executable, "-S", "-c", kill]) == 128 + 9


SLOW_TO_END = """
import pathlib, signal, sys, time
try:
    pathlib.Path(sys.argv[1], "begun").touch()
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.6)  # longer than subprocess itself waits
    pathlib.Path(sys.argv[1], "ended").touch()
"""


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="signals of POSIX")
def test_an_interrupted_command_may_take_down_what_it_began(tmp_path):
    run = (  # under a shell's "&" the interrupt is ignored, which children inherit
        "import runpy, signal, sys; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); "
        "runpy.run_path(sys.argv[1])['run'](sys.argv[2:])"
    )
    slow = [sys.executable, "-S", "-c", SLOW_TO_END, str(tmp_path)]
    whole = subprocess.Popen(
        [sys.executable, "-c", run, str(ROOT / "dev.py"), *slow],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    while not (tmp_path / "begun").exists():
        assert whole.poll() is None
        time.sleep(0.02)
    os.killpg(whole.pid, signal.SIGINT)  # as a terminal does
    whole.wait(30)
    assert (tmp_path / "ended").exists()


def test_the_file_is_standard_library_alone():
    script = "import runpy, sys; runpy.run_path(sys.argv[1]); print('fine')"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script, str(ROOT / "dev.py")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "fine\n", done.stderr


FLAW = {"id": "GHSA-1", "fix_versions": ["2"], "description": ""}


@pytest.mark.parametrize(
    ("flaws", "code", "said"),
    [
        (None, 0, "not audited"),
        ([], 0, "1 of 2 packages audited, 0 advisories"),
        ([FLAW], 1, "idna 1: GHSA-1, mended in 2"),
    ],
)
def test_audit_says_what_it_found_and_whether_it_could(
    world, monkeypatch, capsys, flaws, code, said
):
    skipped = {"name": "torch", "skip_reason": "not found"}
    idna = {"name": "idna", "version": "1", "vulns": flaws}
    asked = []

    def answer(command, **options):
        asked.append(command)
        packages = [skipped] if flaws is None else [skipped, idna]
        said = json.dumps({"dependencies": packages})
        return subprocess.CompletedProcess(command, 0, stdout=said)

    monkeypatch.setattr(world.dev, "install", lambda extras: None)
    monkeypatch.setattr(world.dev.subprocess, "run", answer)
    assert world.dev.main(["audit"]) == code
    assert said in capsys.readouterr().err
    assert len(asked) == (1 if flaws is None else 2), "one package first"


def nothing(command, **options):
    return subprocess.CompletedProcess(command, 1, stdout="")


def nobody(command, **options):
    raise subprocess.TimeoutExpired(command, options["timeout"])


@pytest.mark.parametrize("answer", [nothing, nobody])
def test_audit_without_an_answer(world, monkeypatch, capsys, answer):
    monkeypatch.setattr(world.dev, "install", lambda extras: None)
    monkeypatch.setattr(world.dev.subprocess, "run", answer)
    assert world.dev.main(["audit"]) == 0
    assert "not audited" in capsys.readouterr().err
