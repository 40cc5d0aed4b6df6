"""Products of segments of rows against a loop in float64."""

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from latentroute.models import ModuleBank, grouped
from latentroute.models.grouped import grouped_product

M = 40  # enough for NumPy's products


def segments(*, into=8, out=12, sizes=None, dtype=torch.float32, m=M):
    """Rows, a matrix for each segment, and ends, some segments empty."""
    generator = torch.Generator().manual_seed(0)
    if sizes is None:
        sizes = torch.randint(5, (m,), generator=generator)
        sizes[[0, 3, 4, m - 1]] = 0
    ends = torch.as_tensor(sizes).cumsum(0).to(torch.int32)
    h = torch.randn(int(ends[-1]), into, generator=generator)
    weight = torch.randn(len(ends), into, out, generator=generator) * into**-0.5
    return h.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), ends


def loop(h, weight, ends):
    sizes = ends.diff(prepend=ends.new_zeros(1)).tolist()
    parts = zip(h.split(sizes), weight, strict=True)
    return torch.cat([rows @ w for rows, w in parts])


def value_and_gradients(product, h, weight, ends):
    out = product(h, weight, ends)
    mix = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape)
    return out, *torch.autograd.grad((out * mix.to(out.dtype)).sum(), [h, weight])


def assert_a_loop(h, weight, ends, tolerance=1e-5):
    found = value_and_gradients(grouped_product, h, weight, ends)
    exact = [t.detach().double().requires_grad_() for t in (h, weight)]
    for own, true in zip(found, value_and_gradients(loop, *exact, ends), strict=True):
        assert own.dtype == h.dtype and own.shape == true.shape
        assert (own.double() - true).abs().max() <= tolerance * true.abs().max()


@pytest.fixture
def passes(monkeypatch):
    """How often NumPy's products and torch's single ones are used."""
    counts = {"numpy": 0, "single": 0}
    array, by_torch = grouped._array, grouped._by_torch

    def counted(tensor):
        counts["numpy"] += 1
        return array(tensor)

    def single(left, right, out):
        counts["single"] += 1
        by_torch(left, right, out)

    monkeypatch.setattr(grouped, "_array", counted)
    monkeypatch.setattr(grouped, "_by_torch", single)
    return counts


@pytest.mark.parametrize("widths", [(1, 1), (3, 5), (8, 12), (7, 64)], ids=str)
def test_many_small_segments_are_a_loop(widths, passes):
    assert_a_loop(*segments(into=widths[0], out=widths[1]))
    assert passes["numpy"] > 0 and passes["single"] == 0


def test_few_segments_and_large_ones_stay_with_torch(passes):
    assert_a_loop(*segments(m=8))
    assert_a_loop(*segments(into=64, out=64, sizes=[40] * M))
    assert_a_loop(*segments(dtype=torch.float64), tolerance=1e-12)
    assert passes["numpy"] == 0


def test_a_large_segment_among_small_ones(passes):
    assert_a_loop(*segments(into=64, out=64, sizes=[0, 300, *[3] * M, 70]))
    assert passes["single"] == 2 * 3, "a product forward, two backward"


def test_a_wrong_product_is_seen(monkeypatch):
    """The negative control: the rows of two segments, each by the other's matrix."""
    h, weight, ends = segments()
    by_array = grouped._array

    def turned(tensor):
        return by_array(tensor.roll(1, 0) if tensor.dim() == 3 else tensor)

    monkeypatch.setattr(grouped, "_array", turned)
    with pytest.raises(AssertionError):
        assert_a_loop(h, weight, ends)


def test_no_rows_at_all():
    h, weight, ends = segments(sizes=[0] * M)
    out, d_h, d_weight = value_and_gradients(grouped_product, h, weight, ends)
    assert out.shape == (0, 12) and d_h.shape == (0, 8) and not d_weight.any()


def test_strides_and_expanded_gradients():
    h, weight, ends = segments(into=6, out=6)
    rows = h.detach().T.contiguous().T.requires_grad_()
    matrices = weight.detach().mT.contiguous().mT.requires_grad_()
    assert not rows.is_contiguous() and not matrices.is_contiguous()
    assert_a_loop(rows, matrices, ends)
    (d_h,) = torch.autograd.grad(grouped_product(h, weight, ends).sum(), h)
    (true,) = torch.autograd.grad(loop(h, weight, ends).sum(), h)
    torch.testing.assert_close(d_h, true)


