"""Tables of typed cells, and their printers: terminal, plain data, Markdown, HTML, polars.

A result gives `tables()`; what a cell is, is said once there, and every printer writes the same text. Text is text: no
printer reads markup in it.
"""

from __future__ import annotations

import html
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from miclab.statistics import palette
from miclab.statistics.style import Estimate

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes

WIDTH = 160
"""Columns of a table where standard output is no terminal."""


class Words:
    """A cell that is words."""

    def fields(self, name: str) -> dict[str, Any]:
        """Columns of a frame."""
        return {name: str(self)}


@dataclass(frozen=True)
class Text(Words):
    """Words, shown as they are.

    Arguments:
        hint: an explanation that a page shows under the mouse.
    """

    text: str
    hint: str = ""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Code(Text):
    """An identifier or a command, in the letters of code where there are such."""


@dataclass(frozen=True)
class Number:
    """A number.

    Arguments:
        value: None or not a number is shown as `absent`.
        digits: behind the point; None for whole numbers, shown with commas.
        form: `f` for fixed digits, `+f` with a sign, `g` for significant ones.
        absent: why there is no number.
    """

    value: float | None
    digits: int | None = 3
    form: Literal["f", "+f", "g"] = "f"
    absent: str = ""

    def __str__(self) -> str:
        if self.value is None or self.value != self.value:
            return self.absent
        return (
            f"{self.value:,}" if self.digits is None else f"{self.value:{self.form[:-1]}.{self.digits}{self.form[-1]}}"
        )

    def fields(self, name: str) -> dict[str, Any]:
        """Columns of a frame."""
        return {name: None if self.value is None or self.value != self.value else self.value}


@dataclass(frozen=True)
class Share(Number):
    """A number from 0 to 1, shown in per cent."""

    digits: int | None = 1

    def __str__(self) -> str:
        return (
            self.absent if self.value is None or self.value != self.value else f"{100 * self.value:.{self.digits}f} %"
        )


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its interval.

    Arguments:
        value: None is shown as `absent`; ends that are not numbers as `no interval`.
        digits: behind the point.
        absent: why there is no estimate.
        remark: what stands behind it.
    """

    value: Estimate | None
    digits: int = 3
    absent: str = ""
    remark: str = ""

    def __str__(self) -> str:
        if self.value is None:
            return self.absent
        if self.value.low != self.value.low:
            return f"{self.value.mean:.{self.digits}f} (no interval){self.remark}"
        mean, low, high = (f"{v:.{self.digits}f}" for v in (self.value.mean, self.value.low, self.value.high))
        return f"{mean} [{low}, {high}]{self.remark}"

    def fields(self, name: str) -> dict[str, Any]:
        """Columns of a frame: the estimate, and both ends."""
        if self.value is None:
            return {name: None, f"{name}.low": None, f"{name}.high": None}
        low, high = (None if end != end else end for end in (self.value.low, self.value.high))
        return {name: self.value.mean, f"{name}.low": low, f"{name}.high": high}


@dataclass(frozen=True)
class HeadName(Words):
    """The name of a head, LAYER.HEAD, both from 0."""

    layer: int
    head: int

    def __str__(self) -> str:
        return f"{self.layer}.{self.head}"


@dataclass(frozen=True)
class Place(Words):
    """A file or folder."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class Mark(Words):
    """A short word that judges, such as a verdict."""

    text: str
    kind: palette.Kind = "plain"

    def __str__(self) -> str:
        return self.text


Cell = Text | Code | Number | Share | Interval | HeadName | Place | Mark


def cell(value: Any) -> Cell:
    """The cell of a plain value: whole numbers with commas, other numbers with three digits, estimates with
    their intervals, None as an empty cell, anything else as text."""
    if isinstance(value, Cell):
        return value
    if value is None:
        return Number(None)
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if isinstance(value, int):
        return Number(value, None)
    if isinstance(value, float):
        return Number(value)
    if isinstance(value, Path):
        return Place(value)
    return Interval(value) if isinstance(value, Estimate) else Text(str(value))


def estimate(value: float | None, interval: Estimate | None, remark: str = "") -> Number | Interval:
    """The cell of a number whose interval may be lacking."""
    return Number(value) if interval is None else Interval(interval, remark=remark)


