"""Options of compare and train: what reaches the library, what is refused and how."""

import functools
import inspect
import os

import pytest
import yaml

import latentroute.inference
from latentroute.cli import main
from latentroute.cli_choice import DEFAULT_METHODS, DEFAULT_TASK
from latentroute.inference import METHODS, Processes, Serial
from latentroute.inference.baselines import MovingAverage
from latentroute.tasks import TASKS


class Reached(Exception):
    """Everything was read: training would begin."""


@pytest.fixture
def reached(monkeypatch, tmp_path):
    """Runs `latentroute compare` up to the call of the library; gives its arguments."""
    calls = []

    @functools.wraps(latentroute.inference.compare)  # the defaults are read off it
    def record(*args, **options):
        assert options.pop("folder").name == "sweep"
        calls.append((*args, options))
        raise Reached

    monkeypatch.setattr(latentroute.inference, "compare", record)

    def arguments(*words):
        calls.clear()
        assert main(["compare", "--out", str(tmp_path / "out"), *words]) == 1
        return calls[0]

    return arguments


@pytest.fixture
def refused(capsys, monkeypatch, tmp_path):
    """Runs a command line that must be refused; gives the one line said."""
    monkeypatch.chdir(tmp_path)

    def message(*words):
        assert main(list(words)) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("latentroute: error: ")
        assert err.count("\n") == 1
        return err

    return message


def printed_config(capsys, *words):
    assert main([*words, "--print_config"]) == 0
    return capsys.readouterr().out


def test_dotted_flags_reach_task_methods_and_network(reached):
    task, methods, seeds, options = reached(
        *("--task", "clusters", "--clusters.n_train", "40", "--seeds", "2"),
        *("--methods", "score-function,hard-em", "--score-function.n_samples", "5"),
        *("--network.n_modules", "3", "--network.routing", "static"),
    )
    assert task.name == "clusters"
    assert len(task.train.y) == 40
    assert list(methods) == ["score-function", "hard-em"]
    assert methods["score-function"].n_samples == 5
    assert methods["hard-em"] == METHODS["hard-em"]
    assert seeds == 2
    assert options["network"] == {"n_modules": 3, "routing": "static"}


def test_a_part_is_chosen_by_name_with_options_of_its_own(reached, tmp_path, capsys):
    words = (
        *("--task", "clusters", "--methods", "score-function"),
        *("--score-function.baseline", "MovingAverage"),
        *("--score-function.baseline.decay", "0.25"),
    )
    _, methods, *_ = reached(*words)
    assert methods["score-function"].baseline == MovingAverage(decay=0.25)
    file = tmp_path / "config.yaml"
    file.write_text(printed_config(capsys, "compare", *words))
    assert reached("--config", str(file))[1] == methods


def test_the_defaults_are_those_of_the_function(reached):
    task, methods, seeds, options = reached()
    assert task.name == DEFAULT_TASK
    assert methods == {name: METHODS[name] for name in DEFAULT_METHODS}
    assert seeds == 4
    assert options.pop("progress") is True
    assert options.pop("network") == {}
    assert options.pop("backend") == Serial()
    defaults = inspect.signature(latentroute.inference.compare).parameters
    assert options == {name: defaults[name].default for name in options}


def test_workers_have_the_threads_of_the_command(reached):
    words = ("--backend", "process", "--workers", "3", "--threads", "2", "--resume")
    *_, options = reached(*words)
    assert options["backend"] == Processes(workers=3, threads=2)
    assert options["resume"] is True


def test_the_printed_config_gives_the_same_run(reached, capsys, tmp_path):
    words = (
        *("--task", "clusters", "--clusters.noise", "0.5", "--methods", "topk-buffer"),
        *("--topk-buffer.capacity", "2", "--network.k", "2", "--steps", "7"),
    )
    file = tmp_path / "config.yaml"
    file.write_text(printed_config(capsys, "compare", *words))
    first, second = reached(*words), reached("--config", str(file))
    assert first[0].train.x.equal(second[0].train.x)
    assert first[1:] == second[1:]


def test_the_printed_config_has_only_what_was_chosen(capsys):
    text = printed_config(
        capsys, "train", "--task", "rules", "--method", "hard-em", "--seed", "3"
    )
    found = yaml.safe_load(text)
    assert found["rules"]["n_rules"] == TASKS["rules"]().n_rules
    assert found["hard_em"]["n_samples"] == METHODS["hard-em"].n_samples
    assert found["seed"] == 3
    assert not found.keys() & {"digits", "exact", "score_function"}


