"""Cells of tables: words, numbers, intervals, heads, files and marks. Each knows its text in every form."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from miclab.statistics.palette import Kind
from miclab.statistics.style import Estimate

Writer = Callable[[str], str]
"""Function from words to HTML."""


def escaped(text: str) -> str:
    """Text escaped for Markdown."""
    for character in "\\|*_`<>[]#":
        text = text.replace(character, f"\\{character}")
    return text.replace("\n", "<br>")


class Words:
    """A cell of words."""

    def fields(self, name: str) -> dict[str, Any]:
        """Columns of a frame."""
        return {name: str(self)}

    def markdown(self) -> str:
        """It in a cell of a Markdown table."""
        return escaped(str(self))

    def html(self, words: Writer) -> str:
        """It in a cell of a page."""
        return words(str(self))


class Figures:
    """A cell of a number, or the reason why there is none. It is aligned to the right."""

    def markdown(self) -> str:
        """It in a cell of a Markdown table."""
        return str(self)

    def html(self, words: Writer) -> str:
        """It in a cell of a page."""
        return words(str(self))


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

    def html(self, words: Writer) -> str:
        """It in a cell of a page."""
        return f'<span title="{html.escape(self.hint)}">{words(self.text)}</span>' if self.hint else words(self.text)


@dataclass(frozen=True)
class Code(Words):
    """An identifier or a command, in a font for code if there is one."""

    text: str

    def __str__(self) -> str:
        return self.text

    def markdown(self) -> str:
        """It in a cell of a Markdown table."""
        return escaped(self.text) if "`" in self.text or "|" in self.text else f"`{self.text}`"

    def html(self, words: Writer) -> str:
        """It in a cell of a page."""
        return f"<code>{html.escape(self.text)}</code>"


@dataclass(frozen=True)
class Link(Words):
    """Words that link to another page.

    Arguments:
        target: its address.
    """

    text: str
    target: str

    def __str__(self) -> str:
        return self.text

    def markdown(self) -> str:
        """It in a cell of a Markdown table."""
        return f"[{escaped(self.text)}]({self.target})"

    def html(self, words: Writer) -> str:
        """It in a cell of a page."""
        return f'<a href="{html.escape(self.target)}">{words(self.text)}</a>'


@dataclass(frozen=True)
class Number(Figures):
    """A number.

    Arguments:
        value: None or not a number is shown as `absent`.
        digits: after the point; None for whole numbers, shown with commas.
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
class Interval(Figures):
    """An estimate with the ends of its interval.

    Arguments:
        value: None is shown as `absent`; ends that are not numbers as `no interval`.
        digits: behind the point.
        absent: why there is no estimate.
        remark: text after it.
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
    """A short judgement, such as a verdict."""

    text: str
    kind: Kind = "plain"

    def __str__(self) -> str:
        return self.text

    def markdown(self) -> str:
        """It in a cell of a Markdown table."""
        return f"**{escaped(self.text)}**" if self.text else ""

    def html(self, words: Writer) -> str:
        """It in a cell of a page."""
        return f'<span class="mark {self.kind}">{words(self.text)}</span>' if self.text else ""


Cell = Text | Code | Link | Number | Share | Interval | HeadName | Place | Mark


def cell(value: Any) -> Cell:
    """The cell of a plain value: whole numbers with commas, other numbers with three digits, estimates with
    their intervals. None is an empty cell, anything else is text."""
    if isinstance(value, (Words, Figures)):
        return value  # type: ignore[return-value]
    if type(value) is str:
        return Text(value)
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
    """The cell of a number whose interval may be missing."""
    return Number(value) if interval is None else Interval(interval, remark=remark)
