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
