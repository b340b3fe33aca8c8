"""A study's rows as the cells of its grid: planned and existing runs, and their means with intervals."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from miclab.claims.evidence import column_values
from miclab.claims.plots.panels import shown_mean
from miclab.config.axes import DOUBLING, axis_name, distinguishing, field_of
from miclab.config.request import SPLITS
from miclab.config.schema import to_mapping
from miclab.errors import MiclabError
from miclab.report.run.collect import evenly
from miclab.statistics.grid import Cells
from miclab.statistics.intervals import Interval
from miclab.studies.plan import Plan, axis_value
from miclab.studies.study import Study

At = Literal["common", "last"]
"""The row that represents a run: that of the largest step that all finished runs have, or its last."""
CURVE_NUMBERS = 12_000
"""Most metric rows of all runs in curves over training; rows in between are left out evenly."""
Value = Any
Key = tuple[Value, ...]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A field in which the points of a study differ.

    Arguments:
        field: dotted name.
        name: in words.
        values: its planned values: numbers in their order, others in that of the study.
    """

    field: str
    name: str
    values: tuple[Value, ...]

    @property
    def short(self) -> str:
        """Its symbol, or its name where it has none."""
        return self.name.split(",")[0]

    @property
    def numeric(self) -> bool:
        """Whether its values are numbers."""
        return all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in self.values)

    @property
    def doubling(self) -> bool:
        """Whether it is drawn on a scale of doublings."""
        return self.numeric and self.field.split(".")[-1] in DOUBLING and min(self.values) > 0


@dataclass(frozen=True, kw_only=True)
class RunOfStudy:
    """One planned run.

    Arguments:
        hash: trajectory hash of its rows, or of the plan if it has none.
        cell: number of its cell.
        status: `finished`, `failed`, or `missing` if it has no row.
        reason: of its end or failure.
        rows: its metric rows; some may be left out evenly.
        row: the row that represents it; None if it is not finished or has none at the common step.
        last: its last row, which holds the analyses; None if it is not finished.
    """

    hash: str
    cell: int
    seed: int
    status: str
    reason: str
    rows: Sequence[Mapping[str, Any]] = ()
    row: Mapping[str, Any] | None = None
    last: Mapping[str, Any] | None = None


def shown_value(value: Value) -> str:
    """A value of an axis as text."""
    if isinstance(value, tuple):
        return " ".join(shown_value(v) for v in value) or "default"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def plain_value(value: Any) -> Value:
    """A value of an axis, the same whether it comes from a plan or from a table (which holds some lists as JSON)."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            return plain_value(json.loads(value))
        except ValueError:
            return value
    if isinstance(value, Mapping):
        return json.dumps(value, sort_keys=True)
    return tuple(plain_value(v) for v in value) if isinstance(value, (list, tuple)) else value


@dataclass(frozen=True, kw_only=True)
class StudyCells:
    """All data of the report on a study.

    Arguments:
        study: the study.
        axes: the fields in which its cells differ; the first two numeric ones span the phase diagrams.
        along: fields that vary too, but whose value follows from the axes.
        keys: planned cells, by the values of the axes, in grid order.
        runs: every planned run, cell by cell.
        step: step of the rows that represent the runs; -1: each run's last.
        strangers: finished or failed runs in the table that the study no longer plans.
        sequences: sequences of each set of novel classes.
    """

    study: Study
    axes: tuple[Axis, ...]
    along: tuple[str, ...]
    keys: tuple[Key, ...]
    runs: tuple[RunOfStudy, ...]
    step: int
    strangers: int
    sequences: int = 100

    @cached_property
    def members(self) -> tuple[tuple[RunOfStudy, ...], ...]:
        """The planned runs of every cell."""
        return tuple(tuple(run for run in self.runs if run.cell == cell) for cell in range(len(self.keys)))

    @property
    def x(self) -> Axis | None:
        """The axis from left to right: the first numeric one, else the first; None in a study of one point."""
        return next((axis for axis in self.axes if axis.numeric), self.axes[0] if self.axes else None)

    @property
    def y(self) -> Axis | None:
        """The axis from bottom to top: the second numeric one; None where there is no plane."""
        numeric = [axis for axis in self.axes if axis.numeric]
        return numeric[1] if len(numeric) > 1 else None

    def rest(self, *but: Axis | None) -> tuple[Axis, ...]:
        """The axes without some."""
        return tuple(axis for axis in self.axes if axis not in but)

    def value(self, cell: int, axis: Axis) -> Value:
        """A cell's value on an axis."""
        return self.keys[cell][self.axes.index(axis)]

    def label(self, cell: int, axes: Iterable[Axis] | None = None) -> str:
        """A cell in words, by all axes or by some."""
        chosen = self.axes if axes is None else tuple(axes)
        return ", ".join(f"{a.short} = {shown_value(self.value(cell, a))}" for a in chosen) or "the study's one point"

    def counts(self) -> dict[str, int]:
        """Planned runs by status."""
        return {s: n for s in ("finished", "failed", "missing") if (n := sum(run.status == s for run in self.runs))}

    @cached_property
    def scores(self) -> tuple[dict[str, tuple[float, Interval | None]], ...]:
        """Each accuracy of every cell's runs: the mean over seeds, and its interval with at least two seeds."""
        return tuple(
            estimates({r.seed: r.row for r in runs if r.row is not None}, SPLITS, self.sequences, key=self.keys[cell])
            for cell, runs in enumerate(self.members)
        )

    def blank(self, cell: int) -> str:
        """Why a cell has no value; empty if it has one."""
        if self.scores[cell].get("icl") is not None:
            return ""
        runs = self.members[cell]
        failed = [run for run in runs if run.status == "failed"]
        if failed:
            return f"{len(failed)} of {len(runs)} runs failed: {failed[0].reason}"
        if any(run.status == "finished" for run in runs):
            return f"no row at step {self.step:,}"
        return "not run yet"


