"""One self-contained HTML page of a comparison, and the files beside it."""

from .page import render
from .pictures import Picture, pictures
from .table import COLUMNS, Column, cell, records, shown_columns
from .write import write

__all__ = [
    "COLUMNS",
    "Column",
    "Picture",
    "cell",
    "pictures",
    "records",
    "render",
    "shown_columns",
    "write",
]
