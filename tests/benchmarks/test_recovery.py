"""The benchmark of recovery at tiny sizes: runs, what is kept of them, the table."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import t as student

from latentroute import cli, tasks
from latentroute.benchmarks import recovery_runs
from latentroute.benchmarks.generating import generating_log_lik
from latentroute.benchmarks.recovery import LINES, METHODS, applies, identity, run
from latentroute.benchmarks.recovery_measure import errors
from latentroute.benchmarks.recovery_runs import Case, make, read, rows_of
from latentroute.benchmarks.recovery_table import HEADINGS, shown, table
from latentroute.benchmarks.rules_network import GivenRule, rules_network
from latentroute.inference import evaluate

STEPS = 6
COMMAND = ["benchmark", "recovery", "--steps", str(STEPS)]


def row_of(line, method, seed, **numbers):
    return identity(line, method, seed, STEPS) | {"seconds": 1.0} | numbers


def a_run(seed, *, hit, error):
    worst = {name: [0.1 * seed] for name in ("alignment", "inverse_mi", "adaptation")}
    return {
        "accuracy": [1.0 if hit else 0.5],
        "recovered": hit,
        "log_lik": 1.0 * seed,
        "generating": None,
        "ood_error": error,
        "ood_error_modes": error / 2,
        "h_a": 0.1,
        "h_b": 0.2,
        "unused": [1],
        "collapse_avg": [0.0],
        "collapse_worst": [0.0],
        **worst,
    }


@pytest.mark.parametrize("method", METHODS)
def test_a_run_measures_what_the_table_shows(method):
    row = run("rules-2" if method == "given" else "clusters-2", method, 0, steps=STEPS)
    assert json.loads(json.dumps(row)) == row
    (found,) = table([row])
    gap = "ood_error" if method == "given" else "gap"
    for name in ("accuracy", "log_lik", gap, "alignment", "collapse_avg", "h_a", "h_b"):
        assert math.isfinite(found[name]["mean"]), name
    assert len(shown(found)) == len(HEADINGS)


@pytest.mark.parametrize("context_noise", [0.3, 0.8])
def test_the_generating_model_s_likelihood_is_a_sum_over_routes(context_noise):
    """By Bayes' rule from densities of the context, in plain numpy."""
    spec = tasks.Composition(
        n_layers=2, n_modules=3, n_test=20, context_noise=context_noise, noise=0.4
    )
    test = spec.load().test
    x, y = (values.double().numpy() for values in test[:2])
    maps = spec.maps().numpy()
    total, evidence = np.zeros(20), np.zeros(20)
    for route in itertools.product(range(3), repeat=2):
        z, seen = x[:, :8], np.ones(20)
        for layer, m in enumerate(route):
            c = x[:, spec.context_columns(layer)] - np.eye(3)[m]
            seen *= np.exp(-(c**2).sum(1) / (2 * context_noise**2))
            z = np.tanh(1.5 * z @ maps[m].T)
        density = np.exp(-((y - z) ** 2) / (2 * 0.4**2)) / (0.4 * math.sqrt(2 * np.pi))
        total, evidence = total + seen * density.prod(1), evidence + seen
    expected = np.log(total / evidence).mean()
    assert generating_log_lik(spec, test) == pytest.approx(expected, rel=1e-5)


def test_clusters_are_told_by_their_densities():
    spec = tasks.Clusters(separation=0.7, spread=0.5, noise=0.5, n_test=30)
    test = spec.load().test
    x, y = (values.double() for values in test[:2])
    centres = torch.tensor([[-0.35, 0.0], [0.35, 0.0]]).double()
    density = torch.exp(-((x.unsqueeze(1) - centres) ** 2).sum(-1) / (2 * 0.5**2))
    means = torch.einsum("mij,nj->nmi", spec.maps(), x)
    log_p = torch.distributions.Normal(means, 0.5).log_prob(y.unsqueeze(1)).sum(-1)
    joint = (density / density.sum(1, keepdim=True)).log() + log_p
    expected = joint.logsumexp(1).mean().item()
    assert generating_log_lik(spec, test) == pytest.approx(expected, rel=1e-5)
    assert generating_log_lik(tasks.Rules(), test) is None


