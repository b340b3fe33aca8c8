"""Tables of typed cells, and their printers: terminal, plain data, Markdown, HTML, polars.

A result gives `tables()`. Cells are defined there once, and every printer writes the same text. Text is text: no
printer reads markup in it.
"""

from __future__ import annotations

import html
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from miclab.errors import visible
from miclab.tables.cells import Cell, Figures, Interval, Writer, cell, escaped
from miclab.tables.lines import LONG, lines_of

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes

WIDTH = 160
"""Width of a table, in characters, if standard output is no terminal."""


@dataclass(frozen=True)
class Table:
    """A table of typed cells; make it with `table`.

    Arguments:
        title: of the table; empty: none.
        columns: names of the columns.
        rows: each with a cell for each column.
        notes: lines below it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    def is_number(self, place: int) -> bool:
        """Whether a column holds numbers and intervals alone, which are set to the right."""
        words = any(not isinstance(row[place], Figures) and str(row[place]) for row in self.rows)
        return not words and any(str(row[place]) for row in self.rows)

    def show(self) -> None:
        """Prints it to standard output."""
        if self.columns and len(self.rows) >= LONG:
            self._show_long()
        else:
            self._show_folded()
        for note in self.notes:
            print(visible(note))

    def _show_long(self) -> None:
        if self.title:
            print(visible(self.title))
        rows = [[visible(one).expandtabs() for one in row] for row in self.rows]
        names, right = [visible(name) for name in self.columns], [*map(self.is_number, range(len(self.columns)))]
        for line in lines_of(names, rows, right):
            print(line)

    def _show_folded(self) -> None:
        from rich.console import Console
        from rich.table import Table as Drawn
        from rich.text import Text as Plain

        drawn = Drawn(title=Plain(visible(self.title)) if self.title else None, title_justify="left", show_edge=False)
        for place, name in enumerate(self.columns):
            drawn.add_column(
                Plain(visible(name)), overflow="fold", justify="right" if self.is_number(place) else "left"
            )
        for row in self.rows:
            drawn.add_row(*(Plain(visible(one)) for one in row))
        # Lists of notes alone have no frame to show.
        if self.columns:
            Console(width=None if sys.stdout.isatty() else WIDTH, soft_wrap=False).print(drawn)

    def markdown(self) -> str:
        """It as a Markdown table, its notes as paragraphs below."""

        def line(cells: Iterable[str]) -> str:
            return f"| {' | '.join(cells)} |"

        numbers = ("---:" if self.is_number(place) else "---" for place in range(len(self.columns)))
        parts = [escaped(self.title)] if self.title else []
        if self.columns:
            head = line(map(escaped, self.columns))
            rows = [line(one.markdown() for one in row) for row in self.rows]
            parts.append("\n".join([head, f"| {' | '.join(numbers)} |", *rows]))
        return "\n\n".join([*parts, *map(escaped, self.notes)])

    def html(self, kind: str = "", rows_by: str = "", words: Writer = html.escape) -> str:
        """It as HTML, its notes as paragraphs below.

        Classes: `number` of numeric columns and cells, `name` of words in the first column, `mark` of marks, `note` of
        notes.

        Arguments:
            kind: class of the table; empty: none.
            rows_by: NAME by which a script finds rows: the number from 0 is in `data-NAME`, and rows take the
                keyboard's focus. Empty: none.
            words: function from words to HTML.
        """

        def of(place: int, one: Cell) -> str:
            named = "number" if isinstance(one, Figures) else "" if place else "name"
            return f'<td class="{named}">{one.html(words)}</td>' if named else f"<td>{one.html(words)}</td>"

        def line(number: int, row: Sequence[Cell]) -> str:
            start = f'<tr tabindex="0" data-{rows_by}="{number}">' if rows_by else "<tr>"
            return f"{start}{''.join(of(place, one) for place, one in enumerate(row))}</tr>"

        heads = (
            f'<th class="number">{words(name)}</th>' if self.is_number(place) else f"<th>{words(name)}</th>"
            for place, name in enumerate(self.columns)
        )
        body = "".join(line(number, row) for number, row in enumerate(self.rows))
        caption = f"<caption>{words(self.title)}</caption>" if self.title else ""
        start = f'<table class="{kind}">' if kind else "<table>"
        frame = f"{start}{caption}<thead><tr>{''.join(heads)}</tr></thead><tbody>{body}</tbody></table>"
        return (frame if self.columns else "") + "".join(f'<p class="note">{words(note)}</p>' for note in self.notes)

    def data(self) -> list[dict[str, Any]]:
        """Its rows as plain data by column; an interval also has NAME.low and NAME.high."""
        return [
            {key: value for name, one in zip(self.columns, row, strict=True) for key, value in one.fields(name).items()}
            for row in self.rows
        ]

    def frame(self) -> pl.DataFrame:
        """`data` as a frame of polars."""
        import polars as pl

        rows = self.data()
        # A row may lack an interval that another has; the ends are beside each column.
        cells = [(name, row[place]) for place, name in enumerate(self.columns) for row in self.rows]
        names = list(dict.fromkeys(key for name, one in cells for key in one.fields(name)))
        return pl.DataFrame([{name: row.get(name) for name in names} for row in rows], infer_schema_length=None)


def titled(one: Table, title: str, notes: Iterable[str] | None = None) -> Table:
    """The same table with another title, and with other notes if given."""
    return replace(one, title=title, notes=one.notes if notes is None else tuple(notes))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], notes: Iterable[str] = ()) -> Table:
    """A table of plain values and cells (see `cell`).

    Raises:
        ValueError: a row has not one cell for each column.
    """
    cells = tuple(tuple(map(cell, row)) for row in rows)
    if wrong := [row for row in cells if len(row) != len(columns)]:
        raise ValueError(f"{len(columns)} columns, but {len(wrong[0])} cells: {[str(one) for one in wrong[0]]}")
    return Table(title, tuple(columns), cells, tuple(notes))


class Tabled:
    """A result that gives tables, and through them a frame and a display in notebooks."""

    def tables(self) -> tuple[Table, ...]:
        """The tables of the result, the main one first."""
        raise NotImplementedError

    def frame(self) -> pl.DataFrame:
        """Its main table as a frame of polars; an interval NAME also has NAME.low and NAME.high."""
        return self.tables()[0].frame()

    def show(self) -> None:
        """Prints its tables to standard output."""
        for one in self.tables():
            one.show()

    def plot(self, axes: Axes | None = None) -> Axes:
        """The estimates of its main table with their intervals. Rows go from top to bottom, and each column of
        estimates has a colour.

        Arguments:
            axes: where to draw; None: new axes.
        """
        from miclab.statistics.style import draw_intervals, new_axes

        shown, columns = self.tables()[0], {}
        for place, name in enumerate(shown.columns):
            found = [row[place] for row in shown.rows]
            if any(isinstance(one, Interval) for one in found):
                columns[name] = [one.value if isinstance(one, Interval) else None for one in found]
        axes = axes or new_axes(height=max(2.6, 0.9 + 0.26 * len(shown.rows)))
        return draw_intervals(axes, shown.title, [str(row[0]) for row in shown.rows], columns)

    def _repr_html_(self) -> str:
        return "".join(one.html() for one in self.tables())
