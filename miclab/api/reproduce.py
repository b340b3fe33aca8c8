"""Train the runs that claims need and judge them: the demonstration, and any claim of the ledger."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from miclab.api.claims import Judgement, Ledger
from miclab.config.presets import Profile
from miclab.errors import RunError
from miclab.runs.find import root_directory
from miclab.studies.numerics import LaneStep, Sampler, StudyNumerics, check_devices, replaced_rows

if TYPE_CHECKING:
    from miclab.claims.demonstration import Demonstration

OnRuns = Callable[[int, int], None]
"""Called with the number of runs that ended and of all, whenever it changes."""


def demo(
    path: str | Path = "demo.html",
    *,
    runs: str | Path = "runs",
    picture: str | Path = "",
    workers: int = 0,
    short: bool = False,
    on_progress: OnRuns | None = None,
) -> Demonstration:
    """The demonstration: two modalities and three position codes from one short training each, beside the paper.

    It takes some minutes on two cores. Existing runs are not trained again.

    Arguments:
        path: the report, an HTML file in an existing directory. It is replaced if it exists.
        runs: directory of runs, made if it is new.
        picture: a figure of the results to draw as well, a file that ends in .svg, .pdf or .png; empty: none.
        workers: processes at once, each of one thread; 0: one for each core.
        short: train a few steps only, to see that everything runs; the results mean nothing.
        on_progress: called with the number of runs that ended and of all.

    Returns:
        The claims with their verdicts (`tables`, `frame`, `show`), its plan and its rows.

    Raises:
        RunError: a training failed, or a file cannot be written.
    """
    from miclab.claims.demonstration import Demonstration
    from miclab.studies.engine import counted

    file, drawing = Path(path), Path(picture) if picture else None
    _check_folders(file, drawing)
    root = root_directory(runs)
    root.mkdir(parents=True, exist_ok=True)
    found = Demonstration.open(root, short)
    found.train(counted(on_progress, len(found.plan.runs)), workers)
    write_results(found, file, drawing, command=f"miclab demo --output {file}")
    return found


def _check_folders(*files: Path | None) -> None:
    for file in files:
        if file is not None and not file.parent.is_dir():
            raise RunError(f"There is no directory {file.parent}: make it, or give another path.")


def write_results(
    found: Demonstration,
    path: Path,
    picture: Path | None,
    *,
    command: str = "",
    on_progress: Callable[[int, str], None] = lambda done, text: None,
) -> None:
    """Writes the report of a trained demonstration, and its picture.

    Arguments:
        path: the report.
        picture: the picture; None: none.
        command: the command that the report names.
        on_progress: called with the number of parts of the report done and the name of the next one.
    """
    from miclab.report.study.page import write_study_report
    from miclab.studies.rows import table_file
    from miclab.studies.sealed_table import read_rows

    frame = read_rows(table_file(found.study))
    write_study_report(
        found.study, found.plan, frame, path, source=f"the runs under {found.root}", command=command, at="last",
        on_progress=on_progress,
    )  # fmt: skip
    if picture is not None:
        from miclab.claims.plots.demonstration import draw

        draw(found, picture)


def reproduce(
    *ids: str,
    preset: Profile = "quick",
    studies: str | Path = "",
    runs: str | Path = "runs",
    workers: int = 0,
    again: bool = False,
    parameters: Mapping[str, str] | None = None,
    lanes: str | int = "off",
    device: str = "study",
    sampler: Sampler = "study",
    lane_step: LaneStep = "study",
    on_progress: OnRuns | None = None,
) -> Ledger:
    """Trains the missing runs of claims on this machine and judges the claims, as `miclab reproduce` does.

    After a stop or a kill at any moment, the same call resumes. All claims take hours.

    Arguments:
        ids: claims, for example `U1`, `M7`; none: all of the ledger.
        preset: whose studies: `quick` or `paper`.
        studies: directory of study files, where rows are written under `rows/PRESET`; empty: those of the clone, or of
            an installed package a copy in `studies`.
        runs: directory of runs, made if it is new; a finished run there is not trained again.
        workers: processes at once, each of one thread; 0: one for each core.
        again: also run the studies of claims whose rows are complete.
        parameters: values of the studies' parameters, by name, as texts.
        lanes: train runs of equal shapes as groups of so many lanes; `auto`: 8; `off`: as in the studies.
        device: `numerics.device` of every run; `study`: as in the studies.
        sampler: `numerics.sampler` of every run; `study`: as in the studies.
        lane_step: `numerics.lane_step` of every run in lanes; `study`: as in the studies.
        on_progress: called with the number of runs that ended and of all.

    Returns:
        The verdict on each claim. A run that failed is missing in its evidence, and a warning names it.

    Raises:
        MiclabError: there is no such claim, study or directory.
    """
    from miclab.claims.evidence import Evidence
    from miclab.claims.ledger import chosen, judged, studies_to_run
    from miclab.studies import state
    from miclab.studies.engine import Engine, carry_out, counted
    from miclab.studies.launchers.local import LocalLauncher
    from miclab.studies.rows import StudyTable
    from miclab.studies.shipped import writable_studies
    from miclab.studies.threshold import rounds

    numerics = StudyNumerics(str(lanes), device, sampler, lane_step)
    numerics.check()
    directory, entries = writable_studies(str(studies)), chosen(ids)
    given = dict(parameters or {})
    before = Evidence(directory, preset, given)
    before.check_parameters(dict.fromkeys(study for entry in entries for study in entry.studies))
    names = studies_to_run(judged(before, entries), again)
    if names:
        root = root_directory(runs)
        root.mkdir(parents=True, exist_ok=True)
        files = [numerics.of(before.study(name)) for name in names]
        for narrow, plan in rounds(files, numerics.mode(root), root):
            check_devices(plan, state.survey(plan, root))
            tables = [StudyTable(file, plan, root) for file in narrow]
            for line in (*numerics.warnings(plan), *(text for file in narrow for text in replaced_rows(file, plan))):
                warnings.warn(line, stacklevel=2)
            engine = Engine(plan, root, LocalLauncher(workers))
            tally = carry_out(engine, tables, counted(on_progress, len(plan.runs)))
            for identity, found in tally.states.items():
                if found.status == "failed":
                    warnings.warn(f"{plan.runs[identity].name} failed: {found.reason}", stacklevel=2)
    evidence = Evidence(directory, preset, given)
    return Ledger([Judgement(line, evidence) for line in judged(evidence, entries)])