def test_the_router_of_rules_sees_the_rule_alone_and_the_modules_see_all():
    task = tasks.load("rules", n_rules=4, n_train=4, n_valid=1, n_test=8)
    torch.manual_seed(0)
    net = rules_network(task)
    moved, y = task.test.x.clone(), task.test.y
    moved[:, :2] += 1
    before, after = (evaluate(net, x, y, draws=1) for x in (task.test.x, moved))
    assert torch.equal(before.router_probs, after.router_probs)
    assert not torch.allclose(before.predictive, after.predictive)
    turned = torch.cat([moved[:, :2], moved[:, 2:].roll(1, 1)], 1)
    other = evaluate(net, turned, y, draws=1)
    assert not torch.allclose(other.router_probs, after.router_probs)
    given = rules_network(task, router=GivenRule)
    mixed, at_modes = errors(given, task.test).values()
    assert mixed == pytest.approx(at_modes, rel=1e-6)  # one module has all the weight
    mixed, at_modes = errors(net, task.test).values()
    assert mixed != pytest.approx(at_modes, rel=1e-3)
    routes = evaluate(given, task.test.x, y, draws=1).router_probs[:, 0].argmax(-1)
    assert torch.equal(routes, task.test.routes[:, 0])
    with pytest.raises(ValueError, match="got 4 rules and n_modules=3"):
        rules_network(task, router=GivenRule, n_modules=3)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_benchmark_goes_on_where_it_was(tmp_path, workers):
    path = tmp_path / "runs.jsonl"
    cases = [Case("clusters-2", "exact", seed, STEPS) for seed in range(2)]
    list(make(cases, path))
    first, second = rows_of(path)
    path.write_text(path.read_text()[:-20])  # killed while it wrote the second
    assert list(read(path, cases)) == cases[:1]
    list(make(cases[1:], path, workers=workers))
    assert list(read(path, cases)) == cases
    kept, again = rows_of(path)
    assert kept == first
    assert again | {"seconds": 0} == second | {"seconds": 0}


def test_rows_of_other_settings_are_not_taken(tmp_path):
    path = tmp_path / "runs.jsonl"
    case = Case("clusters-2", "exact", 0, STEPS)
    row = row_of("clusters-2", "exact", 0)
    path.write_text(json.dumps(row | {"settings": "Exact(other)"}) + "\n")
    assert read(path, [case]) == {}
    path.write_text(json.dumps(row) + "\n")
    assert list(read(path, [case])) == [case]
    assert read(path, [case._replace(steps=STEPS + 1)]) == {}


def test_the_table_has_means_intervals_and_failures():
    rows = [
        row_of("rules-4", "recover", 1, **a_run(1, hit=True, error=0.2)),
        row_of("rules-4", "recover", 2, **a_run(2, hit=False, error=0.8)),
        row_of("rules-4", "recover", 3) | {"error": "ValueError: no"},
        row_of("rules-4", "given", 1, **a_run(1, hit=True, error=0.1)),
        row_of("rules-4", "given", 2, **a_run(2, hit=True, error=0.2)),
    ]
    found, _ = table(rows)
    assert (found["runs"], found["failed"]) == (3, 1)
    assert (found["recovered"]["k"], found["recovered"]["n"]) == (1, 3)
    assert found["steps_to_recovery"] == 3 * STEPS  # lost runs count
    half = student.ppf(0.975, 1) * 0.5
    ends = [found["log_lik"][name] for name in ("mean", "low", "high")]
    assert ends == pytest.approx([1.5, 1.5 - half, 1.5 + half])
    assert found["ood_error_ratio"]["mean"] == pytest.approx(math.sqrt(2 * 4))
    assert found["gap"] is None and found["alignment"]["mean"] == pytest.approx(0.15)


def test_a_failure_is_a_row(tmp_path, monkeypatch):
    def fail(*case):
        raise ValueError("not\nthis time")

    monkeypatch.setattr(recovery_runs, "run", fail)
    path = tmp_path / "runs.jsonl"
    (row,) = make([Case("clusters-2", "exact", 0, STEPS)], path)
    assert row["error"] == "ValueError: not this time"
    assert rows_of(path) == [row]


def test_the_command_trains_what_is_missing_and_prints(tmp_path, capsys):
    words = ["--lines", "clusters-2", "--methods", "exact", "--out", str(tmp_path)]
    assert cli.main([*COMMAND, *words, "--seeds", "2"]) == 0
    out, err = capsys.readouterr()
    assert "clusters-2, exact" in out and "0 of 2 trainings are in" in err
    assert cli.main([*COMMAND, *words, "--seeds", "2", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "2 of 2 trainings are in" in err
    (found,) = json.loads(out)
    assert found["line"] == "clusters-2" and found["accuracy"]["n"] == 2
    assert cli.main([*COMMAND, "--list"]) == 0
    assert "rules-16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--lines", "cluster-2"], "did you mean 'clusters-2'?"),
        (["--tasks", "rule"], "did you mean 'rules'?"),
        (["--methods", "exct"], "did you mean 'exact'?"),
        (["--workers", "0"], "--workers: got 0, expected >= 1"),
        (["--steps", "0"], "--steps: got 0, expected >= 1"),
    ],
)
def test_a_wrong_name_is_refused_in_one_line(words, said, capsys):
    assert cli.main([*COMMAND, *words]) == 2
    assert said in capsys.readouterr().err


def test_every_line_names_a_task_and_given_routes_need_a_true_router():
    assert {line.task for line in LINES.values()} <= set(tasks.TASKS)
    assert applies("rules-4", "given") and not applies("digits", "given")
