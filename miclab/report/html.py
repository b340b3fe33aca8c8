"""HTML that the reports share: a page from its template, tables and marks. Jinja2 escapes every text."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from miclab import tables
from miclab.report.plots import TEMPLATE

GENERATOR = "miclab report"
"""What a page says that it was made by: `miclab.report.existing` knows its own pages by it."""
_BACKTICKS = re.compile(r"`([^`]+)`")
_ID = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Table:
    """A table of texts; a cell that is HTML is `Markup`.

    Arguments:
        numbers: columns set to the right.
        kind: class of the table. On a narrow screen the rows of a table are set one below the other; those of the kinds
            `numbers` and `strip` are scrolled.
        chosen_by: what the page's script knows a row by, with the value of each row in `chosen`; such rows take the
            keyboard's focus.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[int] = ()
    kind: str = "plain"
    chosen_by: str = ""
    chosen: Sequence[int] = ()


def table_of(made: tables.Table, kind: str = "plain") -> Table:
    """A table of typed cells as a page shows it: numbers and intervals to the right, marks in frames."""
    rows = [
        [mark(str(one), one.kind) if isinstance(one, tables.Mark) else str(one) for one in row] for row in made.rows
    ]
    numbers = tuple(place for place in range(len(made.columns)) if made.is_number(place))
    return Table(made.columns, rows, numbers, kind)


def mark(text: str, kind: str = "plain") -> Markup:
    """A short text in a frame: `good`, `bad` or `plain`."""
    return Markup('<span class="mark {}">{}</span>').format(kind, text)


def code(text: str) -> Markup:
    """A text as code."""
    return Markup("<code>{}</code>").format(text)


def coded(value: object) -> Markup:
    """A text whose parts in `backticks` are code; HTML stays as it is."""
    if isinstance(value, Markup):
        return value
    return Markup(_BACKTICKS.sub(r"<code>\1</code>", str(escape(str(value)))))


def identifiers(names: Sequence[str]) -> list[str]:
    """An id for each name by which a link finds it: the name's letters and digits, the same on every page that has it.
    Of names that give the same id, the later ones are numbered."""
    found: list[str] = []
    for name in names:
        stem = _ID.sub("-", name).strip("-") or "part"
        number, chosen = 2, stem
        while chosen in found:
            chosen, number = f"{stem}-{number}", number + 1
        found.append(chosen)
    return found


def _resource(name: str) -> str:
    return files("miclab.report").joinpath("templates", name).read_text(encoding="utf-8")


@cache
def _templates() -> Environment:
    made = Environment(
        loader=PackageLoader("miclab.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["coded"] = coded
    return made


def embedded_json(value: Any) -> str:
    """JSON that can stand inside a script element: no `<`, so nothing in it can close the element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=True).replace("<", "\\u003c")


def render(template: str, title: str, data: dict[str, Any], script: str, subject: str = "", **context: Any) -> bytes:
    """A whole page: style, numbers, Plotly and scripts in one file, which needs no network.

    Arguments:
        template: name of the page's template among the resources.
        title: of the window.
        data: what the scripts draw, as plain data.
        script: name of the page's own script among the resources; what pages share comes before it.
        subject: what the page is about; a page on the same subject may replace it.
        context: what the template needs besides.
    """
    page = _templates().get_template(template)
    text = page.render(
        **{"title": title, "kind": template.removesuffix(".html"), **context},
        generator=GENERATOR,
        subject=subject,
        style=Markup(_resource("report.css")),
        data=Markup(embedded_json({**data, "template": TEMPLATE})),
        plotly=Markup(get_plotlyjs()),
        script=Markup(_resource("common.js") + _resource(script)),
    )
    return text.encode("utf-8")
