"""Information over batches: the same as at once, exact, small, with intervals."""

import itertools
import tracemalloc

import numpy as np
import pytest
import torch
from scipy.stats import poisson
from torch.utils.data import DataLoader

from latentroute.analysis import information, stream_information, streaming
from latentroute.analysis.bootstrap import PoissonWeights, centred_interval
from latentroute.analysis.streaming import TwoPasses

POINTS = ("h_a", "h_b", "effective_a", "effective_b", "mi_lower", "mi_upper")
INTERVALS = tuple(f"{name}_interval" for name in ("h_a", "h_b", "mi_lower", "mi_upper"))
TRUE_INFORMATION = 1.990  # Dirichlet(0.05) over 16 choices, from 400,000 rows


def rows(n, n_layers=2, n_modules=5, seed=0, concentration=0.5):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(n_modules, concentration), (n, n_layers))


def entropy_by_hand(p):
    return -sum(v * np.log(v) for v in p if v > 0)


@pytest.mark.parametrize("sizes", [(60,), (1, 59), (20, 20, 20), (7, 0, 53), (1,) * 60])
def test_however_the_data_are_cut_the_numbers_are_those_of_the_definitions(sizes):
    p = rows(60)
    cuts = np.split(p, np.cumsum(sizes)[:-1])
    info = stream_information([part for part in cuts if len(part)], replicates=20)
    whole = stream_information([p], replicates=20)
    assert info["n"] == 60
    for layer in range(2):
        q = p[:, layer]
        h_a = np.mean([entropy_by_hand(row) for row in q])
        h_b = entropy_by_hand(q.mean(0))
        upper = 0.0
        for n in range(60):
            others = np.delete(q, n, 0).mean(0)
            upper += (q[n] * np.log(q[n] / others)).sum() / 60
        assert info["h_a"][layer] == pytest.approx(h_a, rel=1e-12)
        assert info["h_b"][layer] == pytest.approx(h_b, rel=1e-12)
        assert info["mi_lower"][layer] == pytest.approx(h_b - h_a, rel=1e-11)
        assert info["mi_upper"][layer] == pytest.approx(upper, rel=1e-11)
    for name in INTERVALS:  # each example has its own counts, whatever its batch
        np.testing.assert_allclose(info[name], whole[name], rtol=1e-10)


def test_it_agrees_with_information():
    p = rows(300, seed=3)
    streamed, at_once = stream_information(np.split(p, 6)), information(p)
    for name in POINTS:
        np.testing.assert_allclose(streamed[name], at_once[name], rtol=1e-12)


def test_data_larger_than_a_chunk(monkeypatch):
    p = rows(500)
    expected = stream_information([p], replicates=10)
    monkeypatch.setattr(streaming, "CHUNK_ELEMENTS", 70)  # seven rows
    for name in (*POINTS, *INTERVALS):
        np.testing.assert_allclose(
            stream_information([p], replicates=10)[name], expected[name], rtol=1e-10
        )


def test_a_module_held_by_one_row_is_seen_across_batches():
    """The top of a module may come first, last, or twice."""
    for order in itertools.permutations(range(4)):
        p = np.array([[0.9, 0.1], [1.0, 0.0], [0.1, 0.9], [0.1, 0.9]])[list(order)]
        upper = stream_information(p[:, None], replicates=2)["mi_upper"][0]
        assert upper == pytest.approx(float(information(p)["mi_upper"]), rel=1e-13)
        alone = np.eye(3)[[0, 1, 1, 2]][list(order)]
        assert stream_information(alone[:, None], replicates=2)["mi_upper"][0] == np.inf
        pairs = np.eye(2)[[0, 1, 1, 0]][list(order)]
        upper = stream_information(pairs[:, None], replicates=2)["mi_upper"][0]
        assert upper == pytest.approx(np.log(3))


def test_no_digit_is_lost_where_one_row_owns_a_module():
    small = 1e-18  # lost in 1 + 1e-18 - 1
    p = np.array([[1 - 1e-16, 1e-16], [small, 1.0], [2 * small, 1.0]])
    parts = stream_information(p[:, None], replicates=2)
    expected = [-np.log(1.5 * small), np.log(2), np.log(2)]
    assert parts["mi_upper"][0] == pytest.approx(np.mean(expected), rel=1e-12)


def test_a_loader_in_another_order_the_second_time():
    p = torch.tensor(rows(64))
    expected = information(p)
    torch.manual_seed(0)
    info = stream_information(DataLoader(p, batch_size=16, shuffle=True))
    for name in POINTS:
        np.testing.assert_allclose(info[name], expected[name], rtol=1e-12)


