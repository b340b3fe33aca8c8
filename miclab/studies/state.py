"""The progress of a plan, from one listing of the directory of runs and a small read for each existing run."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from miclab import storage
from miclab.errors import MiclabError, MistakenError, RunError
from miclab.runs.find import glance
from miclab.runs.run import Run
from miclab.studies.lease import Owner, owners
from miclab.studies.plan import Plan, PlannedAnalysis, PlannedRun

FOLDER = ".studies"
"""Directory beside the runs for leases, marks of failure and running tasks of studies."""

Status = Literal["done", "failed", "begun", "new", "rows", "unneeded"]


@dataclass(frozen=True, slots=True)
class State:
    """The state of a run in one plan.

    Arguments:
        status: `done` (all requested steps trained, all analyses stored), `failed`, `begun`, or `new`. Where rows are
            given there are two more (see `miclab.studies.given_rows`): `rows` and `unneeded`.
        reason: why it failed, or how it ended, in words.
        step: its last checkpoint; -1: none.
    """

    status: Status
    reason: str = ""
    step: int = -1


NEW = State("new")


def leases_folder(root: Path) -> Path:
    """The directory of leases."""
    return root / FOLDER / "claims"


def failure_file(root: Path, run: str) -> Path:
    """The path of a run's mark of failure."""
    return root / FOLDER / "failures" / f"{run}.json"


def mark_failure(root: Path, run: PlannedRun | str, reason: str, trace: str = "") -> None:
    """Marks a run as failed, with the reason in words and a traceback."""
    identity = run if isinstance(run, str) else run.hash
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    content = {"run": identity, "reason": reason, "traceback": trace, "time": now}
    failure_file(root, identity).parent.mkdir(parents=True, exist_ok=True)
    storage.write_bytes(failure_file(root, identity), storage.json_bytes(content))


def forget_failure(root: Path, run: str) -> None:
    """Removes the mark of a failure, if there is one."""
    failure_file(root, run).unlink(missing_ok=True)


def failure_reason(root: Path, run: str) -> str:
    """Why a marked run failed; empty where it has no mark."""
    try:
        mark = json.loads(storage.read_file(failure_file(root, run)))
        return str(mark["reason"]) if mark["run"] == run else "the mark of its failure is that of another run"
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "the mark of its failure cannot be read"


EQUAL_ICL = 0.95
"""In-context learning at whose first checkpoint runs of different decoders are compared."""
AT_EQUAL_ICL = ("circuit", "cuts", "joining")
"""Analyses of that checkpoint."""


def analysis_step(analysis: PlannedAnalysis, disk: Run) -> int:
    """Checkpoint of an analysis: the requested one, or the last where training ended earlier. Those of `AT_EQUAL_ICL`
    have the first at which ICL is at least `EQUAL_ICL`, if there is one."""
    last = min(analysis.step, disk.step)
    if analysis.name in AT_EQUAL_ICL:
        kept = set(disk.checkpoints)
        reached = (row["step"] for row in disk.rows() if row["step"] in kept and reaches(row))
        return min(next(reached, last), last)
    return last


def reaches(row: Mapping[str, Any]) -> bool:
    """Whether ICL of a metric row is at least `EQUAL_ICL`."""
    return row["accuracy"]["icl"] >= EQUAL_ICL


def missing_analyses(run: PlannedRun, disk: Run) -> list[PlannedAnalysis]:
    """Analyses of a trained run that are not stored, or whose file is damaged."""
    return [
        analysis for analysis in run.analyses if disk.analysis(analysis_step(analysis, disk), analysis.file) is None
    ]


def missing_checkpoints(run: PlannedRun, disk: Run) -> list[int]:
    """Checkpoints that other runs or missing analyses need and a trained run has not kept."""
    needed = {analysis_step(analysis, disk) for analysis in missing_analyses(run, disk)}
    return sorted((needed | set(run.starts)) - set(disk.checkpoints))


def is_trained(run: PlannedRun, disk: Run) -> bool:
    """Whether training is complete: all steps are done, or it ended at the request's plateau."""
    if disk.status == "diverged":
        return False
    ended = run.request.may_end_early and disk.status == "finished"
    return disk.step >= run.request.steps or (ended and bool(run.request.plateau(disk.rows())))


def is_complete(run: PlannedRun, disk: Run) -> bool:
    """Whether a run is trained and nothing else is missing."""
    return is_trained(run, disk) and not missing_checkpoints(run, disk) and not missing_analyses(run, disk)


def state_on_disk(run: PlannedRun, disk: Run | None, failure: str) -> State:
    """The state of a run.

    Arguments:
        disk: the run on disk, or None.
        failure: the reason of the mark of its failure, or empty.
    """
    if disk is not None and disk.status == "diverged":
        return State("failed", f"diverged: {disk.reason}", disk.step)
    if disk is not None and is_complete(run, disk):
        return State("done", disk.reason, disk.step)
    if failure:
        return State("failed", failure, -1 if disk is None else disk.step)
    return NEW if disk is None else State("begun", disk.reason, disk.step)


def look(run: PlannedRun, root: Path) -> State:
    """The state of one run, from its own files alone."""
    try:
        disk = glance(root, run.name, run.point)
        if disk is not None and disk.hash != run.hash:
            return State("failed", str(MistakenError(disk.path, run.hash, disk.hash)))
        return state_on_disk(run, disk, failure_reason(root, run.hash))
    except MiclabError as error:
        # An unreadable run does not prevent the others from being listed.
        return State("failed", str(error))


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise RunError(f"Cannot read {folder}: {error.strerror or error}. Give another with --runs.") from error


def survey(plan: Plan, root: Path) -> dict[str, State]:
    """The state of each run of a plan, by hash. A run that starts from a failed one has failed too, unless it is
    done."""
    names, marked = _names(root), _names(root / FOLDER / "failures")
    found: dict[str, State] = {}
    for run in plan.runs.values():
        known = run.name in names or f"{run.hash}.json" in marked
        state = look(run, root) if known else NEW
        found[run.hash] = inherited(state, run, found, plan)
    return found


def inherited(state: State, run: PlannedRun, states: Mapping[str, State], plan: Plan) -> State:
    """The state of a run, given those of the runs that it starts from."""
    if state.status == "done":
        return state
    for before in run.origins:
        found = states.get(before)
        if found is not None and found.status == "failed":
            kind = "stage-1" if before == run.parent else "encoder's"
            return State("failed", f"its {kind} run {plan.runs[before].name} failed: {found.reason}", state.step)
    return state


def held(root: Path) -> dict[str, Owner]:
    """The owners of runs that are training now, by hash."""
    return owners(leases_folder(root))


def count(states: Iterable[State]) -> dict[str, int]:
    """Number of runs by status; `rows` and `unneeded` only where there are such runs."""
    counts: dict[str, int] = {"done": 0, "failed": 0, "begun": 0, "new": 0}
    for state in states:
        counts[state.status] = counts.get(state.status, 0) + 1
    return counts
