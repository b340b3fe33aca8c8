"""HTML that the reports share: a page from its template, tables and marks. Jinja2 escapes every text."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from miclab.report.plots import TEMPLATE
from miclab.statistics.palette import TEXT
from miclab.tables import Mark, Table

GENERATOR = "miclab report"
"""The generator in a page's head, by which `miclab.report.existing` recognises pages of miclab."""
_BACKTICKS = re.compile(r"`([^`]+)`")
_ID = re.compile(r"[^A-Za-z0-9_.-]+")


def coded(value: object) -> Markup:
    """A text whose parts in `backticks` are code. HTML is unchanged."""
    if isinstance(value, Markup):
        return value
    return Markup(_BACKTICKS.sub(r"<code>\1</code>", str(escape(str(value)))))


def shown(made: Table, kind: str = "plain", rows_by: str = "") -> Markup:
    """A table for a page; parts in `backticks` are code.

    Arguments:
        kind: class of the table. On a narrow screen the rows of `plain`, `compact` and `cells` are set one below the
            other; `numbers` and `strip` are scrolled.
        rows_by: name by which the page's script finds rows (see `Table.html`).
    """
    return Markup(made.html(kind, rows_by, coded))


def shown_mark(one: Mark) -> Markup:
    """A mark outside of a table."""
    return Markup('<span class="mark {}">{}</span>').format(one.kind, one.text)


def identifiers(names: Sequence[str]) -> list[str]:
    """An id for each name, as the target of links: its letters and digits, equal on every page. If names give the same
    id, the later ones are numbered."""
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


def _colours() -> str:
    """The palette's colours of words as CSS variables."""
    return f":root {{ {' '.join(f'--{name}: {colour};' for name, colour in TEXT.items())} }}\n"


@cache
def _templates() -> Environment:
    made = Environment(
        loader=PackageLoader("miclab.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"coded": coded, "shown": shown}
    return made


@cache
def packed_plotly() -> str:
    """Plotly's code, compressed, as text. It is most of a page."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode("utf-8"), 6, mtime=0)).decode("ascii")


def embedded_json(value: Any) -> str:
    """JSON for a script element. It holds no `<`, so nothing in it can close the element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=True).replace("<", "\\u003c")


def render(
    template: str, title: str, data: dict[str, Any], scripts: Sequence[str], subject: str = "", **context: Any
) -> bytes:
    """A whole page: style, numbers, Plotly and scripts in one file, which needs no network.

    Arguments:
        template: name of the page's template among the resources.
        title: of the window.
        data: the scripts' data, as plain data.
        scripts: names of the page's own scripts among the resources, in order; shared scripts come before them.
        subject: of the page; a page on the same subject may replace it.
        context: further variables of the template.
    """
    page = _templates().get_template(template)
    text = page.render(
        **{"title": title, "kind": template.removesuffix(".html"), **context},
        generator=GENERATOR,
        subject=subject,
        style=Markup(_colours() + _resource("report.css")),
        data=Markup(embedded_json({**data, "template": TEMPLATE})),
        plotly=Markup(packed_plotly()),
        unpack=Markup(_resource("unpack.js")),
        script=Markup("".join(map(_resource, ("common.js", *scripts)))),
    )
    return text.encode("utf-8")