def _values(row: Mapping[str, Any], quantity: str) -> NDArray[np.floating] | None:
    found = column_values(row, quantity)
    if isinstance(found, (list, tuple)) and any(v is None for v in found):
        found = row.get(quantity)
    return None if found is None else np.atleast_1d(np.asarray(found, dtype=float))


def estimates(
    rows: Mapping[int, Mapping[str, Any]], quantities: Sequence[str], sequences: int, key: Key = ()
) -> dict[str, tuple[float, Interval | None]]:
    """The mean over seeds of quantities of one cell, each with its interval, as the ledger's figures have them:
    Student's t over seeds. One seed alone has no interval.

    Arguments:
        rows: a row for each seed.
        quantities: columns; those that a row lacks are left out.
        sequences: sequences of each set of novel classes.
    """
    values = {
        seed: {q: v for q in quantities if (v := _values(row, q)) is not None} for seed, row in sorted(rows.items())
    }
    shared = [q for q in quantities if values and all(q in found for found in values.values())]
    if not shared:
        return {}
    values = {seed: {q: found[q] for q in shared} for seed, found in values.items()}
    cells = Cells((key,), {key: values}, {key: dict.fromkeys(values, "")}, sequences=sequences)
    return {
        q: (float(np.mean([v[q].mean() for v in values.values()])), cells.over_seeds(shown_mean(q))) for q in shared
    }


def _flat(config: Mapping[str, Any], before: str = "") -> dict[str, Value]:
    found: dict[str, Value] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{name}.")
        else:
            found[before + name] = plain_value(value)
    return found


def _common_step(frame: pl.DataFrame) -> int:
    """The largest step at which every finished run has a row; -1 if there is none."""
    count = frame["run"].n_unique()
    steps = frame.group_by("step").agg(pl.col("run").n_unique()).filter(pl.col("run") == count)["step"]
    return max(steps.to_list(), default=-1)


