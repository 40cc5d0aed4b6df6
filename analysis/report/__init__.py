"""One self-contained HTML page of a comparison, and the files beside it."""

from .explorer import explorer_data
from .page import render
from .pictures import Picture, pictures
from .table import COLUMNS, Column, blocks, cell, records, shown_columns
from .tables import Table, tables
from .write import write

__all__ = [
    "COLUMNS",
    "Column",
    "Picture",
    "Table",
    "blocks",
    "cell",
    "explorer_data",
    "pictures",
    "records",
    "render",
    "shown_columns",
    "tables",
    "write",
]
