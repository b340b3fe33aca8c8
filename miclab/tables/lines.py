"""A long table as lines of text. Rich takes a millisecond a row, and a listing may have tens of thousands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest

LONG = 1000
"""Rows from which a table is printed by this module. Its cells are never folded: the terminal breaks long lines."""


def lines_of(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> Iterator[str]:
    """The lines of a table, as rich draws it where there is room.

    Arguments:
        columns: names of the columns.
        rows: texts of the cells, which may have several lines.
        right: for each column whether it is set to the right.
    """
    widths = [max(map(_width, column)) for column in zip(columns, *rows, strict=True)]

    def row_lines(cells: Sequence[str], rule: str) -> Iterator[str]:
        if any("\n" in one for one in cells):
            parts = zip_longest(*(one.split("\n") for one in cells), fillvalue="")
        else:
            parts = (cells,)
        for part in parts:
            yield f" {f' {rule} '.join(map(_padded, part, widths, right))} "

    yield from row_lines(columns, "┃")
    yield "╇".join("━" * (width + 2) for width in widths)
    for row in rows:
        yield from row_lines(row, "│")


def _width(text: str) -> int:
    """Columns of a terminal that the longest line of a text takes."""
    if text.isascii() and "\n" not in text:
        return len(text)
    from rich.cells import cell_len

    return max(map(cell_len, text.split("\n")))


def _padded(text: str, width: int, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space
