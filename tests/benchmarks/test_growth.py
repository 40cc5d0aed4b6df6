"""The benchmarks of growth and of buffers, at tiny sizes."""

import numpy as np
import pandas as pd
import pytest
import torch

from latentroute.benchmarks import buffers, growth, timing
from latentroute.benchmarks.growth import Line, Size, arithmetic, exponents, step
from latentroute.benchmarks.growth_figure import growth_figure
from latentroute.inference.counting import count_evaluations

TINY = Size(N=4, L=2, M=3, S=3, K=2, D=5)


def made(method, axis, values, power):
    """Rows whose time grows with a power of the size, and their memory linearly."""
    return [
        {
            "method": method,
            "axis": axis,
            **TINY._replace(**{axis: v})._asdict(),
            "milliseconds": 0.3 * v**power,
            "megabytes": 2.0 * v,
            "multiply_adds": float(v) ** 2,
            "values_kept": 7.0 * v,
        }
        for v in values
    ]


def test_exponents_are_slopes_over_the_largest_sizes():
    rows = made("exact", "M", (2, 4, 8, 16), 1.7)
    rows[0]["milliseconds"] = 100.0  # not among the three largest
    found = exponents(pd.DataFrame(rows)).iloc[0]
    assert (found["from"], found["to"]) == (4, 16)
    measured = found[["time", "time, theory", "memory", "memory, theory"]]
    np.testing.assert_allclose(measured.astype(float), [1.7, 2.0, 1.0, 1.0])


@pytest.mark.parametrize("method", ["exact", "score-function", "topk-buffer"])
@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_the_arithmetic_counts_the_evaluations_that_are_made(method, n_layers):
    """D^2 a module evaluation: what theory grows by is what a bank is counted to do."""
    wide, wider = (TINY._replace(L=n_layers, D=d) for d in (10**6, 2 * 10**6))
    in_theory = arithmetic(method, wider)[0] / arithmetic(method, wide)[0]
    assert in_theory == pytest.approx(4, rel=1e-4)
    size = TINY._replace(L=n_layers)
    run = step(method, size)
    run()
    with count_evaluations() as count:
        run()
    theory = arithmetic(method, wide)[0] / 1e12 - 16 * n_layers * size.M
    assert theory == pytest.approx(count.rows, rel=1e-3)


@pytest.mark.parametrize("n", [10**5, 10**6])
def test_the_peak_is_what_is_held_at_once(n):
    def run():
        a = torch.empty(n)
        b = a + 1  # two at once, in bytes 8 n
        del a
        c = b + 1
        del b, c

    assert growth.peak_bytes(run) == pytest.approx(8 * n, rel=1e-2)


def test_a_line_is_measured_at_its_sizes(monkeypatch):
    monkeypatch.setattr(timing, "_ROUND", 0.0)
    lines = (Line("exact", "N", (2, 4, 8), TINY), Line("topk-buffer", "K", (1, 2, 4)))
    rows = list(growth.measure(lines, rounds=1))
    assert [row["N"] for row in rows[:3]] == [2, 4, 8]
    assert [row["K"] for row in rows[3:]] == [1, 2, 4]
    assert all(row["milliseconds"] > 0 and row["megabytes"] > 0 for row in rows)
    text = growth.markdown(exponents(pd.DataFrame(rows)), "command")
    assert text.count("\n| ") == 4 and "| topk-buffer | K | 1 | 4 |" in text


def test_the_figure_has_a_panel_for_each_axis_and_measure():
    rows = made("exact", "M", (2, 4, 8), 1.0) + made("soft", "D", (2, 4, 8), 1.0)
    figure = growth_figure(pd.DataFrame(rows))
    assert len(figure.axes) == 12
    drawn = [len(axes.lines) for axes in figure.axes]
    assert sum(drawn) == 2 * 2 * 2  # two methods, time and memory, each with theory


def test_both_sides_of_an_e_step_evaluate_as_many_rows(monkeypatch):
    monkeypatch.setattr(buffers, "ROWS", 20)
    size = buffers.Size(B=6, L=2, M=3, D=4, S=8, K=2)
    e_step, _, forward = buffers._work(size, None)
    e_step(), forward()
    rows = []
    for work in (e_step, forward):
        with count_evaluations() as count:
            work()
        rows.append(count.rows)
    assert rows[0] == rows[1] == 6 * (3 + 8 + 2)  # all three modules, then each route's
