"""Exit codes and messages, whatever the command."""

import json
import warnings
from pathlib import Path

import pytest

from latentroute import cli


@pytest.fixture
def run(monkeypatch):
    """Runs a function in the place of a command; gives the exit code."""

    def run_as_command(function):
        monkeypatch.setattr(cli.Command, "load", lambda command: function)
        return cli.main(["methods"])

    return run_as_command


def refuse(words):
    raise cli.UsageError("first line\n  second line")


def interrupt(words):
    raise KeyboardInterrupt


def misuse_a_library(words):
    return json.loads("{")


def open_nothing(words):
    return Path("/nowhere/at/all").read_text()


def break_something(words):
    raise RuntimeError("word " * 1000)


def test_the_command_decides_the_exit_code(run):
    assert run(lambda words: 0) == 0
    assert run(lambda words: 1) == 1


def test_bad_input_is_one_line_and_exit_code_2(run, capsys):
    assert run(refuse) == 2
    assert capsys.readouterr() == ("", "latentroute: error: first line second line\n")


def test_a_bad_path_is_bad_input(run, capsys):
    assert run(open_nothing) == 2
    assert "/nowhere/at/all" in capsys.readouterr().err


@pytest.mark.parametrize("function", [misuse_a_library, break_something])
def test_anything_else_is_one_line_with_a_hint_and_exit_code_1(run, capsys, function):
    assert run(function) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("latentroute: failed: ")
    assert err.count("\n") == 1
    assert len(err) < 1000
    assert cli.TRACEBACK_VARIABLE in err


def test_the_traceback_is_shown_on_demand(run, capsys, monkeypatch):
    monkeypatch.setenv(cli.TRACEBACK_VARIABLE, "1")
    assert run(break_something) == 1
    assert "in break_something" in capsys.readouterr().err


def test_a_warning_is_one_line(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(cli.gc, "set_threshold", lambda objects: None)
    monkeypatch.setattr(cli.sys, "argv", ["latentroute", "methods"])
    monkeypatch.setattr(cli.Command, "load", lambda command: lambda words: 0)
    assert cli.main() == 0
    said = warnings.formatwarning("one\ntwo", UserWarning, "file.py", 3)
    assert said == "latentroute: warning: one two\n"


def test_an_interruption_is_130(run, capsys):
    assert run(interrupt) == 130
    assert capsys.readouterr() == ("", "latentroute: interrupted\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no command given; there are compare, train, gradients, report"),
        (["comapre"], "unknown command 'comapre'; there are compare, train"),
        (["--jsn"], "--jsn"),
        (["report"], "DIR"),
        (["report", "/nowhere"], "/nowhere holds neither comparison.nc nor run.nc"),
        (["methods", "--jsn"], "--jsn (see latentroute methods --help)"),
    ],
)
def test_bad_usage_says_what_there_is(words, message, capsys):
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("latentroute: error: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_explains_itself(command, capsys):
    assert cli.main([command, "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert f"latentroute {command}" in out
    assert "--json" in out
