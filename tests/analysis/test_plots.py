"""What every figure shares, whatever it draws."""

import subprocess
import sys
from xml.etree import ElementTree

import matplotlib as mpl
import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from latentroute.analysis import runs
from latentroute.analysis.chains import join_chains
from latentroute.analysis.plots import FIGURES, StyledFigure, save_figure, suited
from latentroute.analysis.plots.style import method_looks, module_colours

SHAPES = {  # options of the runs, and how many seeds each method has
    "one_layer_many_classes_one_seed": ({"n_choices": (2,), "classes": 40}, 1),
    "slots_and_layers_of_different_widths": (
        {
            "n_choices": (10, 10, 2, 17),
            "names": ("route_0_0", "route_0_1", "route_1_0", "route_1_1"),
        },
        3,
    ),
    "numbers_and_a_static_site": ({"classes": None, "outputs": 2}, 2),
}


@pytest.fixture(params=FIGURES, ids=str)
def figure(request):
    return FIGURES[request.param]


@pytest.fixture(scope="module", params=SHAPES)
def any_comparison(request, comparison_tree):
    methods = ("exact", "a-method-with-quite-a-long-name-of-its-own")
    options, n_seeds = SHAPES[request.param]
    tree = comparison_tree(methods, range(n_seeds), known=True, **options)
    if "static" in request.param:  # one route for all examples
        for run in runs(tree):
            for name in ("route_probs", "router_probs"):
                values = run.tree[f"routing/{name}"].values
                values[:, 0] = values[:1, 0]
    return tree


def test_draws_comparisons_of_every_shape(figure, any_comparison):
    drawn = figure(any_comparison)
    drawn.draw_without_rendering()
    assert "toy" in drawn.get_suptitle()
    assert drawn.get_supxlabel()
    assert all(axes.has_data() or axes.get_ylabel() for axes in drawn.axes)
    boxes = [title.get_window_extent() for title in drawn_titles(drawn)]
    for i, box in enumerate(boxes):
        assert box.x1 <= drawn.bbox.x1 + 1
        assert box.y1 <= drawn.bbox.y1 + 1
        assert not any(box.overlaps(other) for other in boxes[:i])


def drawn_titles(drawn):
    """The panels' titles that say something."""
    titles = [(axes.title, axes._left_title) for axes in drawn.axes]
    return [title for both in titles for title in both if title.get_text()]


def test_draws_one_run(figure, run_tree):
    drawn = figure(run_tree(known=True))
    assert isinstance(drawn, StyledFigure)
    drawn.draw_without_rendering()


def test_draws_many_methods_and_what_is_left_of_failures(figure, comparison_tree):
    methods = [f"method-{i}" for i in range(9)]
    failed = [("method-0", 1), ("method-3", 0), ("method-3", 1)]
    tree = comparison_tree(methods, (0, 1), failed=failed, known=True, n=20, draws=2)
    drawn = figure(tree)
    drawn.draw_without_rendering()
    assert isinstance(drawn, StyledFigure) and drawn.axes


def test_draws_chains_of_draws_of_the_weights(figure, run_tree):
    trees = [run_tree(known=True), run_tree(known=True)]
    trees[1]["log_likelihood/y"].values[:] += np.arange(7)[None, :, None] / 10
    joined = join_chains(trees)
    assert joined["posterior"].sizes["chain"] == 2
    figure(joined).draw_without_rendering()


def test_every_figure_but_the_confusion_suits_data_without_truth(comparison_tree):
    assert list(suited(comparison_tree(known=True))) == list(FIGURES)
    without = suited(comparison_tree())
    assert set(FIGURES) - set(without) == {"confusion"}
    for draw in without.values():
        draw(comparison_tree(seeds=(0,)))


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
def test_saves_every_format(run_tree, tmp_path, suffix):
    drawn = FIGURES["comparison"](run_tree())
    path = save_figure(drawn, tmp_path / "figures" / f"comparison.{suffix}")
    assert path.stat().st_size > 1000


def test_files_show_what_is_drawn(figure, run_tree, tmp_path):
    drawn = figure(run_tree(known=True))
    root = ElementTree.parse(save_figure(drawn, tmp_path / "figure.svg")).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    words = " ".join(text for text in root.itertext() if text.strip())
    for part in (drawn.get_suptitle(), drawn.get_supxlabel().split("\n")[0]):
        assert part in words  # as text, which a reader can search
    pixels = mpl.image.imread(save_figure(drawn, tmp_path / "figure.png"))[..., :3]
    assert min(pixels.shape[:2]) > 300
    assert (pixels[[0, -1]] == 1).all()  # nothing is cut off at the edges
    assert (pixels[:, [0, -1]] == 1).all()
    assert 0.01 < (pixels < 0.9).any(-1).mean() < 0.7  # neither empty nor full


def test_shown_as_the_value_of_a_notebook_cell(run_tree):
    png = FIGURES["comparison"](run_tree())._repr_png_()
    assert png.startswith(b"\x89PNG")


def test_style_leaves_no_trace(run_tree):
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


def lab(colours, vision):
    """CIE Lab of colours as an eye sees them whose cones mix as `vision` says."""
    rgb = np.array([mpl.colors.to_rgb(colour) for colour in colours])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    seen = np.clip(linear @ np.array(vision).T, 0, 1) @ xyz.T / [0.9505, 1, 1.089]
    x, y, z = np.where(seen > 0.008856, np.cbrt(seen), 7.787 * seen + 16 / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


@pytest.mark.parametrize(
    "vision",  # Vienot, Brettel, Mollon 1999
    [
        np.eye(3),
        [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
        [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
    ],
    ids=["all cones", "no green cones", "no red cones"],
)
def test_the_first_colours_are_far_apart_for_every_eye(vision):
    def nearest(colours):
        found = lab(colours, vision)
        apart = np.linalg.norm(found[:, None] - found, axis=-1)
        return apart[np.triu_indices(len(colours), 1)].min()

    assert nearest(module_colours(4)) > 24
    assert nearest(module_colours(8)) > 16


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
