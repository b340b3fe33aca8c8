"""Reports on runs or on a study: one HTML file that opens from disk."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from miclab.api.run import Run
from miclab.api.runs import disks
from miclab.api.study import Study
from miclab.config.extensions import as_options
from miclab.errors import RunError
from miclab.runs.find import list_runs


def report(
    subject: Run | str | Path | Sequence[Run | str | Path] | Study,
    path: str | Path = "report.html",
    *,
    runs: str | Path = "runs",
    threshold: float = 0.5,
) -> Path:
    """Writes a report on one or several runs, or on a study.

    Arguments:
        subject: a run, several, or a study.
        path: the HTML file, in an existing directory. It is replaced if it exists.
        runs: directory of runs, where names of runs are sought and a study's runs lie.
        threshold: of a study, the accuracy on novel classes (0 to 1) whose line its phase diagram shows.

    Returns:
        The path of the file.

    Raises:
        RunError: there is no such run, or the file cannot be written.
        MiclabError: the study has no rows yet.
    """
    file = Path(path)
    if not file.parent.is_dir():
        raise RunError(f"There is no directory {file.parent}: make it, or give another path.")
    if isinstance(subject, Study):
        return _of_study(subject, file, Path(runs), threshold)
    from miclab.report.run.page import write_report

    return write_report(disks(subject, runs), file)


def _of_study(study: Study, file: Path, root: Path, threshold: float) -> Path:
    from miclab.report.study.page import write_study_report
    from miclab.studies.rows import table_file

    stored = not list_runs(root)
    frame, plan = study.rows(root, stored=stored), study.plan(root).plan
    table = f"the table {table_file(study.file)}"
    source = table if stored else f"the runs under {root} and {table}"
    given = ["--study", study.file.file, "--preset", study.file.profile, "--output", file]
    command = shlex.join(["miclab", "report", *map(str, given), *as_options()])
    return write_study_report(study.file, plan, frame, file, source=source, command=command, threshold=threshold)
