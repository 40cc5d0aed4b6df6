"""`latentroute compare` and `latentroute report`, on a task that trains in a second."""

import json
from html.parser import HTMLParser

import pandas as pd
import pytest

from latentroute import analysis, cli_compare
from latentroute.analysis.plots import FIGURES
from latentroute.cli import main
from latentroute.inference import fit
from latentroute.inference.sweep_folder import SETTINGS_FILE

SMALL = (
    *("--task", "clusters", "--clusters.n_train", "60", "--clusters.n_valid", "20"),
    *("--clusters.n_test", "30", "--methods", "exact,hard-em", "--seeds", "2"),
    *("--steps", "4", "--draws", "5"),
)
FILES = {
    "comparison.nc",
    "config.yaml",
    "report.html",
    "summary.csv",
    "sweep",
    *(f"{name}.png" for name in FIGURES),
}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The folder of a comparison, and what was said."""
    out = tmp_path_factory.mktemp("comparison") / "made" / "here"
    with pytest.MonkeyPatch.context() as patch:
        streams = {"stdout": "", "stderr": ""}

        class Stream:
            def __init__(self, name):
                self.name = name

            def write(self, text):
                streams[self.name] += text

            def flush(self):
                pass

            def isatty(self):
                return False

        for name in streams:
            patch.setattr(f"sys.{name}", Stream(name))
        code = main(["compare", *SMALL, "--out", str(out), "--json"])
    return out, code, streams["stdout"], streams["stderr"]


def test_every_file_is_there(compared):
    out, code, _, _ = compared
    assert code == 0
    assert {path.name for path in out.iterdir()} == FILES


def test_stdout_is_json_alone_and_progress_is_on_stderr(compared):
    out, _, stdout, stderr = compared
    found = json.loads(stdout)
    assert [row["method"] for row in found["summary"]] == ["exact", "hard-em"]
    assert found["failures"] == []
    assert {path.rpartition("/")[2] for path in found["files"]} | {
        "config.yaml",
        "sweep",
    } == (FILES)
    assert "exact, seed 1" in stderr
    assert str(out / "report.html") in stderr


def test_the_table_is_that_of_the_tree(compared):
    out, _, stdout, _ = compared
    tree = analysis.load(out / "comparison.nc")
    table = analysis.summary(tree)
    saved = pd.read_csv(out / "summary.csv", index_col="method")
    pd.testing.assert_frame_equal(saved, table, check_dtype=False)
    rows = pd.DataFrame(json.loads(stdout)["summary"]).set_index("method")
    assert rows["log_lik"].to_dict() == table["log_lik"].to_dict()
    assert tree.attrs["command"].startswith("latentroute compare --task clusters")


def test_the_saved_options_give_the_same_comparison(compared, tmp_path, capsys):
    out, *_ = compared
    words = ["--config", str(out / "config.yaml"), "--out", str(tmp_path), "--seeds"]
    assert main(["compare", *words, "1", "--methods", "exact"]) == 0
    assert "log p(y|x)" in capsys.readouterr().out  # --json is no part of it
    first, second = (
        analysis.load(folder / "comparison.nc")["exact/seed_0/log_likelihood"]
        for folder in (out, tmp_path)
    )
    assert first.to_dataset().equals(second.to_dataset())


def test_report_writes_the_same_files_again(compared, tmp_path, capsys):
    out, *_ = compared
    copy = tmp_path / "comparison.nc"
    copy.write_bytes((out / "comparison.nc").read_bytes())
    assert main(["report", str(tmp_path)]) == 0
    assert {p.name for p in tmp_path.iterdir()} == FILES - {"config.yaml", "sweep"}
    assert (tmp_path / "summary.csv").read_text() == (out / "summary.csv").read_text()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["method", "exact", "hard-em"]


def test_a_failed_training_is_told_and_gives_exit_code_1(compared, tmp_path, capsys):
    out, *_ = compared
    tree = analysis.load(out / "comparison.nc")
    broken = tree["hard-em/seed_1"]
    for group in list(broken.children):
        del broken[group]
    broken.attrs["error"] = "the loss is nan at step 3"
    analysis.save(tree, tmp_path / "comparison.nc")
    assert main(["report", str(tmp_path)]) == 1
    stdout, stderr = capsys.readouterr()
    assert "failed" in stdout.splitlines()[0]
    assert "hard-em, seed_1: the loss is nan at step 3" in stderr
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "1 of 4 trainings failed" in page
    assert "the loss is nan at step 3" in page


def test_the_page_says_what_was_run(compared):
    out, *_ = compared

    class Text(HTMLParser):
        text = ""

        def handle_data(self, data):
            self.text += data

    page = Text()
    page.feed((out / "report.html").read_text(encoding="utf-8"))
    assert "latentroute compare --task clusters" in page.text
    assert "torch" in page.text
    assert "HardEM(" in page.text


def test_a_comparison_that_did_not_end_is_taken_up(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("latentroute.analysis.report.write", lambda tree, out: [])
    words = ["compare", *SMALL, "--out", str(tmp_path)]
    assert main([*words, "--resume"]) == 0
    assert "the comparison begins with the first one" in capsys.readouterr().err
    (tmp_path / "sweep" / "runs" / "clusters" / "exact" / "seed_1.nc").unlink()
    assert main(words) == 2  # what is there must not be thrown away
    assert "has 3 of 4 runs" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0
    stderr = capsys.readouterr().err
    assert "3 of 4 were done before" in stderr and "[4/4] exact, seed 1" in stderr
    there = runs_in(tmp_path)
    assert main([*words, "--network.n_modules", "0"]) == 2
    assert runs_in(tmp_path) == there, "what is refused replaces nothing"
    assert main(words) == 0  # the one that ended is replaced
    assert "[4/4] hard-em, seed 1" in capsys.readouterr().err
    assert len(there) == len(runs_in(tmp_path)) == 4 and there != runs_in(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*sweep*")) == ["sweep"]


def runs_in(folder):
    """The runs that are there, and when each was written."""
    files = sorted((folder / "sweep").rglob("*.nc"))
    return [(file.name, file.stat().st_mtime_ns) for file in files]


def breaking(seeds):
    """``fit`` as a comparison calls it, which raises for some seeds."""

    def train(*args, seed, **options):
        if seed in seeds:
            raise ValueError("it is broken")
        return fit(*args, seed=seed, **options)

    return train


def test_after_an_error_a_line_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    """Nothing that is there is thrown away by the same line again."""
    monkeypatch.setattr("latentroute.analysis.report.write", lambda tree, out: [])
    broken = {1}
    monkeypatch.setattr("latentroute.inference.training_job.fit", breaking(broken))
    words = ["compare", *SMALL, "--out", str(tmp_path)]
    assert main(words) == 1
    assert "--resume trains again what raised an error (2" in capsys.readouterr().err
    assert main(words) == 2
    line = capsys.readouterr().err
    assert "2 of 4 runs of a comparison, and errors of the others: clusters/" in line
    assert "(ValueError: it is broken) and 1 more: --resume trains these" in line
    broken.clear()
    assert main([*words, "--resume"]) == 0
    assert "2 of 4 were done before" in capsys.readouterr().err


def test_a_comparison_that_came_to_nothing_is_begun_anew(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("latentroute.analysis.report.write", lambda tree, out: [])
    words = ["compare", *SMALL, "--out", str(tmp_path)]
    with monkeypatch.context() as patch:
        every = breaking({0, 1})
        patch.setattr("latentroute.inference.training_job.fit", every)
        assert main(words) == 1
    assert "it is broken" in capsys.readouterr().err
    assert main([*words, "--lr", "0.02"]) == 0


@pytest.mark.parametrize("begun", [False, True])
def test_what_a_kill_left_aside_is_put_back_unless_another_has_begun(tmp_path, begun):
    sweep, aside = tmp_path / "sweep", tmp_path / ".sweep.old"
    for folder, text in ((sweep, "new"), (aside, "old")):
        folder.mkdir()
        if begun or folder is aside:
            (folder / SETTINGS_FILE).write_text(text)
    cli_compare._put_back(sweep)
    found = (sweep / SETTINGS_FILE).read_text()
    assert found == ("new" if begun else "old") and not aside.exists()
