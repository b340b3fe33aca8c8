"""The words and tables of the report on a study, as `study.html` needs them. Every picture has a table with the same
numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from miclab.claims.ledger import Line
from miclab.claims.tables import conditions_table, verdict_mark
from miclab.report.study.analyses import AnalysisOfStudy
from miclab.report.study.cells import RunOfStudy, StudyCells, finite, shown_value
from miclab.report.study.correlations import MeasureOfRuns
from miclab.report.study.phases import DIAGRAMS, SCORES, crossing_rows, panel_name, panels, trouble
from miclab.report.study.trajectories import Trajectory, training_panels
from miclab.runs.status import status_mark
from miclab.statistics.correlation import FEWEST_RUNS
from miclab.statistics.intervals import Interval
from miclab.tables import Cell, Code, Mark, Number, Table, Text, estimate, table
from miclab.tables import Interval as IntervalCell


def _number(value: float | None) -> Number:
    return Number(finite(value))


def rows_words(cells: StudyCells, requested: str) -> str:
    """The rows that represent the runs, in words."""
    if cells.step >= 0:
        return (
            f"Rows of step {cells.step:,}, the last that all finished runs have"
            " (--at last takes the last row of each run)."
        )
    last = "The last row of each run"
    return f"{last}." if requested == "last" else f"{last}: there is no step that all finished runs have."


def header(cells: StudyCells, source: str, at: str) -> dict[str, Any]:
    """A summary of the study: its number of runs, and the rows that are shown."""
    study = cells.study
    counts = ", ".join(f"{n} {status}" for status, n in cells.counts().items())
    planned = len(cells.runs)
    facts = {
        "preset": study.profile,
        "stage": ", ".join(study.stages),
        "runs": f"{planned} planned: {counts}",
        "cells": f"{len(cells.keys)}, {len(study.seeds)} seed{'' if len(study.seeds) == 1 else 's'} each",
        "axes": "; ".join(f"{a.name} ({', '.join(shown_value(v) for v in a.values)})" for a in cells.axes) or "none",
    }
    if cells.along:
        facts["decided by these"] = ", ".join(cells.along)
    if cells.strangers:
        facts["runs in the table that the study does not plan"] = str(cells.strangers)
    return {
        "title": study.title or study.name,
        "name": study.name,
        "file": str(study.file),
        "source": source,
        "facts": facts,
        "rows": rows_words(cells, at),
    }


def claims_view(answers: Sequence[str], lines: Sequence[Line], missing: Mapping[str, str]) -> dict[str, Any] | None:
    """The claims that the study answers, with the ledger's verdicts; None if it answers none.

    Arguments:
        answers: ids in the study's file.
        lines: those that could be judged.
        missing: why the others could not, by id.
    """
    if not answers:
        return None
    by_id = {line.entry.id: line for line in lines}
    rows, shown = [], []
    for name in answers:
        line = by_id.get(name)
        if line is None:
            rows.append([name, missing.get(name, ""), Mark("not judged"), "", ""])
            continue
        verdict = verdict_mark(line.findings.verdict, line.verdict)
        rows.append(
            [name, line.entry.statement, verdict, line.entry.paper, f"{line.runs} used, {line.missing} missing"]
        )
        shown.append(line)
    return {
        "table": table("", ["claim", "statement", "verdict", "the paper", "runs"], rows),
        "conditions": conditions_table(shown) if shown else None,
    }


def phases_view(cells: StudyCells, threshold: float) -> dict[str, Any]:
    """Phase diagrams, or curves over one axis, and the table of cells."""
    heat = cells.y is not None
    if heat:
        drawn = [
            (name, [(f"phase-{number}-{score}", f"{SCORES[score]} {name}") for score in DIAGRAMS])
            for number, name in enumerate(panel_name(cells, panel) for panel in panels(cells))
        ]
        words = (
            f"Mean accuracy over seeds. The white line is where icl passes {threshold:g}, between the middles of cells;"
            " an asterisk marks a cell with failed or missing runs."
        )
    else:
        drawn = [("", [(f"phase-{score}", SCORES[score]) for score in DIAGRAMS])]
        words = f"Mean accuracy over seeds with its 95 % interval; the dotted line is icl = {threshold:g}."
    rows = []
    for cell in range(len(cells.keys)):
        counts = sum(run.row is not None for run in cells.members[cell])
        values = [shown_value(cells.value(cell, axis)) for axis in cells.axes] or ["the study's one point"]
        scores = [_estimated(cells.scores[cell].get(score)) for score in SCORES]
        blank = cells.blank(cell) or trouble(cells, cell).removeprefix(", ")
        rows.append([*values, f"{counts} of {len(cells.members[cell])}", *scores, blank])
    columns = [*([axis.name for axis in cells.axes] or ["point"]), "seeds", *SCORES, "remarks"]
    crossed = [[name, text] for name, _, text in crossing_rows(cells, threshold)]
    line = ["line", f"passes at (interpolated on {cells.x.name if cells.x else ''})"]
    return {
        "title": "Phase diagrams" if heat else "Accuracy by point",
        "words": f"{words} Click a cell, or press Enter on a row of the table, to see its runs.",
        "panels": drawn,
        "scores": list(SCORES.items()),
        "crossed_title": f"Where icl passes {threshold:g}",
        "crossed": table("", line, crossed) if crossed else None,
        "cells": table("", columns, rows),
    }


def _estimated(found: tuple[float, Interval | None] | None, remark: str = "") -> Cell:
    """A mean with its interval, or an empty cell without one."""
    return Number(None) if found is None else estimate(*found, remark=remark)


def training_view(cells: StudyCells, over: Sequence[Mapping[str, Trajectory]]) -> dict[str, Any] | None:
    """Curves over training by cell; None if there are none."""
    if not any(found for of_cell in over for found in of_cell.values()):
        return None
    rows = []
    for cell, of_cell in enumerate(over):
        for step in sorted({step for found in of_cell.values() for step in found}):
            there = {score: of_cell[score][step] for score in SCORES if step in of_cell[score]}
            seeds = max(count for *_, count in there.values())
            values = [_estimated(there[score][:2] if score in there else None) for score in SCORES]
            rows.append([cells.label(cell), step, *values, seeds])
    return {
        "panels": [(name, f"training-{number}") for number, (name, _) in enumerate(training_panels(cells))],
        "scores": list(SCORES.items()),
        "numbers": table("", ["cell", "step", *SCORES, "seeds"], rows),
    }


def _correlation(value: float, interval: Interval | None, runs: int) -> Cell:
    if finite(value) is None:
        return IntervalCell(None, absent="too few runs" if runs < FEWEST_RUNS else "does not vary")
    return estimate(value, interval)


def measures_view(cells: StudyCells, measures: Sequence[MeasureOfRuns]) -> dict[str, Any] | None:
    """Measures against ICL: the scatter, and all measures by their correlation; None if the rows hold none."""
    if not measures:
        return None
    rows = []
    for measure in measures:
        found = measure.correlation
        values = [
            _correlation(found.pearson, found.pearson_interval, found.runs),
            _correlation(found.spearman, found.spearman_interval, found.runs),
        ]
        rows.append([Text(measure.title, hint=measure.text), *values, found.runs, found.configurations])
    columns = ["measure", "Pearson", "Spearman", "runs", "cells"]
    chosen = [i for i, run in enumerate(cells.runs) if run.row is not None]
    values = [
        [cells.label(cells.runs[i].cell), cells.runs[i].seed, _number((cells.runs[i].row or {}).get("icl")),
         *(_number(measure.values[i]) for measure in measures)]
        for i in chosen
    ]  # fmt: skip
    names = ["cell", "seed", "icl", *(measure.title for measure in measures)]
    return {
        "options": [(str(i), measure.title) for i, measure in enumerate(measures)],
        "table": table("", columns, rows),
        "numbers": table("", names, values),
    }


def analyses_view(cells: StudyCells, analyses: Sequence[AnalysisOfStudy]) -> dict[str, Any] | None:
    """ICL under knockouts, zeroed inputs and other lengths; None if no run has such an analysis."""
    shown = [analysis for analysis in analyses if analysis.cells]
    if not shown:
        return None
    numbers = []
    for analysis in shown:
        rows = [
            [cells.label(cell), *(_estimated(found.get(q)) for q in analysis.quantities)]
            for cell, found in analysis.cells.items()
        ]
        numbers.append(table(analysis.title, ["cell", *analysis.quantities], rows))
    known = dict.fromkeys(cell for analysis in shown if analysis.name != "context" for cell in analysis.cells)
    return {
        "panels": [
            (analysis.title, f"probe-{analysis.name}", "" if analysis.name == "context" else "probes")
            for analysis in shown
        ],
        "cells": [(str(cell), cells.label(cell)) for cell in known],
        "numbers": numbers,
    }


def runs_view(cells: StudyCells) -> tuple[str, Table]:
    """Every planned run."""

    def line(run: RunOfStudy) -> list[Any]:
        row = run.row or {}
        return [
            cells.label(run.cell), run.seed, Code(run.hash[:12]), status_mark(run.status), run.reason, row.get("step"),
            *(_number(row.get(score)) for score in SCORES),
        ]  # fmt: skip

    columns = ["cell", "seed", "run", "status", "reason", "step", *SCORES]
    return f"All {len(cells.runs)} planned runs", table("", columns, map(line, cells.runs))
