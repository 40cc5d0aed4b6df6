"""Routes against the truth: all matchings by force, pairs by hand, the limits."""

import itertools

import numpy as np
import pytest
import torch
from scipy.special import comb

from latentroute.analysis import recovered, specialisation, truth
from latentroute.analysis.truth import most_probable

MITTAL = ("collapse_avg", "collapse_worst", "alignment", "inverse_mi", "adaptation")


def one_hot(routes, n_modules):
    return np.eye(n_modules)[np.asarray(routes)]


def rand_index_by_pairs(a, b):
    """Adjusted Rand index from every pair of examples (Hubert and Arabie)."""
    pairs = list(itertools.combinations(range(len(a)), 2))
    both = sum(a[i] == a[j] and b[i] == b[j] for i, j in pairs)
    in_a = sum(a[i] == a[j] for i, j in pairs)
    in_b = sum(b[i] == b[j] for i, j in pairs)
    expected = in_a * in_b / comb(len(a), 2)
    return (both - expected) / ((in_a + in_b) / 2 - expected)


def nmi_by_hand(a, b):
    def h(*columns):
        _, counts = np.unique(np.stack(columns), axis=1, return_counts=True)
        return -(counts / len(a) * np.log(counts / len(a))).sum()

    return (h(a) + h(b) - h(a, b)) / ((h(a) + h(b)) / 2)


def best_accuracy(found, true, n_modules, n_rules):
    """Over every one-to-one naming of the modules."""
    short, long = sorted((n_modules, n_rules))
    best = 0.0
    for pi in itertools.permutations(range(long), short):
        names = (
            dict(enumerate(pi))
            if n_modules <= n_rules
            else {m: rule for rule, m in enumerate(pi)}
        )
        named = np.array([names.get(m, -1) for m in found])
        best = max(best, (named == true).mean())
    return best


@pytest.mark.parametrize(("n_modules", "n_rules"), [(3, 3), (4, 3), (3, 4), (2, 5)])
def test_agreement_by_the_definitions(n_modules, n_rules):
    rng = np.random.default_rng(n_modules)
    true = rng.integers(0, n_rules, (40, 2))
    probs = rng.dirichlet(np.ones(n_modules), (40, 2))
    probs[np.arange(40), 0, true[:, 0] % n_modules] += 0.5
    probs /= probs.sum(-1, keepdims=True)
    found = probs.argmax(-1)
    result = truth(probs, true)
    assert result.n == 40
    for layer in range(2):
        a, b = found[:, layer], true[:, layer]
        accuracy = best_accuracy(a, b, n_modules, n_rules)
        assert result.accuracy[layer] == pytest.approx(accuracy, rel=1e-12)
        assert result.ari[layer] == pytest.approx(rand_index_by_pairs(a, b), abs=1e-12)
        assert result.nmi[layer] == pytest.approx(nmi_by_hand(a, b), rel=1e-10)
        rows = [probs[b == rule, layer].mean(0) for rule in range(n_rules)]
        expected = specialisation(np.stack(rows))
        for name in MITTAL:
            value = getattr(result, name)[layer]
            assert value == pytest.approx(getattr(expected, name), rel=1e-12)
    paths = [found[:, 0] * 10 + found[:, 1], true[:, 0] * 10 + true[:, 1]]
    assert result.path_ari == pytest.approx(rand_index_by_pairs(*paths), abs=1e-12)
    assert result.path_nmi == pytest.approx(nmi_by_hand(*paths), rel=1e-10)
    assert result.path_accuracy <= result.accuracy.min()


def test_renamed_truth_is_perfect():
    rng = np.random.default_rng(0)
    true = np.concatenate(
        [rng.integers(0, 4, (50, 3)), np.arange(4)[:, None].repeat(3, 1)]
    )
    names = np.stack([rng.permutation(4) for _ in range(3)])
    found = np.stack([names[i][true[:, i]] for i in range(3)], 1)
    result = truth(one_hot(found, 4), true)
    for name in ("accuracy", "ari", "nmi", "path_accuracy", "path_ari", "path_nmi"):
        assert np.all(getattr(result, name) == pytest.approx(1.0)), name
    for name in MITTAL:
        np.testing.assert_allclose(getattr(result, name), 0, atol=1e-12)
    assert recovered(found, true).recovered


def test_the_same_names_in_another_layer_do_not_help():
    """Negative control: a naming that changes with the example is no naming."""
    rng = np.random.default_rng(0)
    true = rng.integers(0, 2, (400, 2))
    found = true ^ true[:, ::-1]  # right up to a flip that depends on the other layer
    result = truth(one_hot(found, 2), true)
    assert (result.accuracy < 0.6).all() and (np.abs(result.ari) < 0.05).all()
    assert not recovered(found, true).recovered


