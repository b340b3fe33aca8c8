"""Tables of typed cells, and their printers: terminal, plain data, Markdown, HTML, polars.

A result gives `tables()`; what a cell is, is said once there, and every printer writes the same text. Text is text: no
printer reads markup in it.
"""

from __future__ import annotations

import html
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes

WIDTH = 160
"""Columns of a table where standard output is no terminal."""


@runtime_checkable
class Estimate(Protocol):
    """A number with the ends of its interval, such as `miclab.statistics.intervals.Interval`."""

    @property
    def mean(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


@dataclass(frozen=True)
class Text:
    """Words, shown as they are."""

    text: str

    def __str__(self) -> str:
        return self.text

    def fields(self, name: str) -> dict[str, Any]:
        """Columns of a frame."""
        return {name: self.text}


@dataclass(frozen=True)
class Number:
    """A number.

    Arguments:
        value: None or not a number is shown as an empty cell.
        digits: behind the point; None for whole numbers, shown with commas.
        form: `f` for fixed digits, `g` for significant ones.
    """

    value: float | None
    digits: int | None = 3
    form: Literal["f", "g"] = "f"

    def __str__(self) -> str:
        if self.value is None or self.value != self.value:
            return ""
        return f"{self.value:,}" if self.digits is None else f"{self.value:.{self.digits}{self.form}}"

    def fields(self, name: str) -> dict[str, Any]:
        """Columns of a frame."""
        return {name: None if self.value is None or self.value != self.value else self.value}


@dataclass(frozen=True)
class Share(Number):
    """A number from 0 to 1, shown in per cent."""

    digits: int | None = 1

    def __str__(self) -> str:
        return "" if self.value is None or self.value != self.value else f"{100 * self.value:.{self.digits}f} %"


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its interval.

    Arguments:
        value: None is shown as an empty cell; ends that are not numbers as `no interval`.
        digits: behind the point.
    """

    value: Estimate | None
    digits: int = 3

    def __str__(self) -> str:
        if self.value is None:
            return ""
        if self.value.low != self.value.low:
            return f"{self.value.mean:.{self.digits}f} (no interval)"
        mean, low, high = (f"{v:.{self.digits}f}" for v in (self.value.mean, self.value.low, self.value.high))
        return f"{mean} [{low}, {high}]"

    def fields(self, name: str) -> dict[str, Any]:
        """Columns of a frame: the estimate, and both ends."""
        if self.value is None:
            return {name: None, f"{name}.low": None, f"{name}.high": None}
        low, high = (None if end != end else end for end in (self.value.low, self.value.high))
        return {name: self.value.mean, f"{name}.low": low, f"{name}.high": high}


@dataclass(frozen=True)
class Head:
    """A head, LAYER.HEAD, both from 0."""

    layer: int
    head: int

    def __str__(self) -> str:
        return f"{self.layer}.{self.head}"

    def fields(self, name: str) -> dict[str, Any]:
        """Columns of a frame."""
        return {name: str(self)}


@dataclass(frozen=True)
class Place:
    """A file or folder."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def fields(self, name: str) -> dict[str, Any]:
        """Columns of a frame."""
        return {name: str(self.path)}


@dataclass(frozen=True)
class Mark:
    """A short word that judges, such as a verdict."""

    text: str
    kind: Literal["good", "bad", "plain"] = "plain"

    def __str__(self) -> str:
        return self.text

    def fields(self, name: str) -> dict[str, Any]:
        """Columns of a frame."""
        return {name: self.text}


Cell = Text | Number | Share | Interval | Head | Place | Mark


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
            return f"| {' | '.join(_markdown(str(one)) for one in cells)} |"

        numbers = ("---:" if self.is_number(place) else "---" for place in range(len(self.columns)))
        parts = [_markdown(self.title)] if self.title else []
        if self.columns:
            parts.append("\n".join([line(self.columns), f"| {' | '.join(numbers)} |", *map(line, self.rows)]))
        return "\n\n".join([*parts, *map(_markdown, self.notes)])

    def html(self) -> str:
        """It as HTML, its notes as paragraphs below. Classes: `number` of numeric cells, `mark` of marks."""

        def of(place: int, one: Cell) -> str:
            text = html.escape(str(one))
            inner = f'<span class="mark {one.kind}">{text}</span>' if isinstance(one, Mark) and text else text
            return f'<td class="number">{inner}</td>' if isinstance(one, (Number, Interval)) else f"<td>{inner}</td>"

        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.columns)
        body = "".join(f"<tr>{''.join(of(i, one) for i, one in enumerate(row))}</tr>" for row in self.rows)
        caption = f"<caption>{html.escape(self.title)}</caption>" if self.title else ""
        frame = f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if self.columns else ""
        return frame + "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)

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
        return draw_intervals(self.tables()[0], axes or new_axes())

    def _repr_html_(self) -> str:
        return "".join(one.html() for one in self.tables())


def new_axes() -> Axes:
    """Axes of a new figure, which no window and no list of open figures holds."""
    from matplotlib.figure import Figure

    return Figure(layout="constrained").add_subplot()


def draw_intervals(one: Table, axes: Axes) -> Axes:
    """Draws the estimates of a table (see `Tabled.plot`)."""
    places = [i for i in range(len(one.columns)) if any(isinstance(row[i], Interval) for row in one.rows)]
    for number, place in enumerate(places):
        for height, row in enumerate(one.rows):
            found = row[place]
            if isinstance(found, Interval) and found.value is not None:
                mean, low, high = found.value.mean, found.value.low, found.value.high
                y = height + 0.6 * (number - (len(places) - 1) / 2) / max(len(places), 1)
                axes.plot([low, high], [y, y], color=f"C{number}")
                label = one.columns[place] if not height else None
                axes.plot([mean], [y], color=f"C{number}", marker="osD^v"[number % 5], label=label)
    axes.set_yticks(range(len(one.rows)), [str(row[0]) for row in one.rows])
    axes.invert_yaxis()
    axes.set_title(one.title, fontsize="small", wrap=True)
    if len(places) > 1:
        axes.legend(fontsize="small")
    elif places:
        axes.set_xlabel(one.columns[places[0]])
    return axes


def _markdown(text: str) -> str:
    """Text that stands for itself in Markdown."""
    for character in "\\|*_`<>[]#":
        text = text.replace(character, f"\\{character}")
    return text.replace("\n", "<br>")
