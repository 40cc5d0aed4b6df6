"""The speed benchmarks: both sides compute the same, and ratios are right."""

import json
import sys

import pytest
import torch

from latentroute import cli
from latentroute.benchmarks import (
    against,
    handwritten,
    peer,
    resources,
    speed,
    steps,
    timing,
)
from latentroute.benchmarks.peers import served
from latentroute.benchmarks.timing import Elsewhere, Ratio, ratio
from latentroute.inference import build

SETTING = {"B": 6, "L": 2, "M": 3, "D": 4}
EXPERTS = {"G": 2, "T": 12, "D": 4, "H": 6, "E": 5}


@pytest.mark.parametrize("compile", [None, "capture"])
def test_the_exact_step_and_the_one_by_hand_train_alike(compile):
    pair = steps.steps("exact", SETTING, compile=compile)
    assert pair.losses[0] == pytest.approx(pair.losses[1], abs=1e-6)
    for _ in range(3):
        pair.ours(), pair.hand()
    later = steps.steps("exact", SETTING).losses[0]
    assert later == pytest.approx(pair.losses[0], abs=1e-6)  # each starts anew


def test_other_weights_are_another_loss(monkeypatch):
    """The control: equal losses are no accident of the setting."""
    plain = steps.steps("exact", SETTING).losses[0]
    own = served.numbers
    monkeypatch.setattr(served, "numbers", lambda seed, *s, **o: own(seed + 1, *s, **o))
    assert abs(steps.steps("exact", SETTING).losses[0] - plain) > 1e-2


def test_both_score_function_steps_descend_the_exact_router_elbo():
    setting = {**SETTING, "B": 400, "S": 64}
    net, by_hand, x, y = steps.networks(setting)
    options = {"n_data": len(x), "seed": 0, "n_samples": setting["S"]}
    sampled = build("score-function", net, example=(x, y), **options)
    losses = {
        "exact": build("exact", net, target="router-elbo")(x, y),
        "ours": sampled(x, y),
        "hand": handwritten.score_function_loss(by_hand, x, y, setting["S"]),
    }
    assert losses["exact"].item() == pytest.approx(steps.router_elbo(setting))
    assert losses["ours"].item() == pytest.approx(losses["exact"].item(), abs=0.02)
    routers = {
        name: network.routers[0] for name, network in (("ours", net), ("hand", by_hand))
    }
    routers["exact"] = net.routers[0]
    gradient = {
        name: torch.autograd.grad(loss, next(routers[name].parameters()))[0]
        for name, loss in losses.items()
    }
    for name in ("ours", "hand"):
        error = (gradient[name] - gradient["exact"]).norm() / gradient["exact"].norm()
        assert error < 0.2, name


def test_the_plain_pyro_program_computes_the_same():
    """The one peer that our own environment can run; the script sees to it."""
    script = against.PYRO.script
    with peer.peer(sys.executable, script, SETTING) as other:
        ours = steps.steps("exact", SETTING).losses[0]
        assert other.about["loss"] == pytest.approx(ours, abs=1e-5)
        assert other.seconds(2) > 0
    with pytest.raises(RuntimeError, match="not the same problem"):
        against._same(against.PYRO, ours, ours + 1e-3, 1e-4)


def test_a_layer_of_experts_is_each_tokens_two_experts():
    found = steps.tensors(served.experts_problem(EXPERTS))
    gate = (found["tokens"] @ found["gate"]).softmax(-1)
    expected = torch.zeros_like(found["tokens"])
    for g, t in torch.cartesian_prod(torch.arange(2), torch.arange(12)).tolist():
        first, second = gate[g, t].argsort(descending=True)[:2].tolist()
        for e in (first, second):
            own = (found["tokens"][g, t] @ found["in"][e]).relu() @ found["out"][e]
            expected[g, t] += gate[g, t, e] / gate[g, t, [first, second]].sum() * own
    value = expected.square().mean().item()
    assert steps.hard_layer(EXPERTS)[1] == pytest.approx(value, rel=1e-5)


def test_the_capacity_is_the_least_that_holds_all_tokens():
    found = steps.tensors(served.experts_problem(EXPERTS))
    chosen = (found["tokens"] @ found["gate"]).topk(2).indices.flatten(1)
    most = max(row.bincount().max().item() for row in chosen)
    assert int(12 * served.capacity(found) / 5) == most


class Twice(Elsewhere):
    """Takes twice as long as what it doubles."""

    def __init__(self, n=2):
        self.n = n

    def seconds(self, n):
        return self.n * 1e-3


