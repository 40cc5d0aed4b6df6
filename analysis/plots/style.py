"""What all figures share: the style sheet, the figure that carries it, the colours."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imsave
from numpy.typing import NDArray

from ...files import write_whole

STYLE = Path(__file__).with_name("latentroute.mplstyle")
NOTE = "#666666"
REFERENCE = "#333333"
MARKERS = "osD^vPXp"
DASHES = ("-", "--", "-.", ":")
_WHITE = 0xFFFFFFFF  # all four bytes of a pixel


@contextmanager
def style() -> Iterator[None]:
    """The project's style sheet, for as long as the block lasts."""
    with mpl.rc_context(fname=STYLE):
        yield


class StyledFigure(Figure):
    """A matplotlib Figure drawn in the project's style wherever it is drawn.

    matplotlib reads part of a style (ticks, saving) only while drawing, so the figure
    brings its own. pyplot does not know it: nothing leaks, nothing pops up, and a
    notebook shows it as the value of a cell.
    """

    def draw(self, renderer: Any) -> None:
        """Draw in the project's style."""
        with style():
            super().draw(renderer)

    def savefig(self, fname: Any, **options: Any) -> None:
        """Save in the project's style."""
        with style():
            super().savefig(fname, **options)

    def png(self) -> bytes:
        """A PNG image cut to what is drawn.

        Drawn once: ``savefig`` draws to find out where to cut, and again.
        """
        with style():
            dpi, own = mpl.rcParams["savefig.dpi"], self.dpi
            canvas: Any = FigureCanvasAgg(self)  # untyped
            self.set_dpi(dpi)
            canvas.draw()
            pixels = np.asarray(canvas.buffer_rgba())
            self.set_dpi(own)
            margin = round(mpl.rcParams["savefig.pad_inches"] * dpi)
        buffer = BytesIO()
        cut = _cut(pixels, margin)
        if cut is None:
            self.savefig(buffer, format="png")
        else:
            rgb = np.ascontiguousarray(cut[..., :3])
            imsave(buffer, rgb, format="png", dpi=dpi)
        return buffer.getvalue()

    def _repr_png_(self) -> bytes:
        return self.png()


def _cut(pixels: NDArray[np.uint8], margin: int) -> NDArray[np.uint8] | None:
    """The pixels (rows, columns, 4), of which none is transparent, less a white border.

    None where something touches the edge, and may go on beyond it.
    """
    drawn = pixels.view(np.uint32)[..., 0] != _WHITE
    if drawn[[0, -1]].any() or drawn[:, [0, -1]].any() or not drawn.any():
        return None
    places = []
    for axis in (1, 0):
        (inked,) = drawn.any(axis).nonzero()
        places.append(slice(max(inked[0] - margin, 0), inked[-1] + 1 + margin))
    return pixels[tuple(places)]


def new_figure(title: str, *, width: float, height: float) -> StyledFigure:
    """An empty figure with its title on the left; sizes in inches."""
    figure = StyledFigure(figsize=(width, height))
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def add_note(figure: Figure, text: str) -> None:
    """A line below everything: what lines, bands and dots stand for."""
    figure.supxlabel(text, x=0.01, ha="left", fontsize=9, color=NOTE)


def add_legend(figure: Figure, handles: Sequence[Any]) -> None:
    """The methods' names, right of all panels."""
    names = [wrapped(str(handle.get_label())) for handle in handles]
    figure.legend(handles, names, loc="outside right upper", title="method")


def name_row(axes: Axes, name: str) -> None:
    """A row's name in bold, left of its first panel and of that panel's own labels."""
    axes.annotate(
        wrapped(name, 18),
        (0, 0.5),
        (-52, 0),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="right",
        va="center",
        weight="bold",
        annotation_clip=False,
    )


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure without cutting off titles; the suffix says the format.

    Args:
        figure: What a plot of this package returned.
        path: File to write (png, svg, pdf); missing folders are made.

    Returns:
        The path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = BytesIO()
    form = path.suffix.removeprefix(".") or None  # None: the default, png
    figure.savefig(buffer, format=form, bbox_inches="tight")
    write_whole(path, buffer.getvalue())
    return path


def wrapped(name: str, width: int = 24) -> str:
    """A long name on several lines, broken at spaces and hyphens."""
    return textwrap.fill(name, width)


def number(value: float, digits: int) -> str:
    """A number as matplotlib writes its ticks, with a minus sign for a hyphen."""
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


@dataclass(frozen=True)
class Look:
    """How one method is drawn, the same in every figure."""

    colour: str
    marker: str
    dash: str


def method_looks(methods: Sequence[str]) -> dict[str, Look]:
    """A colour, marker and dash for each method, told apart without colour too."""
    colours = [c for c in _cycle() if c != "#f0e442"]  # yellow lines vanish on white
    return {
        method: Look(
            colour=colours[i % len(colours)],
            marker=MARKERS[i % len(MARKERS)],
            dash=DASHES[i // len(colours) % len(DASHES)],
        )
        for i, method in enumerate(methods)
    }


def module_colours(n_modules: int) -> list[str]:
    """A colour for each module: 8 hues, then their tints, then a scale of lightness."""
    hues = _cycle()
    if n_modules <= len(hues):
        return hues[:n_modules]
    if n_modules <= 2 * len(hues):
        tints = [_tint(hue) for hue in hues]
        return (hues + tints)[:n_modules]
    scale = mpl.colormaps["viridis"](np.linspace(0, 1, n_modules))
    return [to_hex(colour) for colour in scale]


def readable_on(colour: Any) -> str:
    """Black or white, whichever stands out more on a colour."""
    luminance = float(np.dot(to_rgb(colour), (0.299, 0.587, 0.114)))
    return "black" if luminance > 0.55 else "white"


def _tint(colour: str) -> str:
    """The colour mixed with white, a little more white than colour."""
    red, green, blue = (0.45 * part + 0.55 for part in to_rgb(colour))
    return to_hex((red, green, blue))


def _cycle() -> list[str]:
    with style():
        return [to_hex(c) for c in mpl.rcParams["axes.prop_cycle"].by_key()["color"]]
