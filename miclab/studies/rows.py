"""The table of a study: a row for each run and metric row, and one for each run that failed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from miclab import storage
from miclab.circuits.find import measure_column
from miclab.config import schema
from miclab.config.request import SPLITS
from miclab.errors import DamagedError, MiclabError, MistakenError
from miclab.runs.find import glance
from miclab.studies import sealed_table, state
from miclab.studies.analyses import analysis_columns
from miclab.studies.plan import Plan, PlannedRun, axis_value, planned_analyses
from miclab.studies.sealed_table import read_rows
from miclab.studies.state import State
from miclab.studies.study import Study

EVERY, SHARE = 30.0, 0.02
"""Seconds between two writings of a table while runs finish, and the largest share of the time that writing takes.
A table of ten thousand runs takes seconds."""
LEADING = {
    "study": pl.String,
    "profile": pl.String,
    "run": pl.String,
    "parent": pl.String,
    "stage": pl.String,
    "seed": pl.Int64,
    "status": pl.String,
    "reason": pl.String,
    "step": pl.Int64,
    "last": pl.Boolean,
    "loss": pl.Float64,
    "config": pl.String,
}
SPLIT_COLUMNS = (*(split for split in SPLITS if split != "train"), "train")
"""Columns of accuracies in the order of the committed tables."""
NUMBERS: dict[str, Any] = {
    **dict.fromkeys(SPLIT_COLUMNS, pl.Float64),
    **{f"cla.{split}": pl.Float64 for split in SPLIT_COLUMNS},
    "icl_sets": pl.List(pl.Float64),
}


def table_file(study: Study) -> Path:
    """The path of a study's table: `rows/PROFILE/NAME.parquet` beside the study's file."""
    return study.file.parent / "rows" / study.profile / f"{study.name}.parquet"


def flat(name: str, value: Any) -> dict[str, Any]:
    """Nested numbers under dotted names; a list of numbers stays a list."""
    if isinstance(value, dict):
        return {k: v for key, part in value.items() for k, v in flat(f"{name}.{key}", part).items()}
    return {name: value}


def metric_columns(row: dict[str, Any]) -> dict[str, Any]:
    """A run's metric row as columns."""
    columns: dict[str, Any] = dict(row["accuracy"])
    columns |= {f"cla.{split}": value for split, value in row["context_label_accuracy"].items()}
    columns["icl_sets"] = row["icl_sets"]
    for name, layers in row["measures"].items():
        for layer, heads in enumerate(layers):
            columns |= {measure_column(name, (layer, head)): value for head, value in enumerate(heads)}
    known = ("step", "loss", "accuracy", "context_label_accuracy", "icl_sets", "measures")
    for name, value in row.items():
        if name not in known:
            columns |= flat(name, value)
    return columns


class StudyTable:
    """The table of one study, which grows while runs finish; a run's rows are read once.

    Arguments:
        study: the study.
        plan: a plan that has it.
        root: directory of runs.
    """

    def __init__(self, study: Study, plan: Plan, root: Path):
        self.study, self.plan, self.root = study, plan, root
        self.warnings: list[str] = []
        self._read: dict[str, list[dict[str, Any]]] = {}
        self._written, self._count, self._pause = 0.0, -1, EVERY
        self._kept: dict[str, list[dict[str, Any]]] | None = None

    def frame(
        self, states: dict[str, State], elsewhere: Mapping[str, list[dict[str, Any]]] | None = None
    ) -> pl.DataFrame:
        """The table of the runs that are done or failed, in grid order.

        Arguments:
            elsewhere: rows of runs that are not under `root`, by hash, used if a run is not done here.
        """
        rows: list[dict[str, Any]] = []
        for identity in self.plan.members[self.study.name]:
            if states[identity].status in ("done", "failed"):
                rows += self.run_rows(identity, states[identity])
            else:
                rows += (elsewhere or {}).get(identity, [])
        return _frame(rows, self.study.axes)

    def kept(self) -> dict[str, list[dict[str, Any]]]:
        """Rows of planned runs in the existing table, by hash, if they were trained for the requested steps. So a
        committed table keeps its rows even if the runs are missing."""
        if self._kept is None:
            self._kept = {}
            found = read_rows(table_file(self.study)) if table_file(self.study).exists() else None
            for row in found.iter_rows(named=True) if found is not None else ():
                if row["run"] in self.plan.runs and row["status"] == "finished":
                    self._kept.setdefault(row["run"], []).append(row)
            for identity, rows in list(self._kept.items()):
                requested = self.plan.requested[self.study.name].get(identity)
                if requested is None or (
                    rows[-1]["step"] != requested.steps and not rows[-1]["reason"].startswith("plateau")
                ):
                    del self._kept[identity]
        return self._kept

    def run_rows(self, identity: str, found: State) -> list[dict[str, Any]]:
        """The rows of one run that is done or failed."""
        if identity not in self._read or found.status == "failed":
            self._read[identity] = self._run_rows(self.plan.runs[identity], found)
        return self._read[identity]

    def write(self, states: dict[str, State], now: bool = False) -> None:
        """Writes the table atomically, if runs ended since the last time and `EVERY` seconds are over, or `now`."""
        if not (now or time.monotonic() - self._written > self._pause):
            return
        began = time.monotonic()
        ended = sum(states[i].status in ("done", "failed") for i in self.plan.members[self.study.name])
        if ended == self._count:
            return
        sealed_table.write(self.frame(states, self.kept()), table_file(self.study))
        self._written, self._count = time.monotonic(), ended
        self._pause = max(EVERY, (self._written - began) / SHARE)

    def _run_rows(self, run: PlannedRun, found: State) -> list[dict[str, Any]]:
        parent = self.plan.runs.get(run.parent)
        shared: dict[str, Any] = {
            "study": self.study.name,
            "profile": self.study.profile,
            "run": run.hash,
            "parent": run.parent,
            "stage": run.config.stage,
            "seed": run.seed,
            "config": json.dumps(schema.to_mapping(run.config), sort_keys=True),
        } | {axis: axis_value(run, parent, axis) for axis in self.study.axes}
        failed = {**shared, "status": "failed", "reason": found.reason, "step": None, "last": True}
        if found.status == "failed":
            return [failed]
        try:
            disk = glance(self.root, run.name, run.point)
        except (DamagedError, MistakenError) as error:
            return [{**failed, "reason": str(error)}]
        if disk is not None and disk.hash != run.hash:
            return [{**failed, "reason": str(MistakenError(disk.path, run.hash, disk.hash))}]
        if disk is None:
            return [{**failed, "reason": "it was removed"}]
        ended = {**shared, "status": "finished", "reason": found.reason}
        # Another study may request more of the same run.
        requested = self.plan.requested[self.study.name][run.hash]
        rows = [
            {**ended, "step": row["step"], "last": False, "loss": row["loss"], **metric_columns(row)}
            for row in disk.rows()
            if row["step"] <= requested.steps and requested.evaluates(row["step"])
        ]
        if disk.warnings or not rows:
            # Rows that end at a damaged file would look like a shorter run.
            return [{**failed, "reason": "; ".join(disk.warnings) or "it has no metric row"}]
        rows[-1] |= {"last": True, **analysis_columns(planned_analyses(self.study, requested), disk)}
        self.warnings += disk.warnings
        # Rows of all runs are kept, and their names of columns are the same ones.
        return [{sys.intern(name): value for name, value in row.items()} for row in rows]


