"""Assembles the report: one HTML file that opens from disk and needs no network."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from miclab import storage
from miclab.config.extensions import as_options
from miclab.errors import RunError
from miclab.measures.registry import chosen
from miclab.report.html import identifiers, render
from miclab.report.plots import Figure
from miclab.report.run.collect import Collected, collect, split_values
from miclab.report.run.data import figures_of, numbers_of
from miclab.report.run.explorer import MOST_BYTES
from miclab.report.run.figures import overview_figure
from miclab.report.run.names import short_names
from miclab.report.run.sections import overview_table, run_view
from miclab.runs.run import Run

SCRIPTS = ("decoder.js", "explorer.js", "report.js")


def subject_of(runs: Sequence[Run]) -> str:
    """What a report on these runs is about: a later one on the same runs may replace it."""
    return " ".join(["runs", *(run.hash for run in runs)])


def _overview_figure(collected: Sequence[Collected], names: Sequence[str]) -> Figure:
    return overview_figure(
        [
            (name, [row["step"] for row in one.rows], split_values(one.rows, "icl"), one.icl_intervals)
            for name, one in zip(names, collected, strict=True)
        ]
    )


def write_report(
    runs: list[Run],
    path: Path,
    *,
    command: str = "",
    subject: str = "",
    measures: Sequence[str] = (),
    on_progress: Callable[[int, str], None] = lambda done, text: None,
) -> Path:
    """Writes one self-contained HTML file about one or several runs.

    The file is a function of the runs and the arguments: it holds no date. What of a run is damaged, or cannot be
    computed, is named in the file, and the rest is shown.

    Arguments:
        runs: at least one.
        path: where the file goes; replaced if it exists.
        command: what to give as the command that made the report; empty: `miclab report` with the runs' paths.
        subject: what the page is about (see `miclab.report.existing`); empty: these runs.
        measures: measures of every head to show of each run's last good checkpoint as well, by name.
        on_progress: called with the number of runs done, and which is next.

    Returns:
        The path of the file.

    Raises:
        RunError: there is no run, or the file cannot be written.
        ConfigError: there is no such measure.
    """
    if not runs:
        raise RunError("There is no run to report on. `miclab runs` lists the runs.")
    chosen(measures)
    names, collected, room = short_names(runs), [], MOST_BYTES
    for done, run in enumerate(runs):
        on_progress(done, names[done])
        collected.append(collect(run, measures, room))
        room -= collected[-1].explorer.size
    on_progress(len(runs), "")
    views, figures = [], {}
    for number, (name, own, one) in enumerate(zip(names, identifiers(names), collected, strict=True)):
        views.append(run_view(number, name, own, one))
        figures |= {f"run{number}-{key}": figure for key, figure in figures_of(one).items()}
    if len(runs) > 1:
        figures["overview"] = _overview_figure(collected, names)
    data = {
        "runs": [numbers_of(name, one) for name, one in zip(names, collected, strict=True)],
        "figures": figures,
    }
    entries = [("overview", "Overview")] if len(runs) > 1 else []
    context: dict[str, Any] = {
        "noun": "run" if len(names) == 1 else f"{len(names)} runs",
        "names": names,
        "command": command or shlex.join(["miclab", "report", *(str(run.path) for run in runs), *as_options()]),
        "entries": [*entries, *((view["id"], view["name"]) for view in views)],
        "overview": overview_table(collected, names) if len(runs) > 1 else None,
        "runs": views,
    }
    title = "Multimodal in-context learning" if len(runs) > 1 else names[0]
    page = render("runs.html", title, data, SCRIPTS, subject or subject_of(runs), **context)
    storage.write_bytes(Path(path), page)
    return Path(path)
