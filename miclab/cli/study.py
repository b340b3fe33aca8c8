"""`miclab study run`, `status`, `plan` and `rows`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from miclab.cli.options import output_file
from miclab.cli.study_options import PlanOptions, RowsOptions, RunOptions, SeededOptions, StatusOptions, StudyOptions
from miclab.cli.terminal import parse, print_json, refuse_ignored, say
from miclab.errors import MiclabError, nearest, visible
from miclab.runs.find import root_directory

if TYPE_CHECKING:
    from collections.abc import Callable

    from miclab.studies.engine import Tally
    from miclab.studies.given_rows import GivenRows
    from miclab.studies.launchers import Launcher
    from miclab.studies.plan import Plan
    from miclab.studies.state import State
    from miclab.studies.study import Study

USAGE = """usage: miclab study {run,status,plan,rows} FILE [options]

  run      train what is missing of a study, on this machine, a Ray cluster or Slurm
  status   what is done, running, failed and left
  plan     list the runs of a study and what is done, without starting any
  rows     the table of a study: on the screen, or as CSV or parquet

`miclab study run --help` shows the options of a command. The format of a study file:
docs/reference/study-file.md."""


def run_study(arguments: list[str]) -> int:
    """`miclab study COMMAND FILE...`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    commands = {"run": _run, "status": _status, "plan": _plan, "rows": _rows}
    if arguments[0] not in commands:
        raise MiclabError(f"{arguments[0]!r} is no command of study: {nearest(arguments[0], commands)}")
    return commands[arguments[0]](arguments[1:])


def _loaded(files: tuple[str, ...], options: StudyOptions) -> tuple[list[Study], Callable[[], str], Path]:
    """The studies, the numeric mode of this machine, and the directory of runs."""
    from miclab.studies.files import load_studies
    from miclab.studies.parameters import assignments

    if not files:
        raise MiclabError("Name at least one study file.")
    numerics, root = options.numerics, root_directory(options.runs)
    studies = load_studies(files, options.preset, assignments(options.parameter))
    return [numerics.of(study) for study in studies], numerics.mode(root), root


def _given(options: SeededOptions, studies: list[Study], mode: Callable[[], str]) -> GivenRows:
    """The tables of --rows, checked; what is taken of them is printed on standard error."""
    from miclab.studies.given_rows import GivenRows

    found = GivenRows.read(studies, mode, options.rows)
    for line in found.lines():
        say(line)
    return found


def _planned(files: tuple[str, ...], options: SeededOptions) -> tuple[list[Study], Plan, GivenRows]:
    from miclab.studies.threshold import planned

    studies, mode, root = _loaded(files, options)
    given = _given(options, studies, mode)
    return *planned(studies, mode, root, given), given


def _print_counts(counts: dict[str, dict[str, int]], failures: list[dict[str, str]]) -> None:
    from miclab.studies.listing import SAID, STAGE_ONE

    for name, group in counts.items():
        words = SAID | {
            "in_committed_rows": "needed only by committed rows" if name == STAGE_ONE else "in committed rows"
        }
        parts = ", ".join(
            f"{number} {words.get(status, status)}" for status, number in group.items() if status != "runs" and number
        )
        print(visible(f"{name}: {group['runs']} runs: {parts or 'nothing to do'}"))
    for failure in failures[:20]:
        print(visible(f"  failed: {failure['run']}: {failure['reason']}"))
    if len(failures) > 20:
        print(f"  ... and {len(failures) - 20} more failed; --json lists them")


def _run(arguments: list[str]) -> int:
    options = parse(RunOptions, "study run", arguments)
    options.check(arguments)
    from miclab.studies.listing import counts_of, failures_of
    from miclab.studies.threshold import rounds

    found, mode, root = _loaded(options.file, options)
    given = _given(options, found, mode)
    # In a study of kind `threshold` results decide which runs come next.
    *_, (plan, states) = (
        _carried_out(options, studies, whole, given) for studies, whole in rounds(found, mode, root, given)
    )
    counts, failures = counts_of(plan, states, set()), failures_of(plan, states)
    if options.json:
        print_json({"studies": counts, "failures": failures})
    else:
        _print_counts(counts, failures)
    return 1 if any(s.status in ("new", "begun", "failed") for s in states.values()) else 0


def _carried_out(
    options: RunOptions, studies: list[Study], plan: Plan, given: GivenRows
) -> tuple[Plan, dict[str, State]]:
    """Trains the missing runs of a plan. Returns the requested part of it and the states of its runs."""
    from miclab.cli.progress import Watch
    from miclab.studies.engine import Engine, carry_out
    from miclab.studies.mirrors import Mirrors
    from miclab.studies.numerics import check_devices, replaced_rows
    from miclab.studies.rows import StudyTable
    from miclab.studies.state import survey

    root = Path(options.runs)
    root.mkdir(parents=True, exist_ok=True)
    tables = [StudyTable(study, plan, root, given.of(study)) for study in studies]
    for table in tables:
        # A table that fails its checks is refused before anything is trained.
        table.kept()
    # A table has the runs of all seeds, whichever are trained now, and those whose rows are given.
    others = survey(plan, root) if options.seeds or given.tables else {}
    plan = _of_seeds(studies, plan, options, root)
    left, before = given.left(plan, root), given.survey(plan, root) if given.tables else {}
    if options.launcher == "local":
        check_devices(left, survey(left, root))
    for line in (*options.numerics.warnings(plan), *(text for study in studies for text in replaced_rows(study, plan))):
        say(f"warning: {line}")
    launcher = _launcher(options, root)
    if options.launcher == "local":
        _announce(left, root, getattr(launcher, "workers", 1))
    with Mirrors(options.mirror, tables, left, root) as mirrors, Watch(left, root) as watch:
        mirrored = -1

        def change(tally: Tally) -> None:
            nonlocal mirrored
            if tally.ended != mirrored:
                mirrored = tally.ended
                mirrors(others | tally.states)
            watch(tally)

        engine = Engine(left, root, launcher, retry_failed=options.retry_failed)
        tally = carry_out(engine, tables, change, others)
        mirrors(others | tally.states)
    return plan, before | tally.states


