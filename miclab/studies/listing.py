"""The planned runs of a study, as plain values and as a table: the values of its axes, and the progress of each run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from miclab.runs.label import read_label
from miclab.runs.status import status_mark
from miclab.studies.plan import Plan, PlannedRun, axis_value
from miclab.studies.rows import StudyTable
from miclab.studies.state import State, count
from miclab.studies.study import Study
from miclab.tables import Cell, Code, Number, Table, cell, table

STAGE_ONE = "(stage 1)"
"""Name of the stage-1 runs that are not points of a study."""

SAID = {"rows": "from rows", "unneeded": "not needed"}
"""Words for statuses that are not words for a reader."""

LONGEST = 24
"""Most characters of a value in the table; --json has all of it."""


def planned_axes(study: Study, plan: Plan) -> Iterator[tuple[PlannedRun, dict[str, Any]]]:
    """Every run with the values of the study's axes. A run that is needed first, such as stage 1, has no values."""
    own, names = set(plan.members[study.name]), study.axes
    for identity, run in plan.runs.items():
        parent = plan.runs.get(run.parent)
        yield run, {axis: axis_value(run, parent, axis) for axis in names} if identity in own else {}


def given_name(run: PlannedRun, found: State, root: Path) -> str:
    """The label of a run. A new run has no directory, so it has no label."""
    return "" if found.status == "new" else read_label(root / run.name, []).name


def plan_json(
    study: Study, plan: Plan, states: Mapping[str, State], kept: frozenset[str], root: Path
) -> list[dict[str, Any]]:
    """The runs as plain values, in the order in which they are trained."""
    found = []
    for run, axes in planned_axes(study, plan):
        state = states[run.hash]
        found.append(
            {"run": run.name, "name": given_name(run, state, root), "hash": run.hash, "parent": run.parent,
             "axes": axes, "seed": run.seed, "steps": run.request.steps, "status": state.status, "step": state.step,
             "reason": state.reason, "in_committed_rows": run.hash in kept}
        )  # fmt: skip
    return found


def said(status: str) -> str:
    """A status in words."""
    return SAID.get(status, status)


def axis_cell(value: Any) -> Cell:
    """The cell of a value of an axis."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return Number(value, 6, "g") if isinstance(value, float) else cell(value if is_number else shown(value))


def shown(value: Any) -> str:
    """A value of an axis as text."""
    if isinstance(value, (list, tuple)):
        text = ",".join(map(shown, value)) or "default"
    elif isinstance(value, Mapping):
        text = ",".join(f"{k}={shown(v)}" for k, v in value.items())
    elif isinstance(value, bool) or value is None:
        text = {True: "yes", False: "no", None: "-"}[value]
    else:
        text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def short_axes(axes: tuple[str, ...]) -> list[str]:
    """The last part of each axis' name, or as many parts as distinguish it from the others."""
    names = [axis.split(".") for axis in axes]
    found = []
    for own in names:
        count = 1
        while count < len(own) and sum(other[-count:] == own[-count:] for other in names) > 1:
            count += 1
        found.append(".".join(own[-count:]))
    return found


def plan_table(study: Study, plan: Plan, states: Mapping[str, State], kept: frozenset[str], root: Path) -> Table:
    """The runs as a table, in the order in which they are trained; names have a column where there are any."""
    rows = plan_json(study, plan, states, kept, root)
    named, axes = any(row["name"] for row in rows), study.axes
    cells = [
        [row["run"], *([row["name"]] if named else []), *(axis_cell(row["axes"].get(axis)) for axis in axes),
         row["seed"], row["steps"],
         status_mark("in rows" if row["in_committed_rows"] and row["status"] == "new" else said(row["status"])),
         row["step"] if row["step"] >= 0 else None, Code(row["parent"][:12])]
        for row in rows
    ]  # fmt: skip
    columns = [
        "run",
        *(["name"] if named else []),
        *short_axes(study.axes),
        "seed",
        "steps",
        "status",
        "step",
        "parent",
    ]
    return table("", columns, cells)


def kept_runs(studies: Sequence[Study], plan: Plan, root: Path) -> frozenset[str]:
    """Runs whose rows lie beside the studies with the requested steps, and stage-1 runs that only these need."""
    found = frozenset(identity for study in studies for identity in StudyTable(study, plan, root).kept())
    return found | {before for before, runs in plan.children().items() if found.issuperset(runs)}


def counts_of(
    plan: Plan, states: Mapping[str, State], running: set[str], kept: frozenset[str] = frozenset()
) -> dict[str, dict[str, int]]:
    """Runs by status, for each study and for the stage-1 runs. A run that exists only in committed rows is not new."""

    def counted(group: list[str]) -> dict[str, int]:
        found = count(states[i] for i in group)
        stored = sum(states[i].status == "new" and i in kept for i in group)
        return found | {"new": found["new"] - stored, "in_committed_rows": stored}

    groups = dict(plan.members)
    members = {identity for group in groups.values() for identity in group}
    parents = [identity for identity in plan.runs if identity not in members]
    if parents:
        groups[STAGE_ONE] = parents
    return {
        name: {"runs": len(group), **counted(group), "running": sum(i in running for i in group)}
        for name, group in groups.items()
    }


def failures_of(plan: Plan, states: Mapping[str, State]) -> list[dict[str, str]]:
    """The runs that failed, with the reasons, as plain values."""
    return [
        {"run": plan.runs[i].name, "hash": i, "reason": s.reason} for i, s in states.items() if s.status == "failed"
    ]
