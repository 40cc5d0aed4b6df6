"""What every figure shares, whatever it draws."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from latentroute.analysis.plots import FIGURES, StyledFigure, save_figure
from latentroute.analysis.plots.style import method_looks, module_colours

SHAPES = {
    "one_layer_two_modules": {"n_choices": (2,)},
    "four_layers_ten_modules": {"n_choices": (10, 10, 10, 10)},
    "layers_of_different_widths": {"n_choices": (2, 17)},
    "numbers": {"classes": None, "outputs": 2},
    "many_classes": {"classes": 40, "n": 300},
}


@pytest.fixture(params=FIGURES, ids=str)
def figure(request):
    return FIGURES[request.param]


@pytest.fixture(scope="module", params=[1, 4], ids=["one_seed", "four_seeds"])
def n_seeds(request):
    return request.param


@pytest.fixture(scope="module", params=SHAPES)
def any_comparison(request, comparison_tree, n_seeds):
    methods = ("exact", "a-method-with-quite-a-long-name-of-its-own")
    return comparison_tree(methods, range(n_seeds), **SHAPES[request.param])


def test_draws_comparisons_of_every_shape(figure, any_comparison):
    drawn = figure(any_comparison)
    drawn.draw_without_rendering()
    assert "toy" in drawn.get_suptitle()
    for axes in drawn.axes:
        has_names = any(axes.get_title(loc=side) for side in ("left", "center"))
        assert has_names or axes.get_xlabel() or axes.get_ylabel() or axes.patches


def test_draws_one_run(figure, run_tree):
    drawn = figure(run_tree())
    assert isinstance(drawn, StyledFigure)
    drawn.draw_without_rendering()


def test_draws_what_is_left_of_failures(figure, comparison_tree):
    failed = [("exact", 1), *(("hard-em", seed) for seed in range(3))]
    tree = comparison_tree(("exact", "hard-em", "topk-buffer"), failed=failed)
    figure(tree).draw_without_rendering()


def test_draws_many_methods(figure, comparison_tree):
    tree = comparison_tree([f"method-{i}" for i in range(9)], (0,), n=20, draws=2)
    figure(tree).draw_without_rendering()


def test_refuses_a_comparison_of_failures(figure, comparison_tree):
    tree = comparison_tree(("exact",), (0,), failed=[("exact", 0)])
    with pytest.raises(ValueError, match="every run failed"):
        figure(tree)


@pytest.mark.parametrize("name", ["learning_curves", "entropies"])
def test_refuses_runs_without_a_history(comparison_tree, name):
    tree = comparison_tree(("exact",), (0,))
    tree["exact/seed_0"] = tree["exact/seed_0"].drop_nodes("training")
    with pytest.raises(ValueError, match="expected 'training' among them"):
        FIGURES[name](tree)


def test_labels_change_no_figure_that_compares(comparison_tree):
    def numbers(name):
        tree = comparison_tree(n_choices=(4, 4))
        yield [pixel for pixel in FIGURES[name](tree)._repr_png_()]
        for node in tree.subtree:
            if "router_probs" in node.data_vars:
                values = node["router_probs"].values
                values[:] = values[..., [2, 0, 3, 1]]
        yield [pixel for pixel in FIGURES[name](tree)._repr_png_()]

    before, after = numbers("module_use")
    assert before == after


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_saves_without_cutting_off(run_tree, tmp_path, suffix):
    drawn = FIGURES["comparison"](run_tree())
    path = save_figure(drawn, tmp_path / "figures" / f"comparison.{suffix}")
    assert path.stat().st_size > 1000


def test_shown_as_the_value_of_a_notebook_cell(run_tree):
    png = FIGURES["comparison"](run_tree())._repr_png_()
    assert png.startswith(b"\x89PNG")


def test_style_leaves_no_trace(run_tree):
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    FIGURES["comparison"](run_tree())._repr_png_()
    assert dict(mpl.rcParams) == before


def test_nothing_heavy_is_imported_before_it_is_used():
    script = (
        "import sys, latentroute.analysis\n"
        "heavy = ['torch', 'pyro', 'arviz_base', 'arviz_plots', 'xarray', 'pandas',\n"
        "         'matplotlib']\n"
        "print([name for name in heavy if name in sys.modules])\n"
        "import latentroute.analysis.plots\n"
        "print('matplotlib.pyplot' in sys.modules, 'arviz_plots' in sys.modules)\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert out.stdout.split("\n")[:2] == ["[]", "False False"]


def test_module_colours_are_all_different():
    for n in (1, 2, 8, 9, 16, 17, 40):
        assert len(set(module_colours(n))) == n


def test_methods_differ_without_colour_or_without_marks():
    looks = method_looks([f"m{i}" for i in range(20)])
    assert len({(look.colour, look.dash) for look in looks.values()}) == 20
    assert len({look.marker for look in list(looks.values())[:7]}) == 7


def test_pyplot_is_never_involved(run_tree):
    drawn = FIGURES["comparison"](run_tree())
    assert isinstance(drawn, Figure)
    import matplotlib.pyplot as plt

    assert plt.get_fignums() == []
    assert np.isfinite(drawn.get_size_inches()).all()
