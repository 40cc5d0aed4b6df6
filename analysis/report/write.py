"""A comparison as files to look at: the table, the figures, the page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ...files import write_whole
from ..summary import summary
from .page import render
from .pictures import pictures

if TYPE_CHECKING:
    import xarray as xr


def write(tree: xr.DataTree, folder: str | os.PathLike[str]) -> list[Path]:
    """Write ``summary.csv``, a PNG file for each figure, and ``report.html``.

    Args:
        tree: A comparison, or one run.
        folder: Where to; made if it is missing.

    Returns:
        The files, the page last.

    Raises:
        ValueError: If the tree is neither a comparison nor a run.
        OSError: If a file cannot be written; names it, and leaves no part of it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "summary.csv"
    write_whole(table, summary(tree).to_csv())
    drawn, missing = pictures(tree)
    files = [table]
    for picture in drawn:
        files.append(folder / f"{picture.name}.png")
        write_whole(files[-1], picture.png)
    return [*files, render(tree, drawn, folder / "report.html", missing=missing)]
