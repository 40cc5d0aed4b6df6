"""Files are there whole or not at all, whatever is written."""

import subprocess
import sys

import pytest

from latentroute.cli import main
from latentroute.files import write_whole
from tests.cli.test_compare import SMALL


def test_a_file_takes_the_place_of_another(tmp_path):
    path = tmp_path / "a.txt"
    for content, read in (("é\n", "é\n"), (b"b", "b"), (memoryview(b"c"), "c")):
        write_whole(path, content)
        assert path.read_bytes().decode() == read
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("place", ["missing/a.txt", "folder", "a" * 300])
def test_an_error_names_the_file_and_leaves_nothing(tmp_path, place):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=f"{place} cannot be written: "):
        write_whole(tmp_path / place, "text")
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]


FULL = """
import resource, sys
from latentroute.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_report_that_does_not_fit_is_one_line_and_the_one_before_stays(
    tmp_path, monkeypatch
):
    """Each size between those of the files stops the writing at another one."""
    out = tmp_path / "out"
    assert main(["compare", *SMALL, "--out", str(out)]) == 0
    before = {path.name: path.read_bytes() for path in out.glob("*.*")}
    sizes = sorted(map(len, before.values()))
    for size in (sizes[0] - 1, sizes[-1] - 1):
        words = [sys.executable, "-P", "-c", FULL, str(size), "report", str(out)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stderr
        (line,) = done.stderr.splitlines()
        assert "cannot be written: File too large" in line
        after = {path.name: path.read_bytes() for path in out.glob("*.*")}
        assert set(after) == set(before), "no part is left"
        assert after["report.html"] == before["report.html"]
