"""The report on a study: its rows as one HTML file that opens from disk and needs no network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from miclab import storage
from miclab.claims.evidence import Evidence
from miclab.claims.ledger import Line, judged
from miclab.claims.registry import CLAIMS, all_claims
from miclab.errors import MiclabError
from miclab.report.html import render
from miclab.report.plots import Figure, rounded
from miclab.report.study.analyses import AnalysisOfStudy, analyses_of, bars_figure, context_figure
from miclab.report.study.cells import At, RunOfStudy, StudyCells, finite, study_cells
from miclab.report.study.correlations import MeasureOfRuns, measures_of_runs, scatter_figure
from miclab.report.study.phases import DIAGRAMS, SCORES, curve_figure, heatmap_figure, panels
from miclab.report.study.sections import (
    analyses_view,
    claims_view,
    header,
    measures_view,
    phases_view,
    runs_view,
    training_view,
)
from miclab.report.study.threshold import thresholds_view
from miclab.report.study.trajectories import Trajectory, training_figure, training_layout, training_panels, trajectories
from miclab.studies.plan import Plan
from miclab.studies.study import Study

STAGES = ("cells", "training", "measures", "claims", "page")
"""Parts of the work, as named by a progress bar."""


def subject_of(study: Study) -> str:
    """The subject of a report on a study. A later report on the same study may replace it."""
    return f"study {study.name} {study.profile}"


def claims_of(study: Study) -> tuple[list[Line], dict[str, str]]:
    """The claims that a study answers, judged from the rows beside the study files, and why others could not be."""
    lines: list[Line] = []
    missing: dict[str, str] = {}
    evidence = Evidence(study.file.parent, study.profile, study.parameters)
    all_claims()
    for name in study.answers:
        if name not in CLAIMS:
            missing[name] = "no claim of the ledger"
            continue
        try:
            lines += judged(evidence, [CLAIMS[name]])
        except MiclabError as error:
            missing[name] = str(error)
    return lines, missing


def _figures(
    cells: StudyCells, over: list[dict[str, Trajectory]], analyses: list[AnalysisOfStudy], threshold: float
) -> dict[str, Figure]:
    found: dict[str, Figure] = {}
    if cells.x is not None and cells.y is not None:
        for number, panel in enumerate(panels(cells)):
            for score in DIAGRAMS:
                found[f"phase-{number}-{score}"] = heatmap_figure(cells, score, panel, cells.x, cells.y, threshold)
    else:
        found |= {f"phase-{score}": curve_figure(cells, score, threshold) for score in DIAGRAMS}
    for number, (_, members) in enumerate(training_panels(cells)):
        found |= {f"training-{number}-{score}": training_figure(cells, members, over, score) for score in SCORES}
    found["scatter"] = scatter_figure(cells)
    # The page fills in the curves of the chosen cell's runs.
    found["cell"] = {"data": [], "layout": training_layout("")}
    for analysis in analyses:
        if analysis.name == "context":
            found["probe-context"] = context_figure(analysis, cells)
        else:
            found |= {f"probe-{analysis.name}-{cell}": bars_figure(analysis, cell) for cell in analysis.cells}
    return found


def _run(run: RunOfStudy) -> dict[str, Any]:
    row = run.row or {}
    return {
        "hash": run.hash, "cell": run.cell, "seed": run.seed, "status": run.status, "reason": run.reason,
        "step": row.get("step"), **{score: rounded(finite(row.get(score))) for score in SCORES},
        "curves": {
            "steps": [row["step"] for row in run.rows],
            **{score: [rounded(finite(row.get(score))) for row in run.rows] for score in SCORES},
        },
    }  # fmt: skip


def _measure(measure: MeasureOfRuns) -> dict[str, Any]:
    values = [rounded(value, 5) for value in measure.values]
    return {"name": measure.name, "title": measure.title, "text": measure.text, "values": values}


def write_study_report(
    study: Study,
    plan: Plan,
    frame: pl.DataFrame,
    path: Path,
    *,
    source: str = "its table",
    command: str = "",
    threshold: float = 0.5,
    at: At = "common",
    on_progress: Callable[[int, str], None] = lambda done, text: None,
) -> Path:
    """Writes one self-contained HTML file about a study. It is a function of the rows, those that its claims need, and
    the arguments: it holds no date.

    Arguments:
        study: the study, with its preset.
        plan: a plan that has it.
        frame: its table (`miclab.studies.rows.current_rows`).
        path: where the file goes; replaced if it exists.
        source: where the rows come from, in words.
        command: the command that made the report.
        threshold: accuracy, between 0 and 1, whose line is drawn in the phase diagram of ICL.
        at: the row that represents a run.
        on_progress: called with the number of `STAGES` done and the name of the next one.

    Returns:
        The path of the file.

    Raises:
        MiclabError: the table lacks an axis of the study, or has no finished and no failed run; or the threshold is
            none.
        RunError: the file cannot be written.
    """
    if not 0 < threshold < 1:
        raise MiclabError(f"A threshold of {threshold:g} is none of an accuracy: give a number between 0 and 1.")
    on_progress(0, STAGES[0])
    cells = study_cells(study, plan, frame, at)
    if set(cells.counts()) <= {"missing"}:
        raise MiclabError(
            f"None of the planned runs of {study.name} is in its rows. `miclab study run {study.file} --preset"
            f" {study.profile}` trains them."
        )
    on_progress(1, STAGES[1])
    over = trajectories(cells)
    on_progress(2, STAGES[2])
    measures, analyses = measures_of_runs(cells), analyses_of(cells)
    on_progress(3, STAGES[3])
    lines, missing = claims_of(study)
    on_progress(4, STAGES[4])
    context = {
        "header": header(cells, source, at),
        "command": command,
        "claims": claims_view(study.answers, lines, missing),
        "phases": phases_view(cells, threshold),
        "training": training_view(cells, over),
        "measures": measures_view(cells, measures),
        "analyses": analyses_view(cells, analyses),
        "runs": runs_view(cells),
        "thresholds": thresholds_view(study, plan, frame),
    }
    data = {
        "cells": [cells.label(cell) for cell in range(len(cells.keys))],
        "scores": SCORES,
        "runs": [_run(run) for run in cells.runs],
        "measures": [_measure(measure) for measure in measures],
        "figures": _figures(cells, over, analyses, threshold),
    }
    title = f"{study.name} ({study.profile})"
    page = render("study.html", title, data, ["study.js"], subject_of(study), **context)
    storage.write_bytes(Path(path), page)
    on_progress(5, "")
    return Path(path)
