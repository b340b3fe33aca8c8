"""The ledger as Markdown: a row for each claim (`table`), or a page with every number (`page`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from miclab.claims.ledger import Line
from miclab.claims.tables import comparisons_table, conditions_table, ledger_table


def table(lines: Sequence[Line]) -> str:
    """The ledger, a row for each claim."""
    preset = lines[0].profile if lines else ""
    return ledger_table(lines, preset).markdown()


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
        line.sentence,
        f"Preset `{line.profile}`, {line.runs} runs of {', '.join(f'`{name}`' for name in entry.studies)}.",
        replace(conditions_table([line]), title="").markdown(),
    ]
    if findings.comparisons:
        parts.append(comparisons_table(line).markdown())
    parts += [f"Note: {note}." for note in findings.notes]
    if figure:
        parts.append(f"![{entry.id}]({figure})")
    return "\n\n".join(parts)