def study_rows(study: Study, plan: Plan, root: Path) -> pl.DataFrame:
    """The table of a study from the runs under `root`."""
    return StudyTable(study, plan, root).frame(state.survey(plan, root))


def _column(name: str, values: list[Any], kind: Any) -> pl.Series:
    if kind is not None:
        return pl.Series(name, values, dtype=kind)
    kinds = {type(v) for v in values if v is not None}
    if kinds <= {int} or kinds <= {bool} or kinds <= {str}:
        return pl.Series(name, values, dtype={int: pl.Int64, bool: pl.Boolean, str: pl.String}[next(iter(kinds), int)])
    if kinds <= {int, float}:
        return pl.Series(name, values, dtype=pl.Float64)
    if kinds == {list} and all(isinstance(e, (int, float)) or e is None for v in values if v for e in v):
        return pl.Series(name, values, dtype=pl.List(pl.Float64))
    return pl.Series(name, [v if v is None else json.dumps(v) for v in values], dtype=pl.String)


def _frame(rows: list[dict[str, Any]], axes: tuple[str, ...]) -> pl.DataFrame:
    """Rows as a table whose columns stand in a fixed order: leading ones, axes, accuracies, the others by name."""
    known = {**LEADING, **NUMBERS}
    others = sorted({name for row in rows for name in row} - set(known) - set(axes))
    names = [*LEADING, *axes, *NUMBERS, *others]
    return pl.DataFrame([_column(name, [row.get(name) for row in rows], known.get(name)) for name in names])


def write_table(frame: pl.DataFrame, file: Path) -> None:
    """Writes a table as parquet or, by the file's ending, CSV (lists as JSON), atomically.

    Raises:
        RunError: it cannot be written.
        DamagedError: a parquet file's list is damaged (see `miclab.studies.sealed_table`).
    """
    import io

    buffer = io.BytesIO()
    if file.suffix == ".csv":
        lists = [n for n, kind in frame.schema.items() if kind == pl.List]
        texts = [
            pl.Series(n, [None if v is None else json.dumps(list(v)) for v in frame[n]], dtype=pl.String) for n in lists
        ]
        frame.with_columns(texts).write_csv(buffer)
    elif file.suffix == ".parquet":
        if not sealed_table.is_listed(file):
            buffer.write(sealed_table.table_bytes(frame))
        else:
            sealed_table.write(frame, file)
            return
    else:
        raise MiclabError(f"{file}: a table is written as .parquet or .csv.")
    storage.write_bytes(file, buffer.getvalue())


def current_rows(study: Study, plan: Plan, root: Path, *, stored: bool = False) -> tuple[pl.DataFrame, list[str]]:
    """The current table, and warnings about damaged files. It is made from the runs under `root` if one of the study is
    done, with committed rows for runs that are missing. Otherwise it is the table beside the study.

    Arguments:
        stored: use the table beside the study, whether or not runs exist.

    Raises:
        MiclabError: there are no rows yet, or the table cannot be read.
    """
    states = {} if stored else state.survey(plan, root)
    if any(found.status == "done" for found in states.values()):
        table = StudyTable(study, plan, root)
        return table.frame(states, table.kept()), list(dict.fromkeys(table.warnings))
    file = table_file(study)
    if not file.exists():
        given = "".join(f" --parameter {name}={value}" for name, value in study.parameters.items())
        raise MiclabError(
            f"{study.name} has no rows yet in the preset {study.profile}: there is neither a run of it under {root}"
            f" nor a table {file}. `miclab study run {study.file} --preset {study.profile}{given}` makes them."
        )
    return read_rows(file), []
