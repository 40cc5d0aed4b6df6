"""The language benchmark at a tiny size: every method, and a killed run goes on."""

import json

import pytest
import torch
from torch import nn

from latentroute.benchmarks import language
from latentroute.benchmarks.language import Case, Settings, cases, dense_width, network
from latentroute.benchmarks.language_tables import lines_of, write_tables
from latentroute.benchmarks.measurements import begin
from latentroute.tasks import Text

TINY = Settings(
    steps=4,
    measured_at=(0, 2),
    batch_size=4,
    hidden_features=8,
    n_samples=2,
    curve_windows=8,
    text=Text("python", window=3, n_words=30, n_train=40, n_valid=4, n_test=12),
)


@pytest.fixture
def task():
    return TINY.text.load()


@pytest.fixture
def out(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(language, "VERSIONS", ("torch",))
    monkeypatch.setattr(language, "SIZES", ((3, 2),))
    return tmp_path / "language.jsonl"


def without_seconds(lines):
    return [{k: v for k, v in line.items() if k != "cpu_seconds"} for line in lines]


def test_every_case_is_run_measured_and_shown(out, task, capsys):
    begin(out, language.head(task, TINY))
    every = list(cases(1))
    assert len(every) == 2 + 5
    for case in every:
        language.train(case, task, TINY, out)
    lines = lines_of(out)
    assert [tuple(line["case"]) for line in lines[::3]] == every
    assert [line["step"] for line in lines[:3]] == [0, 2, 4]
    assert all(sum(line["shares"]) == pytest.approx(1) for line in lines)
    assert not list(out.parent.glob("runs/language/*/*"))
    write_tables(out)
    table = out.with_suffix(".md").read_text(encoding="utf-8")
    assert "| 3 | 2 | hard EM | 1 |" in table
    assert out.with_suffix(".png").stat().st_size > 10_000
    assert "perplexity" in capsys.readouterr().out


def test_a_killed_run_goes_on_to_the_same_numbers(out, task, tmp_path):
    case = Case(3, 2, "hard-em", 0)
    begin(out, language.head(task, TINY))
    language.train(case, task, TINY, out)
    other = tmp_path / "killed.jsonl"
    begin(other, language.head(task, TINY))

    class Killed(Exception):
        pass

    def kill_at_the_end(*args, last, **options):
        if last:
            raise Killed
        return measured(*args, last=last, **options)

    measured, language.measured = language.measured, kill_at_the_end
    try:
        with pytest.raises(Killed):
            language.train(case, task, TINY, other)
    finally:
        language.measured = measured
    assert [line["step"] for line in lines_of(other)] == [0, 2]
    with other.open("a", encoding="utf-8") as file:
        file.write('{"case": [3, 2, "hard')  # killed as it wrote
    begin(other, language.head(task, TINY))
    language.train(case, task, TINY, other)
    assert without_seconds(lines_of(other)) == without_seconds(lines_of(out))
    language.train(case, task, TINY, other)  # all there: nothing to do
    assert len(lines_of(other)) == 3


def test_a_file_of_other_settings_is_refused(out, task):
    begin(out, language.head(task, TINY))
    begin(out, language.head(task, TINY))
    with pytest.raises(SystemExit, match="of other settings"):
        begin(out, language.head(task, Settings(steps=5, text=TINY.text)))
    head = json.loads(out.read_text(encoding="utf-8"))
    count = torch.zeros(30)
    for word in task.train.y.flatten().tolist():
        count[word] += 1
    probs = (count + 1) / (count + 1).sum()
    expected = (-sum(probs[w].log() for w in task.test.y.flatten()) / 36).exp()
    assert head["unigram"] == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("k", [1, 3])
def test_the_dense_network_has_as_many_active_parameters(k):
    def count(cell):
        return sum(p.numel() for p in cell.parameters())

    width = dense_width(48, k)
    active = k * count(nn.GRUCell(48, 48))
    assert abs(count(nn.GRUCell(48, width)) - active) < 0.02 * active
    net = network(Case(1, k, "dense", 0), Settings())
    assert count(net.cell) == count(nn.GRUCell(48, width))