@pytest.mark.parametrize("learned", [0, 1])
def test_one_of_the_two_may_be_frozen(learned):
    h, weight, ends = segments()
    given = [h, weight]
    given[1 - learned] = given[1 - learned].detach()
    (own,) = torch.autograd.grad(
        grouped_product(*given, ends).square().sum(), given[learned]
    )
    (true,) = torch.autograd.grad(loop(*given, ends).square().sum(), given[learned])
    torch.testing.assert_close(own, true)


def test_it_differentiates_twice_and_in_batches():
    h, weight, ends = segments()
    seconds = []
    for product in (grouped_product, loop):
        value = product(h, weight, ends).square().sum()
        (first,) = torch.autograd.grad(value, h, create_graph=True)
        seconds.append(torch.autograd.grad(first.square().sum(), [h, weight]))
    torch.testing.assert_close(*seconds, rtol=1e-4, atol=1e-4)
    out = grouped_product(h, weight, ends)
    grads = torch.randn(3, *out.shape, generator=torch.Generator().manual_seed(1))
    (own,) = torch.autograd.grad(
        out, weight, grads, is_grads_batched=True, retain_graph=True
    )
    each = [torch.autograd.grad(out, weight, g, retain_graph=True)[0] for g in grads]
    torch.testing.assert_close(own, torch.stack(each))


def test_transforms_and_traces_see_the_products(passes):
    h, weight, ends = segments()
    other = h.detach() + 1
    graph = make_fx(lambda q: grouped_product(q, weight, ends))(h.detach())
    torch.testing.assert_close(graph(other), loop(other, weight, ends))
    gradient = torch.func.grad(lambda w: grouped_product(h, w, ends).square().sum())
    (true,) = torch.autograd.grad(loop(h, weight, ends).square().sum(), weight)
    torch.testing.assert_close(gradient(weight), true)
    assert passes["numpy"] == 0


@pytest.mark.parametrize(
    "case",
    [
        {"into": 7, "out": 5},
        {"into": 7, "out": 5, "m": 8},
        {"into": 8, "out": 12, "m": 8},
        {"into": 64, "out": 64, "sizes": [0, 300, *[3] * M, 70]},
        {"dtype": torch.float64},
        {"dtype": torch.float64, "m": 8, "into": 3},
    ],
    ids=str,
)
def test_a_graph_has_the_product_as_one_operation(case):
    """Captured on some segments, run on others of the same number of rows."""

    def of(h, weight, ends):
        rows, matrices = h.requires_grad_(), weight.requires_grad_()
        return value_and_gradients(grouped_product, rows, matrices, ends)

    h, weight, ends = (t.detach() for t in segments(**case))
    graph = make_fx(of, tracing_mode="fake")(h.clone(), weight.clone(), ends)
    targets = [str(node.target) for node in graph.graph.nodes]
    assert not any("grouped_mm" in target for target in targets)
    assert sum("latentroute" in target for target in targets) == 2
    moved = ends.clone()
    moved[: len(ends) // 2] = 0
    found = graph(h.flip(0), weight.flip(1), moved)
    true = value_and_gradients(
        loop, h.flip(0).requires_grad_(), weight.flip(1).requires_grad_(), moved
    )
    for own, expected in zip(found, true, strict=True):
        assert (own - expected).abs().max() <= 1e-5 * expected.abs().max()
    rows = h.T.contiguous().T  # column by column
    torch.library.opcheck(grouped._product, (rows, weight, ends))
    torch.library.opcheck(grouped._product_gradients, (rows, weight, ends, found[0]))


def test_a_compiled_bank_has_the_product():
    torch.manual_seed(0)
    bank = ModuleBank([nn.Linear(64, 64) for _ in range(4)])
    z, route = torch.randn(300, 64), torch.randint(4, (300,))
    compiled = torch.compile(bank, backend="aot_eager")
    torch.testing.assert_close(compiled(z, route), bank(z, route))


def test_bfloat16_under_autocast(passes):
    h, weight, ends = segments()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = grouped_product(h, weight, ends)
    assert out.dtype == torch.bfloat16 and passes["numpy"] == 0
    torch.testing.assert_close(out.float(), loop(h, weight, ends), rtol=0.05, atol=0.05)