def test_a_flag_after_the_config_wins_and_one_before_it_loses(reached, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(
        "task: clusters\nmethods: [exact]\nclusters:\n  n_train: 30\nsteps: 5\n"
    )
    task, methods, _, options = reached(
        *("--task", "rules", "--steps", "6", "--config", str(file)),
        *("--methods", "hard-em", "--clusters.n_train", "31"),
    )
    assert (task.name, len(task.train.y)) == ("clusters", 31)
    assert list(methods) == ["hard-em"]
    assert options["steps"] == 5


def test_own_data_takes_target_missing_and_the_options_of_a_table(reached, tmp_path):
    file = tmp_path / "own.csv"
    rows = [f"{i % 7},{i % 3},{'up' if i % 2 else 'down'}" for i in range(60)]
    file.write_text("\n".join(["a,b,y", *rows, ",1,up"]))
    task, *_ = reached(
        *("--data", str(file), "--target", "y", "--missing", "drop"),
        *("--table.exclude", "[b]", "--table.fractions", "[0.5,0.25,0.25]"),
    )
    assert task.class_names == ("down", "up")
    assert task.feature_names == ("a",)
    assert len(task.train.y) == 30


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--task", "digts"], ["--task", "'digts'", "did you mean 'digits'", "mnist"]),
        (["--methods", "exact,hardem"], ["--methods", "'hardem'", *METHODS]),
        (["--methods", "exact,exact"], ["--methods", "exact is there twice"]),
        (["--methods", ""], ["--methods: expected names", "got ''"]),
        (["--methods", "all,exact"], ["--methods: all stands alone"]),
        (["--regularisers", ""], ["--regularisers: expected names", "got ''"]),
        (["--exact.compile", "x"], ["--exact.compile: got 'x'", "{capture,inductor}"]),
        (["--methods", "exact,"], ["'exact,'"]),
        (["--digits.sed", "1"], ["--digits.sed", "'--digits.seed'"]),
        (["--clusters.seed", "1"], ["--clusters.seed", "--task clusters"]),
        (["--exact.x", "1", "--methods", "hard-em"], ["--exact.x", "--methods exact"]),
        (["--tsk", "digits"], ["--tsk", "'--task'"]),
        (["--task"], ["--task", "expected one argument"]),
        (["--steps", "many"], ["--steps", "a whole number above 0", "'many'"]),
        (["--steps", "0"], ["--steps", "a whole number above 0"]),
        (["--seeds", "-1"], ["--seeds", "-1"]),
        (["--lr", "0"], ["--lr", "above 0"]),
        (["--digits.seed", "x"], ["--digits.seed", "int", "x"]),
        (["--network.routing", "moving"], ["--network.routing", "dynamic", "moving"]),
        (["--topk-buffer.score", "best"], ["--topk-buffer.score", "joint", "best"]),
        (["--target", "y"], ["--target", "--data"]),
        (["--task", "digits", "--data", "a.csv"], ["--task", "--data"]),
        (["--data", "no.csv", "--target", "y"], ["--data", "'no.csv'"]),
        (["--config", "no.yaml"], ["--config", "no.yaml"]),
        (["--task", "table"], ["--task", "'table'"]),
        (["--score-function.baseline", "Best"], ["'Best'", "MovingAverage"]),
        (["extra"], ["extra"]),
    ],
    ids=" ".join,
)
def test_what_is_wrong_is_named_with_what_is_accepted(refused, words, parts):
    message = refused("compare", *words)
    for part in parts:
        assert part in message


def test_values_are_checked_by_the_classes_behind_them(refused):
    message = refused("compare", "--hard-em.n_samples", "0")
    assert "--hard-em: n_samples" in message
    message = refused("compare", "--task", "clusters", "--clusters.noise", "-1")
    assert "--clusters: noise" in message


@pytest.mark.parametrize("text", ["steps: [", "stps: 3", "digits: {sed: 1}", "- 1"])
def test_a_bad_config_file_is_refused(refused, tmp_path, text):
    (tmp_path / "bad.yaml").write_text(text)
    assert refused("compare", "--config", "bad.yaml")


def test_train_takes_one_method(refused):
    assert "one name" in refused("train", "--method", "exact,hard-em")


def test_an_unwritable_folder_is_refused_before_any_work(refused, tmp_path):
    (tmp_path / "file").write_text("")
    assert "--out" in refused("compare", "--out", "file/under")


def test_help_shows_the_options_of_what_was_chosen(capsys):
    assert main(["compare", "--task", "rules", "--methods", "exact", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--rules.n_rules" in out
    assert "--exact.target" in out
    assert "--digits.seed" not in out
    assert "--hard-em.n_samples" not in out


@pytest.mark.parametrize("value", ["-1", str(2**70), "x"])
@pytest.mark.parametrize("command", ["train", "gradients"])
def test_a_seed_that_is_none_is_refused(command, value, tmp_path, capsys):
    """Before torch, which fails at those beyond 64 bits."""
    words = ["--task", "clusters", "--seed", value, "--out", str(tmp_path)]
    assert main([command, *words]) == 2
    line = capsys.readouterr().err
    assert "--seed: expected a whole number from 0 on" in line
    assert line.count("\n") == 1


def test_threads_beyond_any_machine_are_refused(tmp_path, capsys):
    """OpenMP would end the process."""
    words = ["--task", "clusters", "--threads", "999999999", "--out", str(tmp_path)]
    assert main(["train", *words]) == 2
    assert "--threads must be at most 1024, got 9" in capsys.readouterr().err


LAUGHS = "a0: &a0 [x]\n" + "".join(
    f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(30)
)


@pytest.mark.parametrize(
    "text", [LAUGHS + "task: *a30\n", "task: &a [*a]\n", "task: &a {b: *a}\n"]
)
def test_a_configuration_that_never_ends_is_refused(text, tmp_path, capsys):
    """Nine times itself, thirty times; a list that holds itself."""
    (tmp_path / "c.yaml").write_text(text)
    assert main(["compare", "--config", str(tmp_path / "c.yaml")]) == 2
    line = capsys.readouterr().err
    assert "aliases of aliases without end" in line and line.count("\n") == 1


def test_a_configuration_that_is_no_file_or_too_large(tmp_path, capsys):
    assert main(["compare", "--config", os.devnull]) == 2
    assert "Path is not a file" in capsys.readouterr().err
    (tmp_path / "c.yaml").write_text("#" * 2**19)
    assert main(["compare", "--config", str(tmp_path / "c.yaml")]) == 2
    assert "is larger than 262144 bytes" in capsys.readouterr().err
