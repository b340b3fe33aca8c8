"""Small pieces of HTML. Every text from outside is escaped here."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence


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
