"""Tables of typed cells, and their printers: terminal, plain data, Markdown, HTML, polars.

A result gives `tables()`. Cells are defined there once, and every printer writes the same text.
"""

from miclab.tables.cells import (
    Cell,
    Code,
    HeadName,
    Interval,
    Link,
    Mark,
    Number,
    Place,
    Share,
    Text,
    Words,
    cell,
    estimate,
)
from miclab.tables.table import Table, Tabled, table, titled

__all__ = [
    "Cell", "Code", "HeadName", "Interval", "Link", "Mark", "Number", "Place", "Share", "Table", "Tabled", "Text",
    "Words", "cell", "estimate", "table", "titled",
]  # fmt: skip
