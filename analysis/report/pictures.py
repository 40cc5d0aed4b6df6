"""The figures of a comparison as PNG images with the words that go with them."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, NamedTuple

from docstring_parser import parse

if TYPE_CHECKING:
    import xarray as xr


class Picture(NamedTuple):
    """A figure as an image.

    Attributes:
        name: A word for its file.
        title: What the figure is headed.
        alt: What it shows, for who cannot see it.
        caption: How to read it.
        png: The image.
    """

    name: str
    title: str
    alt: str
    caption: str
    png: bytes


def pictures(tree: xr.DataTree) -> tuple[list[Picture], dict[str, str]]:
    """Draw every figure that a tree has the data for.

    Args:
        tree: A comparison, or one run.

    Returns:
        The pictures in reading order, and why the others are missing, by name.
    """
    from ..plots import suited

    drawn, missing = [], {}
    for name, draw in suited(tree).items():
        try:
            figure = draw(tree)
        except ValueError as error:  # such as: no run finished, none kept a history
            missing[name] = str(error)
            continue
        image = figure.png()
        words = parse(inspect.getdoc(draw) or "")
        title = figure.get_suptitle() or name.replace("_", " ")
        summary = _words(words.short_description)
        caption = _words(words.long_description)
        drawn.append(Picture(name, title, f"{title}. {summary}", caption, image))
    return drawn, missing


def _words(markup: str | None) -> str:
    """A docstring's text as one line without marks of code."""
    return " ".join((markup or "").replace("`", "").split())
