"""What the library and its command line cost before anything is asked of them."""

import json
import subprocess
import sys

HEAVY = ("torch", "pyro", "numpy", "pandas", "xarray", "matplotlib", "arviz_base")
SCRIPT = """
import contextlib, io, json, sys
loaded = {}
def note(what):
    loaded[what] = sorted(name for name in sys.argv[1:] if name in sys.modules)
import latentroute
dir(latentroute), latentroute.__version__
note("import")
from latentroute import cli
with contextlib.redirect_stdout(io.StringIO()) as out:
    codes = [cli.main(["--help"]), cli.main(["--version"])]
note("help")
def closed(words):
    raise BrokenPipeError
cli.COMMANDS["closed"] = cli.Command("", "", "")
cli.Command.load = lambda command: closed
print(json.dumps({"loaded": loaded, "codes": codes, "help": out.getvalue()}))
sys.stdout.flush()
sys.exit(cli.main(["closed"]))
"""


TRYING_OUT = """
import sys
import torch
from latentroute.analysis import to_datatree
from latentroute.inference import METHODS, default_network
from latentroute.inference.applies import try_methods
from latentroute.tasks import load
task = load("clusters", n_train=20, n_valid=5, n_test=5)
methods = {name: METHODS[name] for name in ("exact", "score-function", "hard-em")}
make = lambda: (default_network(task), None)
tried = try_methods(make, methods, task.train.x, task.train.y, batch_size=8)
to_datatree(make()[0], task.test, draws=2)
assert len(tried.evaluations) == 3
heavy = "torch._dynamo", "scipy.optimize", "scipy.stats"
print([name for name in heavy if name in sys.modules])
"""


def test_what_comes_before_training_imports_neither_a_compiler_nor_scipy():
    """A second and more, which a comparison would wait for."""
    done = subprocess.run(
        [sys.executable, "-c", TRYING_OUT], capture_output=True, text=True, check=False
    )
    assert done.stdout == "[]\n", done.stderr


def test_help_needs_no_torch_and_a_closed_pipe_is_no_failure():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *HEAVY],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["loaded"] == {"import": [], "help": []}
    assert found["codes"] == [0, 0]
    for command in ("compare", "train", "report", "methods", "tasks"):
        assert f"\n  {command} " in found["help"]
