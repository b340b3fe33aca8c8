"""The tables of claims: the ledger, the conditions of a verdict, numbers shown for comparison."""

from __future__ import annotations

from collections.abc import Sequence

from miclab.claims.ledger import Line, below
from miclab.claims.registry import THEME, THEMES
from miclab.claims.verdict import HOLDS, Comparison, Condition, kind_of
from miclab.tables import Interval, Mark, Number, Table, table

SHOWN = 4
"""Most conditions that a row of the ledger lists. With more, only the number that hold is given."""


def verdict_mark(verdict: str, text: str = "") -> Mark:
    """A verdict, or a longer text for it, in its mark."""
    return Mark(text or verdict, kind_of(verdict))


def measured_cell(found: Condition | Comparison) -> Interval:
    """The measured interval, marked if it is of one seed, or a note that there is none."""
    text = found.measured_text
    if found.measured is None:
        return Interval(None, absent=text)
    return Interval(found.measured, remark=text.removeprefix(str(found.measured)))


def summary(line: Line) -> str:
    """The measured values of a claim, in one cell."""
    conditions = line.findings.conditions
    if all(condition.measured is None for condition in conditions):
        return "no rows" if not line.runs else "too few rows"
    if len(conditions) > SHOWN:
        held = sum(condition.verdict == HOLDS for condition in conditions)
        return f"{held} of {len(conditions)} conditions hold (--explain)"
    # The condition's text is shown where the quantity alone is not enough.
    alone = len({c.quantity for c in conditions}) == len(conditions)
    return "\n".join(f"{c.quantity}{'' if alone else f', if {c.text}'}: {c.measured_text}" for c in conditions)


def ledger_table(lines: Sequence[Line], preset: str) -> Table:
    """A row for each claim."""
    rows = [
        [line.entry.id, line.entry.statement, summary(line), line.entry.paper, f"{line.runs} of {line.needed}",
         verdict_mark(line.findings.verdict, line.verdict)]
        for line in lines
    ]  # fmt: skip
    others = [f"{letter}: {theme.over}" for letter, theme in THEMES.items() if theme.over != THEME.over]
    title = f"ledger of claims, preset {preset}: estimates with 95 % intervals over {THEME.over} ({', '.join(others)})"
    return table(title, ["claim", "statement", "measured", "paper", "runs", "verdict"], rows, below(lines))


def conditions_table(lines: Sequence[Line]) -> Table:
    """A row for each condition, with its claim where there are several claims."""
    rows = []
    for line in lines:
        for c in line.findings.conditions:
            unit = "" if c.measured is None else f"{c.measured.count} {c.measured.unit}s"
            row = [c.text, c.quantity, measured_cell(c), unit, c.bound, verdict_mark(c.verdict)]
            rows.append([line.entry.id, *row] if len(lines) > 1 else row)
    columns = ["condition", "quantity", "measured", "over", "holds if", "verdict"]
    return table("conditions, with 95 % intervals", ["claim", *columns] if len(lines) > 1 else columns, rows)


def comparisons_table(line: Line) -> Table:
    """A row for each number that is shown for comparison."""
    rows = [
        [c.quantity, measured_cell(c), c.paper_text, Number(c.distance, form="+f")] for c in line.findings.comparisons
    ]
    columns = ["quantity", "measured", "paper", "ours minus the paper's"]
    return table("shown for comparison, without effect on the verdict", columns, rows)
