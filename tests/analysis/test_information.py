"""Entropies and the bracket around I(A;X): limits, the truth, refusals."""

import tracemalloc

import numpy as np
import pytest
import torch

from latentroute.analysis import information

KEYS = {"h_a", "h_b", "effective_a", "effective_b", "mi_lower", "mi_upper", "n"}


def dirichlet(n, n_modules=5, seed=0, concentration=0.5):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(n_modules, concentration), n)


def leave_one_out_by_pairs(p):
    """The bound as Poole et al. write it, over an N x N table."""
    n = len(p)
    total = 0.0
    for i in range(n):
        others = np.delete(p, i, axis=0).mean(0)
        seen = p[i] > 0
        total += (p[i, seen] * np.log(p[i, seen] / others[seen])).sum()
    return total / n


def test_shapes_and_keys():
    p = dirichlet(12).reshape(6, 2, 5)
    info = information(p)
    assert set(info) == KEYS
    assert info["n"] == 6
    assert all(info[key].shape == (2,) for key in KEYS - {"n"})
    one = information(p[:, 0])
    assert all(np.shape(one[key]) == () for key in KEYS)
    for key in KEYS - {"n"}:
        assert float(one[key]) == info[key][0]


def test_values_by_hand():
    p = np.array([[0.5, 0.5], [0.9, 0.1]])
    info = information(p)
    h = [np.log(2), -0.9 * np.log(0.9) - 0.1 * np.log(0.1)]
    assert info["h_a"] == pytest.approx(np.mean(h), rel=1e-14)
    assert info["h_b"] == pytest.approx(-0.7 * np.log(0.7) - 0.3 * np.log(0.3))
    assert info["effective_a"] == pytest.approx(np.exp(np.mean(h)))
    assert info["mi_lower"] == pytest.approx(info["h_b"] - info["h_a"])
    kl = [
        0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1),
        0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5),
    ]
    assert info["mi_upper"] == pytest.approx(np.mean(kl))


def test_one_hot_rows_shared_by_many():
    info = information(np.eye(4)[np.arange(40) % 4])
    assert info["h_a"] == 0.0
    assert info["h_b"] == pytest.approx(np.log(4))
    assert info["mi_lower"] == pytest.approx(np.log(4))
    assert info["mi_upper"] == pytest.approx(np.log(39 / 9))
    assert info["effective_b"] == pytest.approx(4)


def test_a_module_used_by_one_example_alone_makes_the_upper_bound_infinite():
    assert information(np.eye(4))["mi_upper"] == np.inf
    assert information(np.array([[1.0, 0.0], [0.5, 0.5]]))["mi_upper"] == np.inf


def test_uniform_rows_say_nothing():
    info = information(np.full((10, 3, 8), 1 / 8))
    np.testing.assert_allclose(info["h_a"], np.log(8), rtol=1e-14)
    np.testing.assert_allclose(info["h_b"], np.log(8), rtol=1e-14)
    np.testing.assert_allclose(info["mi_lower"], 0, atol=1e-14)
    np.testing.assert_allclose(info["mi_upper"], 0, atol=1e-14)


def test_duplicated_rows_say_nothing():
    info = information(np.tile([0.7, 0.2, 0.1], (50, 1)))
    assert 0 <= info["mi_lower"] < 1e-14
    assert 0 <= info["mi_upper"] < 1e-14


def test_a_single_example_has_no_others():
    info = information(np.array([[0.3, 0.7]]))
    assert info["mi_lower"] == 0.0
    assert info["mi_upper"] == np.inf


def test_leave_one_out_matches_the_pairs():
    p = dirichlet(40, 7)
    assert information(p)["mi_upper"] == pytest.approx(
        leave_one_out_by_pairs(p), rel=1e-12
    )


def test_leave_one_out_keeps_digits_where_one_row_owns_a_module():
    small = 1e-18  # lost in 1 + 1e-18 - 1
    p = np.array([[1 - 1e-16, 1e-16], [small, 1.0], [2 * small, 1.0]])
    others = np.array([1.5 * small, (1e-16 + 1) / 2])
    expected = [np.log(1 / others[0]), np.log(1 / others[1]), np.log(1 / others[1])]
    assert information(p)["mi_upper"] == pytest.approx(np.mean(expected), rel=1e-12)


def test_padding_changes_nothing():
    p = dirichlet(30, 4)
    padded = np.concatenate([p, np.zeros((30, 3))], 1)
    expected = information(p)
    for key, value in information(padded).items():
        assert value == pytest.approx(expected[key], rel=1e-13)


def test_labels_change_nothing():
    p = dirichlet(50, 6)
    permuted = information(p[:, np.random.default_rng(1).permutation(6)])
    for key, value in information(p).items():
        assert permuted[key] == pytest.approx(value, rel=1e-13)


def test_bracket_holds_the_truth_of_the_dirichlet_case():
    """16 choices, rows from Dirichlet(0.05): I = 1.99 nats."""
    rng = np.random.default_rng(0)
    plug_in = {4: 1.10, 16: 1.72, 64: 1.92, 256: 1.97, 1024: 1.99}
    for n, expected in plug_in.items():
        draws = 200 if n < 1024 else 40
        p = rng.dirichlet(np.full(16, 0.05), (n, draws))  # a layer a draw
        info = information(p)
        assert info["mi_lower"].mean() == pytest.approx(expected, abs=0.03)
        assert info["mi_lower"].mean() - 0.03 <= 1.99 <= info["mi_upper"].mean() + 0.01
        assert (info["mi_lower"] <= np.log(n)).all()


def test_bracket_closes_on_the_truth():
    p = np.random.default_rng(0).dirichlet(np.full(16, 0.05), 200_000)
    info = information(p)
    assert info["mi_lower"] == pytest.approx(1.99, abs=0.01)
    assert info["mi_upper"] - info["mi_lower"] < 1e-3


def test_memory_grows_with_examples_not_with_pairs():
    p = dirichlet(20_000, 4).astype(np.float32)[:, None].repeat(3, 1)
    tracemalloc.start()
    information(p)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * p.nbytes  # pairs would take 3 GB


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_torch_tensors(dtype):
    p = torch.tensor([[0.5, 0.5], [0.75, 0.25]], dtype=dtype, requires_grad=True)
    expected = information(np.array([[0.5, 0.5], [0.75, 0.25]]))
    assert information(p) == expected


def test_float32_softmax_is_accepted():
    logits = torch.randn(1000, 2, 64, generator=torch.Generator().manual_seed(0)) * 5
    info = information(logits.softmax(-1))
    exact = information(logits.double().softmax(-1))
    np.testing.assert_allclose(info["mi_lower"], exact["mi_lower"], atol=1e-5)


@pytest.mark.parametrize(
    ("probs", "message"),
    [
        (np.ones(3) / 3, r"probs: got shape \(3,\), expected \(N, n_modules\)"),
        (np.ones((2, 2, 2, 2)) / 2, "got shape"),
        (np.ones((0, 3)), "got shape"),
        (np.array([[0.5, np.nan]]), "got 1 NaN, expected none"),
        (np.array([[1.5, -0.5]]), "got a negative value -0.5, expected >= 0"),
        (np.array([[0.5, 0.5], [0.5, 0.4]]), "a row that sums to 0.9, expected 1"),
        (np.array([[np.inf, 0.0]]), "a row that sums to inf, expected 1"),
        (np.array([["a", "b"]]), "got dtype <U1, expected real numbers"),
    ],
)
def test_refusals(probs, message):
    with pytest.raises(ValueError, match=message):
        information(probs)