def _announce(plan: Plan, root: Path, workers: int) -> None:
    """Prints an estimate of the time of the runs that this machine has yet to train."""
    from miclab.cli.progress import announce_study
    from miclab.studies.state import survey

    states = survey(plan, root)
    left = [(run, states[identity].step) for identity, run in plan.runs.items()
            if states[identity].status in ("new", "begun")]  # fmt: skip
    announce_study(left, root, min(workers, len(left)))


def _of_seeds(studies: list[Study], plan: Plan, options: SeededOptions, root: Path) -> Plan:
    """The requested part of a plan."""
    from miclab.studies.plan import Plan

    seeds = options.seeds
    if not seeds:
        return plan
    chosen = []
    for study in studies:
        if unknown := set(seeds) - set(study.seeds):
            raise MiclabError(
                f"--seeds {' '.join(map(str, sorted(unknown)))}: the preset {study.profile} of {study.file} has"
                f" {', '.join(map(str, study.seeds))}."
            )
        chosen.append(replace(study, seeds=tuple(seed for seed in study.seeds if seed in seeds)))
    return Plan(chosen, options.numerics.mode(root))


def _launcher(options: RunOptions, root: Path) -> Launcher:
    if options.launcher == "ray":
        from miclab.studies.launchers.ray import RayLauncher

        return RayLauncher(options.ray_address, options.workers, options.gpus)
    if options.launcher == "slurm":
        from miclab.studies.launchers.slurm import SlurmLauncher
        from miclab.studies.state import FOLDER

        parameters: dict[str, int | str] = {}
        for entry in options.slurm:
            name, equals, value = entry.partition("=")
            if not equals:
                raise MiclabError(f"--slurm {entry}: write KEY=VALUE, for example partition=long.")
            parameters[name] = int(value) if value.isdigit() else value
        folder = root.resolve() / FOLDER / "jobs"
        return SlurmLauncher(folder, options.array_limit, options.workers, parameters, gpus=options.gpus)
    from miclab.studies.launchers.local import LocalLauncher

    return LocalLauncher(options.workers)


def _status(arguments: list[str]) -> int:
    from miclab.studies import state
    from miclab.studies.listing import counts_of, failures_of, kept_runs

    options = parse(StatusOptions, "study status", arguments)
    studies, plan, given = _planned(options.file, options)
    root = Path(options.runs)
    kept = kept_runs(studies, plan, root)
    plan = _of_seeds(studies, plan, options, root)
    states, running = given.survey(plan, root), state.held(root)
    counts = counts_of(plan, states, set(running), kept)
    failures = failures_of(plan, states)
    if options.json:
        held = {plan.runs[i].name: f"{o.machine_name} {o.process}" for i, o in running.items() if i in plan.runs}
        print_json({"studies": counts, "running": held, "failures": failures})
    else:
        _print_counts(counts, failures)
    return 0


def _plan(arguments: list[str]) -> int:
    from miclab.config.content import uncollected
    from miclab.studies.listing import counts_of, failures_of, kept_runs, plan_json, plan_table

    options = parse(PlanOptions, "study plan", arguments)
    with uncollected():
        (study,), plan, given = _planned((options.file,), options)
        root = Path(options.runs)
        kept = kept_runs([study], plan, root)
        plan = _of_seeds([study], plan, options, root)
        for line in options.numerics.warnings(plan):
            say(f"warning: {line}")
        states = given.survey(plan, root)
        if options.json:
            print_json(plan_json(study, plan, states, kept, root))
            return 0
        plan_table(study, plan, states, kept, root).show()
        _print_counts(counts_of(plan, states, set(), kept), failures_of(plan, states))
        return 0


def _rows(arguments: list[str]) -> int:
    from miclab.studies.rows import current_rows, write_table
    from miclab.studies.threshold import planned

    options = parse(RowsOptions, "study rows", arguments)
    if options.output:
        refuse_ignored(arguments, ("json",), "the rows go to a file (--output)")
    (study,), plan = planned(*_loaded((options.file,), options))
    frame, warnings = current_rows(study, plan, Path(options.runs), stored=options.stored)
    for line in warnings:
        say(f"warning: {line}")
    if options.output:
        write_table(frame, output_file(options.output))
        print(visible(f"{options.output}: {len(frame)} rows"), file=sys.stderr)
        return 0
    if options.json:
        import json

        print_json(json.loads(frame.write_json()))
        return 0
    _print_frame(frame, study)
    return 0


def _print_frame(frame, study: Study) -> None:
    from miclab.cli.terminal import print_table

    shown = ["run", "seed", *study.axes, "status", "step", "icl", "swapped", "iwl", "train"]
    last = frame.filter(frame["last"]).select(shown)
    numbers = ("step", "icl", "swapped", "iwl", "train")
    # Values of axes and seeds are names here: they keep all their digits.
    cells = [
        [v if name in numbers or v is None else str(v)[:12] if name == "run" else str(v) for name, v in row.items()]
        for row in last.iter_rows(named=True)
    ]
    print_table(f"{study.name} ({study.profile}): last row of every run", shown, cells)
