"""`miclab report`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from miclab.cli.options import Parameters, RunNames, find_runs, output_file
from miclab.cli.progress import ablations_of, knockouts_of, looking
from miclab.cli.terminal import bar, parse, refuse_ignored, say, warn
from miclab.config.extensions import as_options
from miclab.config.presets import Profile
from miclab.config.run import RunConfig
from miclab.errors import MiclabError, visible
from miclab.runs.find import list_runs


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """One HTML file on one or several runs, or on a study; it opens from disk without a network."""

    run: RunNames = ()
    """Paths, names, or starts of names or hashes; none with --study."""
    study: str = ""
    """Study file: report on its rows instead, the ones that `miclab study rows` shows."""
    preset: Profile = "quick"
    """Preset of the study."""
    parameter: Parameters = ()
    """Value of a parameter that the study file has; the option is repeated for each."""
    threshold: float = 0.5
    """Accuracy on novel classes (0 to 1) whose line is drawn in the study's phase diagram."""
    at: Literal["common", "last"] = "common"
    """The row that represents a run of the study: that of the largest step that all finished runs have, or its last."""
    measures: tuple[str, ...] = ()
    """Measures of every head to show of each run's last checkpoint as well, by name, such as `key_constant`."""
    runs: str = "runs"
    """Directory of runs; a study that has none there is read from the table beside its file."""
    output: str = "report.html"
    """File to write, in an existing directory. An earlier report on the same runs or study is replaced."""
    overwrite: bool = False
    """Replace any other file that is there."""


def run_report(arguments: list[str]) -> int:
    """`miclab report RUN...` and `miclab report --study FILE`."""
    options = parse(ReportOptions, "report", arguments)
    if not options.study:
        refuse_ignored(arguments, ("preset", "parameter", "threshold", "at"), "it is for a report on a study (--study)")
    command = shlex.join(["miclab", "report", *arguments, *as_options()])
    output = output_file(options.output)
    if options.study:
        if options.run:
            raise MiclabError("A report is on runs or on a study: give RUNs or --study, not both.")
        refuse_ignored(arguments, ("measures",), "it is for a report on runs")
        return _report_study(options, output, command)
    if not options.run:
        raise MiclabError("Name at least one RUN (`miclab runs` lists them), or a study with --study FILE.")
    runs = find_runs(options.run, options.runs)
    from miclab.report import write_report
    from miclab.report.existing import check_replaceable
    from miclab.report.run.page import subject_of

    check_replaceable(output, subject_of(runs), options.overwrite)
    checkpoints = max(len(run.checkpoints) for run in runs)
    with looking(
        "report", runs, options.runs, lambda config: _sequences(config, checkpoints, bool(options.measures))
    ) as on_progress:
        path = write_report(runs, output, command=command, measures=options.measures, on_progress=on_progress)
    for run in runs:
        warn(run)
    print(visible(path))
    return 0


def _sequences(config: RunConfig, checkpoints: int, measured: bool) -> int:
    """Sequences that the report on a run looks at, roughly: maps of each checkpoint, knockouts with three baselines,
    patterns of two heads replaced, ablations, oracles, signs of failure, and measures."""
    from miclab.report.run.collect import MAP_SIZES, intervention_sizes

    sizes = intervention_sizes(config)
    maps = (1 + checkpoints) * MAP_SIZES.sequences * MAP_SIZES.novel_sets
    passes = 3 * knockouts_of(config) + 6 + ablations_of(config) + bool(config.parent.run) + measured
    return maps + passes * sizes.sequences * sizes.novel_sets + 3 * sizes.sequences


def _report_study(options: ReportOptions, output: Path, command: str) -> int:
    from miclab.studies.mode import long_mode
    from miclab.studies.parameters import assignments
    from miclab.studies.rows import current_rows, table_file
    from miclab.studies.study import load_study
    from miclab.studies.threshold import planned

    study = load_study(options.study, options.preset, assignments(options.parameter))
    from miclab.report.existing import check_replaceable
    from miclab.report.study.page import STAGES, subject_of, write_study_report

    check_replaceable(output, subject_of(study), options.overwrite)
    root = Path(options.runs)
    stored = not list_runs(root)
    # Without runs the mode has no effect: rows are found by their configuration.
    _, plan = planned([study], "compiled" if stored else lambda: long_mode(root), root)
    frame, warnings = current_rows(study, plan, root, stored=stored)
    for line in warnings:
        say(f"warning: {line}")
    source = f"the table {table_file(study)}" if stored else f"the runs under {root} and the table {table_file(study)}"

    with bar("report", len(STAGES)) as on_progress:
        print(
            write_study_report(
                study, plan, frame, output, source=source, command=command, threshold=options.threshold,
                at=options.at, on_progress=on_progress,
            )
        )  # fmt: skip
    return 0