def test_a_ratio_is_of_neighbours_in_time_and_carries_what_is_wanted(monkeypatch):
    monkeypatch.setattr(timing, "_ROUND", 0.01)
    found = ratio("a", "s", Twice(), "b", Twice(1), rounds=5, wanted=1.5)
    assert found == Ratio("a", "s", 2.0, 2.0, 2.0, "b", 2.0, 1.5)


SCRIPT = """
from served import serve
def make(setting):
    print("a library's chatter")
    done = []
    if setting["fail"]:
        raise OSError("broken")
    return lambda n: done.append(sum(range(10**5 * n))), {"loss": 1.5}
serve(make, "torch")
"""


def test_a_peer_answers_while_it_runs_and_its_failure_is_told(tmp_path, monkeypatch):
    served_py = peer.SCRIPTS / "served.py"
    (tmp_path / "served.py").write_text(served_py.read_text())
    (tmp_path / "own.py").write_text(SCRIPT)
    monkeypatch.setattr(peer, "SCRIPTS", tmp_path)
    with peer.peer(sys.executable, "own.py", {"fail": 0}) as other:
        assert other.about["loss"] == 1.5
        assert other.about["versions"] == {"torch": torch.__version__}
        assert other.seconds(3) > 0
        process = other._process
    assert process.returncode == 0
    with pytest.raises(RuntimeError, match="stopped"):
        with peer.peer(sys.executable, "own.py", {"fail": 1}):
            pass


def test_an_environment_is_installed_once_and_again_when_it_changes(
    tmp_path, monkeypatch
):
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "lib.txt").write_text("lib==1\n")
    ran, code = [], [0]

    def run(command, **options):
        ran.append(command)
        return type("Done", (), {"returncode": code[0]})

    monkeypatch.setattr(peer, "SCRIPTS", scripts)
    monkeypatch.setattr(peer.subprocess, "run", run)
    monkeypatch.setattr(
        peer.venv, "create", lambda home, **_: home.mkdir(parents=True, exist_ok=True)
    )
    for _ in range(2):
        peer.environment(tmp_path / "made", "lib")
    assert [command[-1] for command in ran] == ["lib==1"]
    (scripts / "lib.txt").write_text("lib==2\n")
    code[0] = 1
    for _ in range(2):  # a failed one is tried again
        with pytest.raises(RuntimeError, match="lib"):
            peer.environment(tmp_path / "made", "lib")
    assert [command[-1] for command in ran] == ["lib==1", "lib==2", "lib==2"]


def test_every_peer_has_its_script_and_its_pinned_requirements():
    libraries = (against.PYRO, against.NUMPYRO, against.STORCHASTIC, *against.LAYERS)
    for library in libraries:
        assert (peer.SCRIPTS / library.script).is_file()
        if library.requirements is not None:
            text = (peer.SCRIPTS / f"{library.requirements}.txt").read_text()
            assert all("==" in line or ">=" in line for line in text.split())
            assert "/" not in text  # no host


def test_the_command_prints_and_saves_the_list(tmp_path, monkeypatch, capsys):
    made = [
        Ratio("a", "s", 1.25, 1.0, 1.5, "b", 3.0, 1.1),
        Ratio("c", "s", 2, 2, 2, "d", 1),
    ]
    monkeypatch.setattr(speed, "SUITES", {"exact": lambda: iter(made)})
    words = ["benchmark", "speed", "--suites", "exact", "--out", str(tmp_path)]
    assert cli.main([*words, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed == json.loads((tmp_path / "speed.json").read_text())
    assert [found["name"] for found in listed] == ["a", "c"]
    assert {"name", "setting", "ratio", "low", "high", "reference"} <= set(listed[0])
    written = (tmp_path / "speed.md").read_text()
    assert "latentroute benchmark speed --suites exact" in written
    assert "| a | s | 1.25 | 1.00 .. 1.50 | ≤ 1.10 **missed** | b |" in written
    assert "| c | s | 2.00 | 2.00 .. 2.00 |  | d |" in written
    assert cli.main(words) == 0
    table = capsys.readouterr().out
    assert "<= 1.10" in table and "one thread" in table and "torch" in table
    assert cli.main(["benchmark", "speed", "--suites", "exakt"]) == 2


def test_memory_of_a_posterior_is_measured_beside_the_table(monkeypatch):
    monkeypatch.setattr(resources, "EXAMPLES", 40)
    monkeypatch.setattr(resources, "LAYERS", 3)
    memory, time = resources.posterior()
    assert 0 < memory.ratio < 0.01 and memory.wanted == 1
    assert time.low <= time.ratio <= time.high
