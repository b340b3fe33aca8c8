"""The planned runs of a study as `miclab study plan` shows them: the values of its axes, and how far each run is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miclab.runs.label import read_label

if TYPE_CHECKING:
    from miclab.studies.plan import Plan, PlannedRun
    from miclab.studies.state import State
    from miclab.studies.study import Study

LONGEST = 24
"""Letters of a value that the table shows; --json has all of it."""


def _axes(study: Study, plan: Plan) -> Iterator[tuple[PlannedRun, dict[str, Any]]]:
    """Every run with the values of the study's axes. A run that the study needs before its own, such as stage 1, stands
    at no value of an axis: it has none."""
    from miclab.studies.plan import axis_value

    own = set(plan.members[study.name])
    for identity, run in plan.runs.items():
        parent = plan.runs.get(run.parent)
        yield run, {axis: axis_value(run, parent, axis) for axis in study.axes} if identity in own else {}


def _name(run: PlannedRun, found: State, root: Path) -> str:
    """The name that a run was given; a new one has no directory to look into."""
    return "" if found.status == "new" else read_label(root / run.name, []).name


def plan_json(
    study: Study, plan: Plan, states: Mapping[str, State], kept: frozenset[str], root: Path
) -> list[dict[str, Any]]:
    """The runs as plain values, in the order in which they are trained."""
    found = []
    for run, axes in _axes(study, plan):
        state = states[run.hash]
        found.append(
            {"run": run.name, "name": _name(run, state, root), "hash": run.hash, "parent": run.parent, "axes": axes,
             "seed": run.seed, "steps": run.request.steps, "status": state.status, "step": state.step,
             "reason": state.reason, "in_committed_rows": run.hash in kept}
        )  # fmt: skip
    return found


def shown(value: Any) -> str:
    """A value of an axis as a cell of a table."""
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


def plan_lines(study: Study, plan: Plan, states: Mapping[str, State], kept: frozenset[str], root: Path) -> list[str]:
    """The runs as the lines of a table."""
    rows = []
    for run, axes in _axes(study, plan):
        state = states[run.hash]
        status = "in rows" if run.hash in kept and state.status == "new" else state.status
        values = [shown(axes.get(axis)) for axis in study.axes]
        step = str(state.step) if state.step >= 0 else "-"
        rows.append(
            [run.name, _name(run, state, root), *values, str(run.seed), str(run.request.steps), status, step,
             run.parent[:12] or "-"]
        )  # fmt: skip
    table = [["run", "name", *short_axes(study.axes), "seed", "steps", "status", "step", "parent"], *rows]
    if not any(row[1] for row in rows):
        table = [[row[0], *row[2:]] for row in table]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    # The first and the last column, the status and the name are words; numbers stand to the right.
    words = {0, len(widths) - 1, len(widths) - 3} | ({1} if table[0][1] == "name" else set())
    return ["  ".join(_cells(row, widths, words)).rstrip() for row in table]


def _cells(row: list[str], widths: list[int], words: set[int]) -> list[str]:
    return [
        cell.ljust(width) if place in words else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
