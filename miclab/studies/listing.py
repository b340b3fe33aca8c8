"""The planned runs of a study as plain values: its axes, and how far each run is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from miclab.runs.label import read_label
from miclab.studies.plan import Plan, PlannedRun, axis_value
from miclab.studies.state import State
from miclab.studies.study import Study


def planned_axes(study: Study, plan: Plan) -> Iterator[tuple[PlannedRun, dict[str, Any]]]:
    """Every run with the values of the study's axes. A run that the study needs before its own, such as stage 1, stands
    at no value of an axis: it has none."""
    own = set(plan.members[study.name])
    for identity, run in plan.runs.items():
        parent = plan.runs.get(run.parent)
        yield run, {axis: axis_value(run, parent, axis) for axis in study.axes} if identity in own else {}


def given_name(run: PlannedRun, found: State, root: Path) -> str:
    """The name that a run was given; a new one has no directory to look into."""
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
