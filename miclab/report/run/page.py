"""Assembles the report: one HTML file that opens from disk and asks the network for nothing."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from miclab import storage
from miclab.errors import RunError
from miclab.report.html import AXIS_CONTROL, escape, render
from miclab.report.run.collect import Collected, collect, split_values
from miclab.report.run.data import figures_of, numbers_of
from miclab.report.run.figures import overview_figure
from miclab.report.run.sections import overview_table, run_section, verdict_table
from miclab.runs.run import Run


def short_names(runs: Sequence[Run]) -> list[str]:
    """A name for each run, different from all others: the directory's, with its parent's where that is needed."""
    names = [run.path.name for run in runs]
    if len(set(names)) == len(names):
        return names
    return [f"{run.path.parent.name}/{run.path.name}" for run in runs]


def _overview(collected: Sequence[Collected], names: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The section that compares several runs, and its figure."""
    curves = [
        (name, [row["step"] for row in c.rows], split_values(c.rows, "icl"), c.icl_intervals)
        for name, c in zip(names, collected, strict=True)
    ]
    section = (
        '<section id="overview"><h2>Overview</h2>'
        f"{overview_table(collected, names)}"
        '<p class="note">Accuracies of the last metric row; in brackets the 95 % interval, resampled by set of novel'
        " classes.</p>"
        f'<div data-figure="overview"></div>{AXIS_CONTROL}</section>'
    )
    return section, overview_figure(curves)


def _header(title: str, names: Sequence[str], command: str) -> str:
    listed = ", ".join(escape(name) for name in names)
    noun = "run" if len(names) == 1 else f"{len(names)} runs"
    return (
        f"<header><h1>{escape(title)}</h1>"
        f'<p class="lead">Report on the {noun} {listed}. Made by</p>'
        f'<pre class="command">{escape(command)}</pre></header>'
    )


def _tabs(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    buttons = "".join(
        f'<button role="tab" id="tab{i}" aria-controls="run{i}" aria-selected="{str(i == 0).lower()}">'
        f"{escape(name)}</button>"
        for i, name in enumerate(names)
    )
    return f'<div class="tabs js-only" role="tablist" aria-label="Runs">{buttons}</div>'


def write_report(
    runs: list[Run],
    path: Path,
    *,
    command: str = "",
    verdicts: Sequence[Mapping[str, str]] | None = None,
) -> Path:
    """Writes one self-contained HTML file about one or several runs.

    The file is a function of the runs and the arguments: it holds no date. What of a run is damaged, or cannot be
    computed, is named in the file, and the rest is shown.

    Arguments:
        runs: at least one.
        path: where the file goes; replaced if it exists.
        command: what to give as the command that made the report; empty: `miclab report` with the runs' paths.
        verdicts: rows of a table of results, each with `result`, `measured`, `paper`, `verdict`, `conclusion`.

    Returns:
        The path of the file.

    Raises:
        RunError: there is no run, or the file cannot be written.
    """
    if not runs:
        raise RunError("There is no run to report on. `miclab runs` lists the runs.")
    names, collected = short_names(runs), [collect(run) for run in runs]
    command = command or shlex.join(["miclab", "report", *(str(run.path) for run in runs)])
    title = "Multimodal in-context learning" if len(runs) > 1 or verdicts else names[0]
    parts, figures = [_header(title, names, command)], {}
    if verdicts:
        parts.append(verdict_table(verdicts))
    if len(runs) > 1:
        section, figures["overview"] = _overview(collected, names)
        parts.append(section)
    parts.append(_tabs(names))
    for number, (name, one) in enumerate(zip(names, collected, strict=True)):
        parts.append(run_section(number, name, one, AXIS_CONTROL))
        figures |= {f"run{number}-{key}": figure for key, figure in figures_of(one).items()}
    data = {
        "runs": [numbers_of(name, one) for name, one in zip(names, collected, strict=True)],
        "figures": figures,
    }
    storage.write_bytes(Path(path), render(title, parts, data, "report.js"))
    return Path(path)
