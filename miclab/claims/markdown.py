"""The ledger as Markdown: a row for each claim (`table`), every claim with its numbers (`page`), or one (`judged`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from miclab.claims.ledger import Line
from miclab.claims.tables import comparisons_table, conditions_table, ledger_table
from miclab.tables import titled


def table(lines: Sequence[Line]) -> str:
    """The ledger, a row for each claim."""
    preset = lines[0].profile if lines else ""
    return ledger_table(lines, preset).markdown()


def page(lines: Sequence[Line], figures: Mapping[str, str]) -> str:
    """Every claim with its criterion, its conditions and the numbers shown for comparison.

    Arguments:
        figures: the path of a claim's figure, relative to the page. Claims without a path show none.
    """
    parts = []
    for line in lines:
        entry = line.entry
        parts += [f"## {entry.id}: {line.findings.verdict}", entry.statement]
        parts += [f"*Paper:* {entry.paper}. *Criterion:* {entry.criterion}", *judged(line, figures.get(entry.id, ""))]
    return "\n\n".join(parts)


def judged(line: Line, figure: str) -> list[str]:
    """The result of a claim by the rows of one preset. One paragraph each gives the verdict, its meaning, the
    conditions, the figure, the numbers shown for comparison, and notes.

    Arguments:
        figure: the path of its figure, relative to the page; empty: none is shown.
    """
    missing = f"; {line.missing} of {line.needed} needed runs are missing" if line.missing else ""
    studies = ", ".join(f"`{name}`" for name in line.entry.studies)
    parts = [
        f"**Verdict: {line.verdict}.** Preset `{line.profile}`, {line.runs} runs of {studies}{missing}.",
        line.sentence,
        titled(conditions_table([line]), "").markdown(),
    ]
    if figure:
        parts.append(f"![Figure of claim {line.entry.id}, preset {line.profile}]({figure})")
    if line.findings.comparisons:
        parts.append(comparisons_table(line).markdown())
    return parts + [f"Note: {note}." for note in line.findings.notes]
