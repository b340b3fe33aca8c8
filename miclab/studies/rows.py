"""The table of a study: a row for each run and metric row, and one for each run that failed."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import polars as pl

from miclab import storage
from miclab.circuits.find import measure_column
from miclab.config import schema
from miclab.config.request import SPLITS
from miclab.errors import ContentError, MiclabError, MistakenError, RunContentError
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
BATCH = 500
"""Rows that are plain data at a time while a table is made: as such they take ten times the memory of a table."""
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


class _Packed:
    """Rows of many runs in little memory: those of a run are JSON, compressed against the rows of the first run."""

    def __init__(self):
        self._runs: dict[str, bytes] = {}
        self._alike = b""

    def __contains__(self, run: str) -> bool:
        return run in self._runs

    def __getitem__(self, run: str) -> list[dict[str, Any]]:
        return json.loads(zlib.decompressobj(zdict=self._alike).decompress(self._runs[run]))

    def __setitem__(self, run: str, rows: list[dict[str, Any]]) -> None:
        content = json.dumps(rows).encode()
        # The compressor looks back 32 KiB.
        self._alike = self._alike or content[-(2**15) :]
        packer = zlib.compressobj(zdict=self._alike)
        self._runs[run] = packer.compress(content) + packer.flush()


class StudyTable:
    """The table of one study, which grows while runs finish; a run's rows are read once.

    Arguments:
        study: the study.
        plan: a plan that has it.
        root: directory of runs.
        given: rows of runs that are taken as they are, whatever is under `root`, by hash.
    """

    def __init__(self, study: Study, plan: Plan, root: Path, given: Mapping[str, pl.DataFrame] = MappingProxyType({})):
        self.study, self.plan, self.root, self.given = study, plan, root, given
        self.warnings: list[str] = []
        self._read = _Packed()
        self._written, self._count, self._pause = 0.0, -1, EVERY
        self._kept: dict[str, list[dict[str, Any]]] | None = None

    def frame(
        self, states: dict[str, State], elsewhere: Mapping[str, list[dict[str, Any]]] | None = None
    ) -> pl.DataFrame:
        """The table of the runs that are given, done or failed, in grid order.

        Arguments:
            elsewhere: rows of runs that are not under `root`, by hash, used if a run is not done here.
        """

        def batches() -> Iterator[list[dict[str, Any]]]:
            rows: list[dict[str, Any]] = []
            for identity in self.plan.members[self.study.name]:
                if identity in self.given or states[identity].status in ("done", "failed"):
                    rows += self.run_rows(identity, states[identity])
                else:
                    rows += self._from_table(identity, (elsewhere or {}).get(identity, []))
                if len(rows) >= BATCH:
                    yield rows
                    rows = []
            yield rows

        return _frame(batches, self.study.axes)

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
                    rows[-1]["step"] != requested.steps and not rows[-1]["reason"].startswith(("plateau", "enough"))
                ):
                    del self._kept[identity]
        return self._kept

    def run_rows(self, identity: str, found: State) -> list[dict[str, Any]]:
        """The rows of one run that is done or failed, or whose rows are given."""
        if identity in self.given:
            return self._from_table(identity, self.given[identity].to_dicts())
        run = self.plan.runs[identity]
        if identity not in self._read or found.status == "failed":
            self._read[identity] = self._run_rows(run, found)
        # Values of axes may be more than JSON has, and the plan has them.
        return [{**row, **self._axes(identity)} for row in self._read[identity]]

    def _axes(self, identity: str) -> dict[str, Any]:
        """The values of a run's axes, by axis."""
        run = self.plan.runs[identity]
        parent = self.plan.runs.get(run.parent)
        return {axis: axis_value(run, parent, axis) for axis in self.study.axes}

    def _from_table(self, identity: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """A run's rows from a table. A text of an axis there may be the JSON of a value, and the plan has the value."""
        axes = self._axes(identity) if rows else {}
        texts = {axis: value for axis, value in axes.items() if isinstance(rows[0].get(axis), (str, type(None)))}
        return [{**row, **texts} for row in rows]

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
        """The rows of one run without the values of axes."""
        shared: dict[str, Any] = {
            "study": self.study.name,
            "profile": self.study.profile,
            "run": run.hash,
            "parent": run.parent,
            "stage": run.config.stage,
            "seed": run.seed,
            "config": json.dumps(schema.to_mapping(run.config), sort_keys=True),
        }
        failed = {**shared, "status": "failed", "reason": found.reason, "step": None, "last": True}
        if found.status == "failed":
            return [failed]
        try:
            return self._good_rows(run, {**shared, "status": "finished", "reason": found.reason})
        except ContentError as error:
            # A run whose files are wrong does not keep the rows of the others from their table.
            return [{**failed, "reason": str(error)}]

    def _good_rows(self, run: PlannedRun, ended: dict[str, Any]) -> list[dict[str, Any]]:
        """The rows of a run that is done.

        Raises:
            ContentError: it is gone, or a file of it is wrong.
        """
        disk = glance(self.root, run.name, run.point)
        if disk is None:
            raise RunContentError(self.root / run.name, "it was removed")
        if disk.hash != run.hash:
            raise MistakenError(disk.path, run.hash, disk.hash)
        # Another study may request more of the same run.
        requested = self.plan.requested[self.study.name][run.hash]
        rows = [
            {**ended, "step": row["step"], "last": False, "loss": row["loss"], **metric_columns(row)}
            for row in disk.rows()
            if row["step"] <= requested.steps and requested.evaluates(row["step"])
        ]
        if disk.warnings or not rows:
            # Rows that end at a damaged file would look like a shorter run.
            raise RunContentError(disk.path, "; ".join(disk.warnings) or "it has no metric row")
        rows[-1] |= {"last": True, **analysis_columns(planned_analyses(self.study, requested), disk)}
        self.warnings += disk.warnings
        return rows


def study_rows(study: Study, plan: Plan, root: Path) -> pl.DataFrame:
    """The table of a study from the runs under `root`."""
    return StudyTable(study, plan, root).frame(state.survey(plan, root))


def _kind(value: Any) -> Any:
    """The type of a value of a column; None where it is a list of other things than numbers."""
    if isinstance(value, list):
        return list if all(isinstance(one, (int, float)) or one is None for one in value) else None
    return type(value)


def _type(kinds: set[Any]) -> Any:
    """The type of a column whose values are of such kinds; None: values of several kinds, as JSON."""
    if kinds <= {int} or kinds <= {bool} or kinds <= {str}:
        return {int: pl.Int64, bool: pl.Boolean, str: pl.String}[next(iter(kinds), int)]
    if kinds <= {int, float}:
        return pl.Float64
    return pl.List(pl.Float64) if kinds == {list} else None


def _column(name: str, values: list[Any], kind: Any) -> pl.Series:
    if kind is None:
        kind, values = pl.String, [v if v is None else json.dumps(v) for v in values]
    if kind == pl.String:
        # Rows of a run share long texts, such as its configuration: each is held once.
        places: dict[str | None, int] = {}
        rows = [places.setdefault(value, len(places)) for value in values]
        return pl.Series(name, list(places), dtype=kind).gather(rows)
    return pl.Series(name, values, dtype=kind)


def _frame(batches: Callable[[], Iterator[list[dict[str, Any]]]], axes: tuple[str, ...]) -> pl.DataFrame:
    """Rows as a table whose columns stand in a fixed order: leading ones, axes, accuracies, the others by name.

    Arguments:
        batches: gives the rows, some at a time. It is called twice: for the types of columns, and for their values.
    """
    known, kinds = {**LEADING, **NUMBERS}, dict[str, set[Any]]()
    for row in (row for rows in batches() for row in rows):
        for name, value in row.items():
            if name not in known:
                of_column = kinds.setdefault(name, set())
                if value is not None:
                    of_column.add(_kind(value))
    names = [*LEADING, *axes, *NUMBERS, *sorted(set(kinds) - set(axes))]
    types = {name: known.get(name, _type(kinds.get(name, set()))) for name in names}
    parts = (
        pl.DataFrame([_column(name, [row.get(name) for row in rows], kind) for name, kind in types.items()])
        for rows in batches()
    )
    return pl.concat(parts, rechunk=True)


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
