"""The words and tables of the report on a study, as HTML. Every picture has a table with the same numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from miclab.claims.ledger import Line
from miclab.report.html import AXIS_CONTROL, escape, mark, table
from miclab.report.study.analyses import ProbeOfStudy, text
from miclab.report.study.cells import RunOfStudy, StudyCells, finite, shown_value
from miclab.report.study.correlations import MeasureOfRuns
from miclab.report.study.phases import DIAGRAMS, SCORES, cell_text, crossing_rows, panel_name, panels, trouble
from miclab.report.study.trajectories import Trajectory, training_panels, trajectory_text
from miclab.statistics.correlation import FEWEST_RUNS
from miclab.statistics.intervals import Interval

STATUS_MARKS = {"finished": "good", "failed": "bad"}
VERDICT_MARKS = {"holds": "good", "does not hold": "bad"}


def _number(value: float | None) -> str:
    value = finite(value)
    return "" if value is None else f"{value:.3f}"


def _details(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{content}</details>" if content else ""


def _select(name: str, label: str, options: Sequence[tuple[str, str]]) -> str:
    """A control whose value is the end of the names of the figures of a group."""
    listed = "".join(f'<option value="{escape(value)}">{escape(told)}</option>' for value, told in options)
    return f'<label>{escape(label)} <select data-variant="{name}">{listed}</select></label>'


def _figure(name: str, label: str, group: str = "") -> str:
    """The place of a figure; in a group the control's value is added to its name."""
    chosen = f' data-group="{group}"' if group else ""
    return f'<div class="figure" data-figure="{escape(name)}"{chosen} role="group" aria-label="{escape(label)}"></div>'


def rows_words(cells: StudyCells, asked: str) -> str:
    """Which rows stand for the runs, in words."""
    if cells.step >= 0:
        return (
            f"Rows of step {cells.step:,}, the last that all finished runs have"
            " (--at last takes the last row of each run)."
        )
    last = "The last row of each run"
    return f"{last}." if asked == "last" else f"{last}: there is no step that all finished runs have."


def header(cells: StudyCells, source: str, command: str, at: str) -> str:
    """Title, what the study is, how many runs there are, and the command."""
    study = cells.study
    counts = ", ".join(f"{n} {status}" for status, n in cells.counts().items())
    planned = len(cells.runs)
    facts = {
        "profile": study.profile,
        "stage": study.stage,
        "runs": f"{planned} planned: {counts}",
        "cells": f"{len(cells.keys)}, {len(study.seeds)} seed{'' if len(study.seeds) == 1 else 's'} each",
        "axes": "; ".join(f"{a.name} ({', '.join(shown_value(v) for v in a.values)})" for a in cells.axes) or "none",
    }
    if cells.along:
        facts["decided by these"] = ", ".join(cells.along)
    if cells.strangers:
        facts["runs in the table that the study does not plan"] = str(cells.strangers)
    listed = "".join(f"<li><span>{escape(k)}</span> {escape(v)}</li>" for k, v in facts.items())
    return (
        f"<header><h1>{escape(study.title or study.name)}</h1>"
        f'<p class="lead">Study {escape(study.name)} ({escape(study.file)}), from {escape(source)}. Made by</p>'
        f'<pre class="command">{escape(command)}</pre><ul class="facts">{listed}</ul>'
        f'<p class="note">{escape(rows_words(cells, at))} An interval, in brackets or as a band, is a 95 % bootstrap'
        " over seeds, then over sets of novel classes; a cell with one seed has none.</p></header>"
    )


def claims_section(answers: Sequence[str], lines: Sequence[Line], missing: Mapping[str, str]) -> str:
    """The claims that the study answers, with the ledger's verdicts.

    Arguments:
        answers: ids, as the study's file gives them.
        lines: those that could be judged.
        missing: why the others could not, by id.
    """
    if not answers:
        return '<section id="claims"><h2>Claims</h2><p>The study answers no claim of the ledger.</p></section>'
    by_id = {line.entry.id: line for line in lines}
    rows, conditions = [], []
    for name in answers:
        line = by_id.get(name)
        if line is None:
            rows.append([escape(name), escape(missing.get(name, "")), mark("not judged"), "", ""])
            continue
        verdict = mark(line.verdict, VERDICT_MARKS.get(line.findings.verdict, "plain"))
        used = f"{line.runs} used, {line.missing} missing"
        rows.append([escape(name), escape(line.entry.statement), verdict, escape(line.entry.paper), escape(used)])
        conditions += [
            [escape(name), escape(c.clause), escape(c.quantity), escape(c.told), escape(c.bound),
             mark(c.verdict, VERDICT_MARKS.get(c.verdict, "plain"))]
            for c in line.findings.conditions
        ]  # fmt: skip
    told = table(["claim", "condition", "quantity", "measured", "holds if", "verdict"], conditions)
    return (
        '<section id="claims"><h2>Claims</h2><p class="note">Verdicts of the ledger, from the rows that lie beside the'
        " study files; a claim may need other studies too (<code>miclab claims ID --explain</code>).</p>"
        f"{table(['claim', 'statement', 'verdict', 'the paper', 'runs'], rows)}"
        f"{_details('Every condition with its numbers', told if conditions else '')}</section>"
    )


