"""The table printer: text stays text in every form, numbers are numbers, and intervals keep their ends."""

from __future__ import annotations

import contextlib
import html
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from miclab.statistics.intervals import Interval
from miclab.tables import HeadName, Mark, Number, Share, Tabled, cell, table
from miclab.tables import Interval as IntervalCell

ESTIMATE = Interval(0.5, 0.25, 0.75, "seed", 3)
TROUBLE = ("[red]head[/red]", "a|b", "<b>&", "x[/]", "`code` *star* _under_", "back\\slash", "# title", ":smile:")
WORDS = st.text(st.sampled_from("ab[]/|<>&*_`\\#:\"'"), min_size=1, max_size=12).map(lambda text: f"x{text}x")
WIDE = st.text(st.sampled_from("a[ 日é\n\x1b"), max_size=8).map(lambda text: f"x{text}x")


class Cells(HTMLParser):
    """Text of every cell of a page, as a browser shows it."""

    def __init__(self, page: str):
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag in ("td", "th"):
            self.found.append("")

    def handle_data(self, data):
        if self.found:
            self.found[-1] += data


@given(st.lists(WORDS, min_size=2, max_size=2))
def test_text_is_text_in_every_form(words):
    """Fails if a bracket, a bar or a tag in a name is read as markup, or is lost."""
    made = table("", ["name", "note"], [words])
    assert Cells(made.html()).found == ["name", "note", *words]
    assert made.data() == [{"name": words[0], "note": words[1]}]
    escaped = made.markdown().splitlines()[-1]
    assert re.sub(r"\\(.)", r"\1", escaped) == f"| {words[0]} | {words[1]} |"
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", escaped)) == 3


@pytest.mark.parametrize("text", TROUBLE)
def test_the_terminal_shows_text_as_it_is(capsys, text):
    """Fails if rich reads markup or emoji in a cell, a column or a title."""
    table(text, [text, "b"], [[text, 1]], notes=[text]).show()
    assert capsys.readouterr().out.count(text) == 4


@given(st.lists(st.tuples(WIDE, WIDE, st.integers(0, 10**6) | st.none()), min_size=1, max_size=5))
def test_a_long_table_is_drawn_as_rich_draws_it(rows):
    """Fails if a table of many rows has another text than one of few, wherever nothing has to be folded."""
    made = table("title", ["name", "note", "number"], rows)
    drawn = []
    for show in (made._show_long, made._show_folded):
        with contextlib.redirect_stdout(io.StringIO()) as output:
            show()
        drawn.append([line.rstrip() for line in output.getvalue().splitlines()])
    assert drawn[0] == drawn[1]


def test_cells_are_typed():
    """Fails if a kind of value is shown or kept in another way than its kind's."""
    values = {
        "text": ("words", "words"), "whole": (12345, "12,345"), "number": (0.12345, "0.123"), "none": (None, ""),
        "nan": (float("nan"), ""), "few": (Number(0.12345, 1), "0.1"), "small": (Number(1.2e-9, 2, "g"), "1.2e-09"),
        "share": (Share(0.1234), "12.3 %"), "interval": (ESTIMATE, "0.500 [0.250, 0.750]"),
        "fine": (IntervalCell(ESTIMATE, 1), "0.5 [0.2, 0.8]"), "head": (HeadName(1, 0), "1.0"),
        "path": (Path("a/b"), "a/b"), "mark": (Mark("holds", "good"), "holds"), "yes": (True, "yes"),
    }  # fmt: skip
    assert {name: str(cell(value)) for name, (value, _) in values.items()} == {
        n: text for n, (_, text) in values.items()
    }
    assert str(ESTIMATE) == str(cell(ESTIMATE))
    made = table("t", list(values), [[value for value, _ in values.values()]])
    row = made.frame().row(0, named=True)
    assert (row["whole"], row["number"], row["nan"], row["share"]) == (12345, 0.12345, None, 0.1234)
    assert (row["interval"], row["interval.low"], row["interval.high"]) == (0.5, 0.25, 0.75)
    assert '<span class="mark good">holds</span>' in made.html()


def test_rows_must_fit_and_may_lack_cells():
    """Fails if a row of the wrong length is printed askew, or a missing interval breaks the frame."""
    with pytest.raises(ValueError, match="2 columns, but 1 cells"):
        table("", ["a", "b"], [["only"]])
    frame = table("", ["name", "change", "share"], [["untouched", None, 1.0], ["cut", ESTIMATE, 0.5]]).frame()
    assert frame.columns == ["name", "change", "change.low", "change.high", "share"]
    assert frame["change.low"].to_list() == [None, 0.25]
    assert frame.schema["change"] == pl.Float64
    assert table("", ["a", "b"], [[1, "x"], [None, "y"]]).is_number(0)
    assert not table("", ["a", "b"], [[1, "x"]]).is_number(1)


def test_a_result_shows_its_tables(capsys):
    """Fails if a result's frame or its page for notebooks is not that of its tables, or notes are lost."""

    class Result(Tabled):
        def tables(self):
            return table("first <1>", ["a"], [[1]], ["a note"]), table("", [], [], ["only a note"])

    result = Result()
    assert result.frame().to_dicts() == [{"a": 1}]
    page = result._repr_html_()
    assert html.unescape(page).count("first <1>") == 1
    assert '<p class="note">a note</p><p class="note">only a note</p>' in page
    result.show()
    assert capsys.readouterr().out.splitlines()[-2:] == ["a note", "only a note"]
