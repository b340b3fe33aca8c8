"""The planned runs of a study as `miclab study plan` shows them: the values of its axes, and how far each run is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miclab.studies.listing import given_name, planned_axes

if TYPE_CHECKING:
    from miclab.studies.plan import Plan
    from miclab.studies.state import State
    from miclab.studies.study import Study

LONGEST = 24
"""Letters of a value that the table shows; --json has all of it."""


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
    for run, axes in planned_axes(study, plan):
        state = states[run.hash]
        status = "in rows" if run.hash in kept and state.status == "new" else state.status
        values = [shown(axes.get(axis)) for axis in study.axes]
        step = str(state.step) if state.step >= 0 else "-"
        rows.append(
            [run.name, given_name(run, state, root), *values, str(run.seed), str(run.request.steps), status, step,
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