def study_cells(study: Study, plan: Plan, frame: pl.DataFrame, at: At = "common") -> StudyCells:
    """The cells of a study with the runs of its table.

    Cells differ in the axes of the grid and in every other field of the configuration that a block changes. A field
    whose value follows from those before it is not an axis.

    Arguments:
        plan: a plan that has the study.
        frame: its table (see `miclab.studies.rows`).
        at: the row that represents a run.

    Raises:
        MiclabError: the table lacks an axis of the study.
    """
    lacking = [axis for axis in study.axes if axis not in frame.columns]
    if lacking:
        raise MiclabError(
            f"The rows of {study.name} have no column {lacking[0]!r}, which is an axis of {study.file}: the study has"
            f" changed since. `miclab study run {study.file} --preset {study.profile}` brings them up to date."
        )
    planned = [plan.runs[identity] for identity in plan.members[study.name]]
    configs = [_flat(to_mapping(run.config)) for run in planned]
    axes = {a: [plain_value(axis_value(r, plan.runs.get(r.parent), a)) for r in planned] for a in study.axes}
    fields = [f for f in dict.fromkeys(name for config in configs for name in config) if f not in axes]
    fields = [f for f in fields if f != "seed" and not f.startswith(("parent.", "numerics."))]
    others = {field: [config.get(field) for config in configs] for field in fields}
    # Lengths of training come last, since cells that differ in them mostly differ in a field with a better name, too.
    candidates = {a: v for a, v in axes.items() if not a.startswith("request.")} | others
    candidates |= {a: v for a, v in axes.items() if a.startswith("request.")}
    kept = distinguishing(candidates)
    alone = len(planned[0].point.modalities) == 1 if planned else False
    found_axes = tuple(_axis(field, candidates[field], alone) for field in kept)
    keys = list(zip(*(candidates[field] for field in kept), strict=True)) if kept else [()] * len(planned)
    cells = {key: number for number, key in enumerate(dict.fromkeys(keys))}

    by_hash = {run.hash: (cells[key], run.seed) for run, key in zip(planned, keys, strict=True)}
    hashes = {place: identity for identity, place in by_hash.items()}
    chosen: dict[tuple[int, int], str] = {}
    strangers = 0
    for (identity,), part in frame.group_by("run", maintain_order=True):
        place = by_hash.get(str(identity)) or _place(part.row(0, named=True), kept, study.axes, cells)
        if place not in hashes:
            strangers += 1
        elif place not in chosen or identity in by_hash:
            chosen[place] = str(identity)
    frame = frame.filter(pl.col("run").is_in(list(chosen.values())))
    finished = frame.filter((pl.col("status") == "finished") & pl.col("step").is_not_null())
    step = _common_step(finished) if at == "common" else -1
    most = max(20, CURVE_NUMBERS // max(1, finished["run"].n_unique()))
    parts = {str(identity): part.rows(named=True) for (identity,), part in frame.group_by("run", maintain_order=True)}
    there = {place: _run(identity, place, parts[identity], step, most) for place, identity in chosen.items()}
    absent = [
        RunOfStudy(hash=identity, cell=cell, seed=seed, status="missing", reason="not run yet")
        for (cell, seed), identity in hashes.items()
        if (cell, seed) not in there
    ]
    runs = tuple(sorted([*there.values(), *absent], key=lambda run: (run.cell, run.seed)))
    along = tuple(a for a, values in axes.items() if a not in kept and len(set(values)) > 1)
    return StudyCells(
        study=study, axes=found_axes, along=along, keys=tuple(cells), runs=runs, step=step, strangers=strangers,
        sequences=min((run.request.sequences for run in plan.runs.values()), default=100),
    )  # fmt: skip


def _axis(field: str, values: Iterable[Value], alone: bool) -> Axis:
    name = axis_name(field, alone=alone)
    found = Axis(field=field, name=name, values=tuple(dict.fromkeys(values)))
    return Axis(field=field, name=name, values=tuple(sorted(found.values))) if found.numeric else found


def _place(
    row: Mapping[str, Any], fields: Sequence[str], axes: Sequence[str], cells: Mapping[Key, int]
) -> tuple[int, int]:
    """Cell and seed of a row whose run's hash differs from the planned one, as in another numeric mode; cell -1:
    none."""
    config = json.loads(row["config"])
    key = tuple(plain_value(row[field] if field in axes else field_of(config, field)) for field in fields)
    return cells.get(key, -1), row["seed"]


def _run(identity: str, place: tuple[int, int], rows: list[dict[str, Any]], step: int, most: int) -> RunOfStudy:
    cell, seed = place
    last = rows[-1]
    if last["status"] != "finished" or last["step"] is None:
        return RunOfStudy(hash=identity, cell=cell, seed=seed, status="failed", reason=last["reason"] or "")
    row = last if step < 0 else next((row for row in rows if row["step"] == step), None)
    return RunOfStudy(
        hash=identity, cell=cell, seed=seed, status="finished", reason=last["reason"] or "",
        rows=evenly(rows, most), row=row, last=last,
    )  # fmt: skip


def finite(value: float | None) -> float | None:
    """A number that JSON can hold; None for one that is not finite."""
    return None if value is None or not math.isfinite(value) else value
