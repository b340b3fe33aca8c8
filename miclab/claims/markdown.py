"""The ledger as Markdown, for a README (`table`) and for a page with every number (`page`)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from miclab.claims.ledger import Line
from miclab.claims.verdict import Condition

OPENING, CLOSING = "<!-- ledger: python -m scripts.write_ledger -->", "<!-- end of ledger -->"
"""Marks in a text between which the table stands."""
SHOWN = 2
"""Conditions that a row of the table shows one by one; of more, only those that hold and fail are counted."""


def _cell(text: object) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def _row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def rows_of(header: Sequence[str], cells: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    return "\n".join([_row(header), "|" + "---|" * len(header), *map(_row, cells)])


def measured(conditions: Sequence[Condition]) -> str:
    """What was measured, on one line."""
    if all(condition.measured is None for condition in conditions):
        return "no rows"
    if len(conditions) > SHOWN:
        counts = {v: sum(c.verdict == v for c in conditions) for v in ("holds", "does not hold", "not decided")}
        words = {"holds": "hold", "does not hold": "fail", "not decided": "undecided"}
        return f"{len(conditions)} conditions: " + ", ".join(f"{n} {words[v]}" for v, n in counts.items() if n)
    alone = len({condition.quantity for condition in conditions}) == len(conditions)
    names = [condition.quantity if alone else f"{condition.quantity}, {condition.text}" for condition in conditions]
    return "<br>".join(f"{name}: {c.measured_text} ({c.bound})" for name, c in zip(names, conditions, strict=True))


def _verdict(line: Line) -> str:
    """A verdict that does not list more conditions than a row shows."""
    conditions = line.findings.conditions
    holding = sum(condition.verdict == "holds" for condition in conditions)
    if line.findings.verdict == "holds only if" and holding > SHOWN:
        return f"holds only under {holding} of {len(conditions)} conditions"
    return line.verdict


def table(lines: Sequence[Line]) -> str:
    """The ledger, a row for each claim."""
    header = ("claim", "statement", "verdict", "measured (bound)", "runs")
    cells = [
        (line.entry.id, line.entry.statement, f"**{_verdict(line)}**", measured(line.findings.conditions), line.runs)
        for line in lines
    ]
    return rows_of(header, cells)


def with_table(text: str, lines: Sequence[Line]) -> str:
    """A text with the table, of the claims that have rows, between its two marks."""
    chosen = [line for line in lines if line.runs]
    found = f"{OPENING}\n\n{table(chosen)}\n\n{CLOSING}"
    return re.sub(f"{re.escape(OPENING)}.*{re.escape(CLOSING)}", lambda match: found, text, flags=re.DOTALL)


def page(lines: Sequence[Line], figures: Mapping[str, str]) -> str:
    """Every claim with its criterion, its conditions and the numbers shown for comparison.

    Arguments:
        figures: where the figure of a claim lies, relative to the page; a claim that is lacking shows none.
    """
    return "\n\n".join(_claim(line, figures.get(line.entry.id, "")) for line in lines)


def _claim(line: Line, figure: str) -> str:
    entry, findings = line.entry, line.findings
    parts = [
        f"## {entry.id}: {line.verdict}",
        entry.statement,
        f"*Paper:* {entry.paper}. *Criterion:* {entry.criterion}",
        f"Profile `{line.profile}`, {line.runs} runs of {', '.join(f'`{name}`' for name in entry.studies)}.",
        rows_of(
            ("holds only if", "measured", "holds if", "verdict"),
            [(c.text, f"{c.quantity}: {c.measured_text}", c.bound, c.verdict) for c in findings.conditions],
        ),
    ]
    if findings.comparisons:
        compared = [(a.quantity, a.measured_text, a.paper_text) for a in findings.comparisons]
        parts.append(rows_of(("shown for comparison", "measured", "paper"), compared))
    parts += [f"Note: {note}." for note in findings.notes]
    if figure:
        parts.append(f"![{entry.id}]({figure})")
    return "\n\n".join(parts)
