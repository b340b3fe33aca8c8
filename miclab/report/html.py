"""HTML that the reports share: its pieces, and the whole page. Every text from outside is escaped here."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from importlib.resources import files
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs


def escape(value: object) -> str:
    """Text that stands for itself in HTML."""
    return html.escape(str(value))


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    numbers: Sequence[int] = (),
    kind: str = "",
    chosen_by: Sequence[str] = (),
) -> str:
    """A table of cells that are HTML already.

    Arguments:
        numbers: columns set to the right.
        kind: class of the table.
        chosen_by: an attribute for each row, by which the page's script knows it; such rows take the keyboard's focus.
    """

    def cell(tag: str, place: int, content: str) -> str:
        style = "number" if place in numbers else "name" if place == 0 and tag == "td" else ""
        return f'<{tag} class="{style}">{content}</{tag}>' if style else f"<{tag}>{content}</{tag}>"

    top = "".join(cell("th", i, escape(name)) for i, name in enumerate(head))
    body = ""
    for place, row in enumerate(rows):
        opened = f'<tr tabindex="0" {chosen_by[place]}>' if chosen_by else "<tr>"
        body += opened + "".join(cell("td", i, c) for i, c in enumerate(row)) + "</tr>"
    opening = f'<table class="{kind}">' if kind else "<table>"
    return f'<div class="scroll">{opening}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def mark(text: str, kind: str = "plain") -> str:
    """A short text in a frame: `good`, `bad` or `plain`."""
    return f'<span class="mark {kind}">{escape(text)}</span>'


def _resource(name: str) -> str:
    return files("miclab.report").joinpath("templates", name).read_text(encoding="utf-8")


def embedded_json(value: Any) -> str:
    """JSON that can stand inside a script element: no `<`, so nothing in it can close the element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=True).replace("<", "\\u003c")


def render(title: str, body: Sequence[str], data: Any, script: str, kind: str = "runs") -> bytes:
    """A whole page: style, numbers, Plotly and scripts in one file, which asks the network for nothing.

    Arguments:
        title: of the window.
        body: parts of the page, as HTML; empty ones are left out.
        data: what the scripts draw, as plain data.
        script: name of the page's own script among the resources; what pages share comes before it.
        kind: class of the document, by which the style tells pages apart.
    """
    page = Template(_resource("template.html")).substitute(
        title=escape(f"miclab: {title}"),
        kind=kind,
        style=_resource("report.css"),
        body="\n".join(part for part in body if part),
        data=embedded_json(data),
        plotly=get_plotlyjs(),
        script=_resource("common.js") + _resource(script),
    )
    return page.encode("utf-8")


AXIS_CONTROL = (
    '<div class="controls js-only"><label>Training steps on <select data-choose="axis">'
    '<option value="log">a log-like axis</option><option value="linear">a linear axis</option></select></label></div>'
)