def test_a_function_that_returns_an_iterator():
    p = rows(40)
    info = stream_information(lambda: iter(np.split(p, 4)))
    np.testing.assert_allclose(info["mi_upper"], information(p)["mi_upper"], rtol=1e-12)


def test_the_seed_decides_the_intervals():
    p = rows(50)
    first, again, other = (stream_information([p], seed=s) for s in (0, 0, 1))
    for name in INTERVALS:
        assert (first[name] == again[name]).all()
        assert (first[name] != other[name]).any()


def test_intervals_hold_the_values_and_widen_with_the_level():
    p = rows(30)
    narrow, wide = (stream_information([p], level=level) for level in (0.5, 0.99))
    for name in ("h_a", "h_b", "mi_lower", "mi_upper"):
        low, high = narrow[f"{name}_interval"].T
        assert (low < narrow[name]).all() and (narrow[name] < high).all()
        lower, higher = wide[f"{name}_interval"].T
        assert (lower < low).all() and (high <= higher).all()  # log M caps h_b
        assert (lower >= 0).all()


def test_intervals_by_hand_from_the_same_counts():
    p, counts = rows(25, 1, seed=4)[:, 0], PoissonWeights(40, 3)(25)
    h = np.array([entropy_by_hand(row) for row in p])
    others = np.array([np.delete(p, n, 0).mean(0) for n in range(25)])
    gap = (p * np.log(p.mean(0) / others)).sum(-1)
    lower, upper = [], []
    for w in counts.T / counts.sum(0)[:, None]:
        lower.append(entropy_by_hand(w @ p) - w @ h)
        upper.append(lower[-1] + w @ gap)
    info = stream_information([p], replicates=40, seed=3, level=0.8)
    for name, drawn in (("mi_lower", lower), ("mi_upper", upper)):
        around = np.quantile(drawn - np.mean(drawn), [0.1, 0.9])
        np.testing.assert_allclose(
            info[f"{name}_interval"][0], info[name][0] + around, rtol=1e-10
        )


def test_interval_of_a_mean_is_the_usual_one():
    """h_a is a mean over examples: its interval is mean +- 1.96 standard errors."""
    p = rows(400, 1)
    info = stream_information([p], replicates=4000)
    each = [entropy_by_hand(row) for row in p[:, 0]]
    half = 1.96 * np.std(each, ddof=1) / 20
    low, high = info["h_a_interval"][0]
    assert high - low == pytest.approx(2 * half, rel=0.06)
    assert (low + high) / 2 == pytest.approx(np.mean(each), abs=0.1 * half)


@pytest.mark.parametrize("n", [16, 64, 256])
def test_intervals_cover_the_truth_of_the_dirichlet_case(n):
    """60 data sets (as layers: same counts, own rows): at 95% 51 must, or p < 1e-4."""
    p = np.random.default_rng(n).dirichlet(np.full(16, 0.05), (n, 60))
    info = stream_information([p])
    low = info["mi_lower_interval"][:, 0]
    high = info["mi_upper_interval"][:, 1]
    assert ((low <= TRUE_INFORMATION) & (high >= TRUE_INFORMATION)).sum() >= 51
    # negative control: the ends of the plug-in value alone miss it in small data
    if n == 16:
        ends = info["mi_lower_interval"]
        assert (ends[:, 1] >= TRUE_INFORMATION).sum() < 51


def test_the_brackets_average_holds_the_truth_and_the_plug_in_values_of_old():
    """MATH.md's table: rows from Dirichlet(0.05, ...) over 16 choices, I = 1.99."""
    plug_in = {4: 1.10, 16: 1.72, 64: 1.92, 256: 1.97, 1024: 1.99}
    for n, expected in plug_in.items():
        draws = 400 if n < 1024 else 80  # a layer a draw
        p = np.random.default_rng(1).dirichlet(np.full(16, 0.05), (n, draws))
        info = information(p)
        lower, upper = info["mi_lower"].mean(), info["mi_upper"].mean()
        assert lower == pytest.approx(expected, abs=0.03)
        if n >= 16:
            error = info["mi_lower"].std() / np.sqrt(draws)
            assert lower - 3 * error <= TRUE_INFORMATION <= upper + 3 * error


