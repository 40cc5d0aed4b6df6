"""Every example runs at a small size and asserts what it claims."""

import ast
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
# Small, yet enough for the claim; an example that is not here fails.
SMALL = {
    "given_routing": ["--steps", "150"],
    "kirsch_digits": ["--steps", "100", "--seeds", "1"],
    "modular_gru": ["--steps", "100", "--words", "200"],
    "own_model": ["--steps", "100", "--seeds", "1"],
    "static_routing": ["--steps", "100"],
}


def test_no_example_is_forgotten():
    assert [path.stem for path in EXAMPLES] == sorted(SMALL)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs_and_its_claim_holds(path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(path), *SMALL[path.stem]])
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_short_and_asserts_after_its_last_print(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    main = next(
        node
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef) and node.name == "main"
    )
    assert isinstance(main.body[-1], ast.Assert)