def phases_section(cells: StudyCells, threshold: float) -> str:
    """Phase diagrams, or curves over one axis, the table of cells, and the place of a cell's runs."""
    heat = cells.y is not None
    parts = []
    if heat:
        for number, panel in enumerate(panels(cells)):
            name = panel_name(cells, panel)
            drawn = "".join(_figure(f"phase-{number}-{score}", f"{SCORES[score]} {name}") for score in DIAGRAMS)
            parts.append(f'{f"<h3>{escape(name)}</h3>" if name else ""}<div class="three">{drawn}</div>')
        words = (
            f"Mean accuracy over seeds. The white line is where icl passes {threshold:g}, between the middles of cells;"
            " an asterisk marks a cell with failed or missing runs."
        )
    else:
        drawn = "".join(_figure(f"phase-{score}", SCORES[score]) for score in DIAGRAMS)
        parts.append(f'<div class="three">{drawn}</div>')
        words = f"Mean accuracy over seeds with its 95 % interval; the dotted line is icl = {threshold:g}."
    rows, known = [], []
    for cell in range(len(cells.keys)):
        counts = sum(run.row is not None for run in cells.members[cell])
        values = [escape(shown_value(cells.value(cell, axis))) for axis in cells.axes] or ["the study's one point"]
        told = [escape(_score(cells, cell, score)) for score in SCORES]
        blank = cells.blank(cell) or trouble(cells, cell).removeprefix(", ")
        rows.append([*values, f"{counts} of {len(cells.members[cell])}", *told, escape(blank)])
        known.append(f'data-cell="{cell}"')
    head = [*([axis.name for axis in cells.axes] or ["point"]), "seeds", *SCORES, "remarks"]
    numbers = range(max(1, len(cells.axes)), len(head) - 1)
    crossed = crossing_rows(cells, threshold)
    passes = "" if not crossed else (
        f"<h3>Where icl passes {threshold:g}</h3>"
        + table(["line", f"passes at (interpolated on {cells.x.name if cells.x else ''})"],
                [[escape(name), escape(told)] for name, _, told in crossed], kind="compact")
    )  # fmt: skip
    return (
        f'<section id="phases"><h2>{"Phase diagrams" if heat else "Accuracy by point"}</h2>'
        f'<p class="note">{escape(words)} Click a cell, or press Enter on a row of the table, to see its runs.</p>'
        f"{''.join(parts)}{_cell_place()}{passes}<h3>Cells</h3>"
        f"{table(head, rows, numbers=tuple(numbers), kind='cells', chosen_by=known)}</section>"
    )


def _score(cells: StudyCells, cell: int, score: str) -> str:
    found = cells.scores[cell].get(score)
    if found is None:
        return ""
    # What seeds there are and what is missing has columns of its own.
    return cell_text(cells, cell, score).split(", ")[0] if found[1] is None else str(found[1])


def _cell_place() -> str:
    options = "".join(f'<option value="{score}">{told}</option>' for score, told in SCORES.items())
    return (
        '<div id="cell" class="js-panel" aria-live="polite"><h3 data-text="title">Runs of a cell</h3>'
        '<p class="note" data-text="hint">No cell is chosen yet.</p><div data-place="runs"></div>'
        '<div class="controls" data-place="controls" hidden><label>Curves of its runs:'
        f' <select data-choose="score">{options}</select></label></div>'
        '<div class="figure" data-kind="cell"></div></div>'
    )


def training_section(cells: StudyCells, over: Sequence[Mapping[str, Trajectory]]) -> str:
    """Curves over training by cell."""
    if not any(found for of_cell in over for found in of_cell.values()):
        return ""
    drawn = ""
    for number, (name, _) in enumerate(training_panels(cells)):
        heading = f"<h3>{escape(name)}</h3>" if name else ""
        drawn += f"<div>{heading}{_figure(f'training-{number}', f'over training {name}', 'training')}</div>"
    rows = []
    for cell, of_cell in enumerate(over):
        for step in sorted({step for found in of_cell.values() for step in found}):
            told = [trajectory_text(*of_cell[s][step]) if step in of_cell[s] else "" for s in SCORES]
            rows.append([escape(cells.label(cell)), f"{step:,}", *map(escape, told)])
    numbers = table(["cell", "step", *SCORES], rows, numbers=(1, 2, 3, 4, 5))
    return (
        '<section id="training"><h2>Over training</h2><p class="note">Means over seeds with 95 % bands; a click on a'
        " point shows the cell's runs.</p>"
        f'<div class="controls js-only">{_select("training", "Score", list(SCORES.items()))}</div>{AXIS_CONTROL}'
        f'<div class="two">{drawn}</div>{_details("All numbers", numbers)}</section>'
    )