def test_memory_does_not_grow_with_the_data():
    def peak(n_batches):
        def batches():
            for seed in range(n_batches):
                yield rows(500, 4, 8, seed=seed).astype(np.float32)

        tracemalloc.start()
        stream_information(batches, replicates=20)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    assert peak(32) < 1.1 * peak(4)


def test_what_is_kept_has_the_size_of_the_modules():
    def kept(n):
        passes = TwoPasses(replicates=3)
        passes.add(rows(n))
        passes.add_again(rows(n))
        return sum(
            value.nbytes
            for part in passes.results()
            for value in vars(part).values()
            if isinstance(value, np.ndarray)
        )

    assert kept(10) == kept(3000) < 3000


def test_counts_are_poisson():
    weights = PoissonWeights(51, 7)
    counts = np.concatenate([weights(n) for n in (1, 999, 4000)])
    assert (counts == PoissonWeights(51, 7)(5000)).all()
    seen = np.bincount(counts.astype(int).ravel(), minlength=6)[:6] / counts.size
    expected = poisson.pmf(range(6), 1)
    np.testing.assert_allclose(seen, expected, atol=4 * 0.5 / np.sqrt(counts.size))
    assert counts.var() == pytest.approx(1, abs=0.02)
    # independent of each other, between examples and between replicates
    rows, columns = np.corrcoef(counts[:300]), np.corrcoef(counts.T)
    assert np.abs(rows - np.eye(300)).max() < 6 / np.sqrt(51)
    assert np.abs(columns - np.eye(51)).max() < 6 / np.sqrt(5000)


def test_centred_interval_by_hand():
    replicates = np.arange(101.0)[:, None]  # deviations -50 .. 50
    ends = centred_interval(np.array([10.0]), replicates, level=0.9)
    np.testing.assert_allclose(ends, [[-35.0, 55.0]])
    cut = centred_interval(np.array([10.0]), replicates, level=0.9, low=0, high=20)
    np.testing.assert_allclose(cut, [[0.0, 20.0]])
    infinite = centred_interval(np.array([np.inf]), replicates, level=0.9)
    assert (infinite == np.inf).all()


@pytest.mark.parametrize(
    ("p", "h_a", "h_b", "lower", "upper"),
    [
        (np.ones((5, 1, 1)), 0, 0, 0, 0),  # one module
        (np.full((6, 1, 4), 0.25), np.log(4), np.log(4), 0, 0),  # an idle router
        (np.eye(3)[[0] * 6][:, None], 0, 0, 0, 0),  # one module of three in use
        (np.array([[[0.5, 0.5]]]), np.log(2), np.log(2), 0, np.inf),  # one example
        (np.eye(2)[[0, 1]][:, None], 0, np.log(2), np.log(2), np.inf),
    ],
)
def test_extremes(p, h_a, h_b, lower, upper):
    info = stream_information([p])
    found = [float(info[name][0]) for name in ("h_a", "h_b", "mi_lower", "mi_upper")]
    assert found == pytest.approx([h_a, h_b, lower, upper], abs=1e-14)
    ends = np.array([info[name][0] for name in INTERVALS])
    if len(p) == 1:
        assert np.isnan(ends).all()
    else:
        assert (ends[:, 0] <= found).all() and (ends[:, 1] >= found).all()


@pytest.mark.parametrize(
    ("batches", "options", "message"),
    [
        (iter([np.ones((2, 1))]), {}, "got a list_iterator, expected what can be read"),
        ((p for p in [np.ones((2, 1))]), {}, "got a generator"),
        (3, {}, "got a int"),
        ([], {}, "got none, expected at least one example"),
        ([rows(4), rows(4, 3)], {}, r"got \(3, 5\) layers and modules after \(2, 5\)"),
        ([rows(4) * 2], {}, "a row that sums to 2"),
        ([rows(4)], {"level": 1.0}, "level: got 1.0"),
        ([rows(4)], {"replicates": 1}, "replicates: got 1, expected at least 2"),
        (
            [rows(4)],
            {"n_modules": [5]},
            r"n_modules: got \[5\], expected for each of 2",
        ),
        ([rows(4)], {"n_modules": [5, 4]}, "modules beyond these are used"),
    ],
)
def test_refusals(batches, options, message):
    with pytest.raises(ValueError, match=message):
        stream_information(batches, **options)


def test_data_that_change_between_the_readings_are_refused():
    sizes = iter([10, 9])
    with pytest.raises(ValueError, match="got 9 examples when read again after 10"):
        stream_information(lambda: iter([rows(next(sizes))]))
