"""Annotations of shapes hold: a part of the suite under jaxtyping's import hook."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = (
    "tests/models",
    "tests/contracts/test_banks.py",
    "tests/contracts/test_methods.py",
    "tests/exact/test_programs.py",
    "tests/inference/test_evaluate.py",
)
CHOSEN = (
    "test_layered or test_routing or test_slots or differentiable_scalar "
    "or (broadcasting_programs and 3) or test_networks"
)


def test_annotations_hold():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *FILES, "-k", CHOSEN],
        cwd=ROOT,
        env=os.environ | {"LATENTROUTE_CHECK_SHAPES": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    wrong = r"Type-check error whilst[^\n]*(?:\n[^\n]*){3}"
    texts = {" ".join(text.split()) for text in re.findall(wrong, done.stdout)}
    found = sorted({re.sub(r"Actual value: .*? Expected", "", t) for t in texts})
    assert not found, "\n".join(found)
    # Tests that fail for another reason do so without the hook, too.
    assert done.returncode in (0, 1), done.stdout[-2000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