def _correlation(value: float, interval: Interval | None, runs: int) -> str:
    if finite(value) is None:
        return "too few runs" if runs < FEWEST_RUNS else "does not vary"
    return str(interval) if interval else f"{value:.3f} (no interval)"


def measures_section(cells: StudyCells, measures: Sequence[MeasureOfRuns]) -> str:
    """Measures against ICL: the scatter, and all measures by their correlation."""
    if not measures:
        return '<section id="measures"><h2>Measures against icl</h2><p>The rows hold no measure.</p></section>'
    rows, known = [], []
    for number, measure in enumerate(measures):
        found = measure.correlation
        told = [_correlation(found.pearson, found.pearson_interval, found.runs),
                _correlation(found.spearman, found.spearman_interval, found.runs)]  # fmt: skip
        rows.append([f'<span title="{escape(measure.text)}">{escape(measure.title)}</span>', *map(escape, told),
                     str(found.runs), str(found.configurations)])  # fmt: skip
        known.append(f'data-measure="{number}"')
    head = ["measure", "Pearson", "Spearman", "runs", "cells"]
    listed = "".join(f'<option value="{i}">{escape(m.title)}</option>' for i, m in enumerate(measures))
    chosen = [i for i, run in enumerate(cells.runs) if run.row is not None]
    values = [
        [escape(cells.label(cells.runs[i].cell)), str(cells.runs[i].seed),
         _number((cells.runs[i].row or {}).get("icl")), *(_number(measure.values[i]) for measure in measures)]
        for i in chosen
    ]  # fmt: skip
    names = ["cell", "seed", "icl", *(measure.title for measure in measures)]
    return (
        '<section id="measures"><h2>Measures against icl</h2><p class="note">Each point is a run; a click shows its'
        " cell. Of several heads of a layer the strongest counts (of entropies the lowest). Intervals are 95 %"
        " bootstraps over cells, all seeds of one drawn together; with fewer than five cells there is none. A"
        " correlation over a grid says what goes together as the grid's axes move, not what causes it.</p>"
        f'<div class="controls js-only"><label>Measure <select data-choose="scatter">{listed}</select></label>'
        '<span class="note" data-text="measure"></span></div><div class="figure" data-kind="scatter"></div>'
        "<h3>All measures, by the size of Pearson's correlation</h3>"
        f"{table(head, rows, numbers=(1, 2, 3, 4), kind='cells', chosen_by=known)}"
        f"{_details('Values of every run', table(names, values, numbers=tuple(range(1, len(names)))))}</section>"
    )


def probes_section(cells: StudyCells, probes: Sequence[ProbeOfStudy]) -> str:
    """What knockouts, zeroed inputs and other lengths leave of ICL."""
    shown = [probe for probe in probes if probe.cells]
    if not shown:
        return ""
    drawn, numbers = "", ""
    for probe in shown:
        figure = _figure(f"probe-{probe.name}", probe.title, "" if probe.name == "context" else "probes")
        drawn += f"<div><h3>{escape(probe.title)}</h3>{figure}</div>"
        rows = [
            [escape(cells.label(cell)), *(escape(text(found.get(q))) for q in probe.quantities)]
            for cell, found in probe.cells.items()
        ]
        right = tuple(range(1, len(probe.quantities) + 1))
        numbers += f"<h4>{escape(probe.title)}</h4>{table(['cell', *probe.quantities], rows, numbers=right)}"
    known = dict.fromkeys(cell for probe in shown if probe.name != "context" for cell in probe.cells)
    options = [(str(cell), cells.label(cell)) for cell in known]
    control = f'<div class="controls js-only">{_select("probes", "Cell", options)}</div>' if len(options) > 1 else ""
    return (
        '<section id="probes"><h2>Probes</h2><p class="note">Accuracy on novel classes (icl) after the last checkpoint'
        " of every run, while something is taken out or the context has another length; the line is the untouched"
        f' decoder.</p>{control}<div class="two">{drawn}</div>{_details("All numbers", numbers)}</section>'
    )


def runs_section(cells: StudyCells) -> str:
    """Every planned run."""

    def line(run: RunOfStudy) -> list[str]:
        row = run.row or {}
        step = f"{row['step']:,}" if run.row else ""
        return [
            escape(cells.label(run.cell)), str(run.seed), f"<code>{escape(run.hash[:12])}</code>",
            mark(run.status, STATUS_MARKS.get(run.status, "plain")), escape(run.reason), step,
            *(_number(row.get(score)) for score in SCORES),
        ]  # fmt: skip

    head = ["cell", "seed", "run", "status", "reason", "step", *SCORES]
    listed = table(head, [line(run) for run in cells.runs], numbers=(1, 5, 6, 7, 8, 9))
    return f'<section id="runs"><h2>Runs</h2>{_details(f"All {len(cells.runs)} planned runs", listed)}</section>'