def test_paths_ask_more_than_layers():
    """Each layer wrong in a tenth of the examples, never in the same ones."""
    true = np.tile(np.arange(2)[:, None], (10, 2))
    found = true.copy()
    found[:2, 0] ^= 1
    found[2:4, 1] ^= 1
    result = truth(one_hot(found, 2), true)
    np.testing.assert_allclose(result.accuracy, 0.9)
    assert result.path_accuracy == pytest.approx(0.8)


def test_modes_of_whole_routes_are_not_the_layers_own():
    """p(00) = .4, p(11) = p(10) = .3: the route is 00, the first layer says 1."""
    probs = np.array([[[0.4, 0.6], [0.7, 0.3]]] * 4)
    true = np.array([[0, 0], [0, 0], [0, 0], [1, 1]])
    own = truth(probs, true)
    whole = truth(probs, true, modes=np.array([[0, 0]] * 3 + [[1, 1]]))
    assert own.path_accuracy == pytest.approx(0.75)
    assert whole.path_accuracy == 1.0
    np.testing.assert_array_equal(own.alignment, whole.alignment)


def test_recovery_is_decided_by_the_worst_layer():
    true = np.tile(np.arange(4), 25)[:, None].repeat(2, 1)
    found = true.copy()
    found[:5, 1] = (found[:5, 1] + 1) % 4
    result = recovered(found, true)
    assert result.recovered and result.worst == pytest.approx(0.95)
    assert result.accuracy.tolist() == [1.0, 0.95]
    found[5, 1] = (found[5, 1] + 1) % 4
    result = recovered(found, true)
    assert not result.recovered and result.path_accuracy == pytest.approx(0.94)


def test_one_layer_may_be_written_without_its_axis():
    probs, true = one_hot([0, 1, 1], 2), np.array([1, 0, 0])
    assert truth(probs, true).accuracy.tolist() == [1.0]
    assert truth(torch.tensor(probs), torch.tensor(true)).path_accuracy == 1.0
    assert recovered([0, 1, 1], [1, 0, 0]).recovered


def test_extremes():
    one = truth(np.ones((5, 1)), [0, 1, 0, 1, 0])  # one module
    assert one.accuracy == pytest.approx(0.6) and one.ari == 0 and one.nmi == 0
    assert one.collapse_avg == 0 and one.alignment == pytest.approx(0.5)
    same = truth(one_hot([1, 1, 1], 3), [2, 2, 2])  # one rule
    assert same.accuracy == 1 and same.inverse_mi == 0 and same.collapse_worst == 1
    single = truth(np.full((1, 2, 3), 1 / 3), [[0, 5]])  # one example
    assert single.accuracy.tolist() == [1.0, 1.0]


def test_rules_need_be_neither_equally_frequent_nor_numbered_in_a_row():
    """Mittal's measures weigh rules alike: 9 examples of one count as much as 1."""
    probs = one_hot([0] * 9 + [1], 2)
    result = truth(probs, [3] * 9 + [8])
    assert result.collapse_worst == 0 and result.inverse_mi == pytest.approx(0)
    assert result.accuracy == 1


def test_padding_matters_to_collapse_alone():
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(3), (30, 2))
    true = rng.integers(0, 3, (30, 2))
    padded = np.concatenate([probs, np.zeros((30, 2, 1))], -1)
    plain, known = truth(probs, true), truth(padded, true, n_modules=[3, 3])
    for name, value in plain._asdict().items():
        np.testing.assert_allclose(getattr(known, name), value, err_msg=name)
    unknown = truth(padded, true)
    assert (unknown.collapse_worst == 1).all()
    np.testing.assert_allclose(unknown.alignment, plain.alignment)


def test_ties_go_to_the_module_used_most():
    probs = np.array([[[0.5, 0.5, 0.0]], [[0.0, 1.0, 0.0]], [[0.4, 0.2, 0.4]]])
    assert most_probable(probs)[:, 0].tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (
            (np.eye(2), [[0, 1]]),
            {},
            r"true_routes: got shape \(1, 2\), expected .*2, 1",
        ),
        ((np.eye(2), [0.0, 1.0]), {}, "true_routes: got dtype float64"),
        ((np.eye(2) * 3, [0, 1]), {}, "a row that sums to 3"),
        ((np.eye(2), [0, 1]), {"modes": [0, 1, 1]}, r"modes: got shape \(3,\)"),
        ((np.eye(2), [0, 1]), {"modes": [0, 2]}, "modes: got modules from 0 to 2"),
        ((np.eye(2), [0, 1]), {"n_modules": [1]}, r"n_modules: got \[1\]"),
        ((np.eye(2), [0, 1]), {"n_modules": [2, 2]}, "for each of 1 layers"),
    ],
)
def test_refusals(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        truth(*arguments, **options)


@pytest.mark.parametrize(
    ("modes", "true"), [([[0]], [[0, 1]]), ([], []), ([0.5], [1]), ([[[0]]], [[[0]]])]
)
def test_refusals_of_recovery(modes, true):
    with pytest.raises(ValueError, match=r"modes: got|true_routes: got"):
        recovered(np.array(modes), np.array(true))