@dataclass(frozen=True)
class Table:
    """A table of typed cells; make it with `table`.

    Arguments:
        title: what it shows; empty: none.
        columns: names of the columns.
        rows: each with a cell for each column.
        notes: lines that stand below it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    def is_number(self, place: int) -> bool:
        """Whether a column holds numbers and intervals alone, which are set to the right."""
        shown = [row[place] for row in self.rows if str(row[place])]
        return bool(shown) and all(isinstance(one, (Number, Interval)) for one in shown)

    def show(self) -> None:
        """Prints it to standard output."""
        from rich.console import Console
        from rich.table import Table as Drawn
        from rich.text import Text as Plain

        drawn = Drawn(title=Plain(self.title) if self.title else None, title_justify="left", show_edge=False)
        for place, name in enumerate(self.columns):
            drawn.add_column(Plain(name), overflow="fold", justify="right" if self.is_number(place) else "left")
        for row in self.rows:
            drawn.add_row(*(Plain(str(one)) for one in row))
        # Lists of notes alone have no frame to show.
        if self.columns:
            Console(width=None if sys.stdout.isatty() else WIDTH, soft_wrap=False).print(drawn)
        for note in self.notes:
            print(note)

    def markdown(self) -> str:
        """It as a Markdown table, its notes as paragraphs below."""

        def line(cells: Iterable[object]) -> str:
            return f"| {' | '.join(map(_markdown_cell, cells))} |"

        numbers = ("---:" if self.is_number(place) else "---" for place in range(len(self.columns)))
        parts = [_markdown(self.title)] if self.title else []
        if self.columns:
            parts.append("\n".join([line(self.columns), f"| {' | '.join(numbers)} |", *map(line, self.rows)]))
        return "\n\n".join([*parts, *map(_markdown, self.notes)])

    def html(self, kind: str = "", rows_by: str = "", words: Callable[[str], str] = html.escape) -> str:
        """It as HTML, its notes as paragraphs below.

        Classes: `number` of numeric columns and cells, `name` of words in the first column, `mark` of marks, `note` of
        notes.

        Arguments:
            kind: class of the table; empty: none.
            rows_by: what a script knows a row by; its number from 0 stands in `data-NAME`, and rows take the keyboard's
                focus. Empty: nothing knows them.
            words: how words become HTML.
        """

        def of(place: int, one: Cell) -> str:
            text = words(str(one))
            if isinstance(one, Mark) and text:
                text = f'<span class="mark {one.kind}">{text}</span>'
            elif isinstance(one, Code):
                text = f"<code>{html.escape(one.text)}</code>"
            if isinstance(one, Text) and one.hint:
                text = f'<span title="{html.escape(one.hint)}">{text}</span>'
            named = "number" if isinstance(one, (Number, Interval)) else "" if place else "name"
            return f'<td class="{named}">{text}</td>' if named else f"<td>{text}</td>"

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
        """Its rows as plain data by column; of an interval also NAME.low and NAME.high."""
        return [
            {key: value for name, one in zip(self.columns, row, strict=True) for key, value in one.fields(name).items()}
            for row in self.rows
        ]

    def frame(self) -> pl.DataFrame:
        """`data` as a frame of polars."""
        import polars as pl

        rows = self.data()
        # A row may lack an interval that another has; the ends of each stand beside it.
        cells = [(name, row[place]) for place, name in enumerate(self.columns) for row in self.rows]
        names = list(dict.fromkeys(key for name, one in cells for key in one.fields(name)))
        return pl.DataFrame([{name: row.get(name) for name in names} for row in rows], infer_schema_length=None)


def titled(one: Table, title: str, notes: Iterable[str] | None = None) -> Table:
    """The same table with another title, and with other notes where they are given."""
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
    """A result that gives tables, and through them a frame and what a notebook shows."""

    def tables(self) -> tuple[Table, ...]:
        """What it says, the main table first."""
        raise NotImplementedError

    def frame(self) -> pl.DataFrame:
        """Its main table as a frame of polars; of an interval NAME also NAME.low and NAME.high."""
        return self.tables()[0].frame()

    def show(self) -> None:
        """Prints its tables to standard output."""
        for one in self.tables():
            one.show()

    def plot(self, axes: Axes | None = None) -> Axes:
        """The estimates of its main table with their intervals. Rows of the table go from top to bottom; each column of
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
        return draw_intervals(axes or new_axes(), shown.title, [str(row[0]) for row in shown.rows], columns)

    def _repr_html_(self) -> str:
        return "".join(one.html() for one in self.tables())


def _markdown_cell(one: object) -> str:
    return f"`{one}`" if isinstance(one, Code) and "`" not in one.text else _markdown(str(one))


def _markdown(text: str) -> str:
    """Text that stands for itself in Markdown."""
    for character in "\\|*_`<>[]#":
        text = text.replace(character, f"\\{character}")
    return text.replace("\n", "<br>")
