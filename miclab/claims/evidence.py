"""The rows of studies as evidence: the rows of planned runs, and the cells of a grid that they form."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from miclab.claims.cells import EvidenceCells
from miclab.claims.plateau import Escape, escapes
from miclab.config.axes import field_named, field_of
from miclab.errors import MiclabError
from miclab.statistics.grid import Cell, Key

if TYPE_CHECKING:
    from miclab.studies.study import Study


@dataclass(frozen=True)
class OverTraining:
    """A quantity of all rows of a run.

    Arguments:
        of: from the run's rows, in the order of their steps, to a number.
    """

    of: Callable[[Sequence[Mapping[str, Any]]], float]


Quantity = str | OverTraining | Callable[[Mapping[str, Any]], Any]
"""A column, or a function. A function of a row gives a number, or a list of one number for each set of novel classes. A
function of all rows of a run gives a number."""
At = Literal["last", "common"] | int
"""The row that represents a run: its last, that at a step, or (`common`) that at the largest step that all have."""


def steps_to(column: str, level: float, censored: Literal["last", "never"]) -> OverTraining:
    """Step of the first row at which a column is at least `level`.

    Arguments:
        censored: for a run without such a row: its `last` step, or infinity (`never`).
    """

    def first(rows: Sequence[Mapping[str, Any]]) -> float:
        reached = next((row["step"] for row in rows if row[column] is not None and row[column] >= level), None)
        if reached is None:
            return rows[-1]["step"] if censored == "last" else np.inf
        return reached

    return OverTraining(first)


def column_values(row: Mapping[str, Any], name: str) -> Any:
    """A row's value of a column, by set of novel classes if the row has that."""
    sets = "icl_sets" if name == "icl" else f"{name}.sets"
    return row[sets] if row.get(sets) else row.get(name)


def identity_of(config: Mapping[str, Any]) -> str:
    """The values that define a run, without its numeric mode and the names of the runs that it starts from. Those runs
    have their own numeric mode."""
    kept = {name: part for name, part in config.items() if name not in ("numerics", "parent")}
    kept["parent"] = field_of(config, "parent.step")
    kept["modalities"] = {n: {**m, "encoder_run": ""} for n, m in config["modalities"].items()}
    return json.dumps(kept, sort_keys=True)


def differences(one: Mapping[str, Any], other: Mapping[str, Any], before: str = "") -> list[str]:
    """Dotted fields in which two configurations differ, except the seed and names of runs."""
    found = []
    for name in {**one, **other}:
        left, right = one.get(name), other.get(name)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            found += differences(left, right, f"{before}{name}.")
        elif left != right and name not in ("seed", "run", "encoder_run"):
            found.append(before + name)
    return found


def grid(
    rows: Evidence,
    studies: str | Sequence[str],
    axes: str,
    quantities: str | Sequence[str] | Mapping[str, Quantity],
    *,
    at: At = "last",
    where: Callable[[Cell], Any] | None = None,
) -> EvidenceCells:
    """Cells of a grid: the planned ones, with the values of existing rows.

    Arguments:
        studies: names of studies, separated by spaces.
        axes: short names of the axes that distinguish the cells (`miclab.config.axes`), separated by spaces.
        quantities: names of columns, separated by spaces (in a list where a name has spaces), or new names with their
            quantities.
        at: the row that represents a run.
        where: the selected cells.

    Raises:
        MiclabError: there is no such study or axis, or the axes leave two planned runs of one seed in one cell.
    """
    names = studies.split() if isinstance(studies, str) else studies
    wanted = quantities.split() if isinstance(quantities, str) else quantities
    return rows.cells(names, axes.split(), wanted, at=at, where=where)


class Evidence:
    """Rows and plans of the studies of one directory, in one preset.

    Arguments:
        directory: that of the study files, with their rows under `rows/PRESET`.
        profile: the preset, `quick` or `paper`.
        parameters: values of the studies' parameters, by name; each study takes those that it has.
    """

    def __init__(self, directory: Path | str, profile: str, parameters: Mapping[str, str] | None = None):
        self.directory, self.profile, self.parameters = Path(directory), profile, dict(parameters or {})
        self._studies: dict[str, Study] = {}
        self._rows: dict[str, pl.DataFrame | None] = {}
        self._plans: dict[str, list[tuple[dict[str, Any], int, str]]] = {}
        self._configs: dict[str, dict[str, Any]] = {}
        self._identities: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        if not self.directory.is_dir():
            raise MiclabError(f"There is no directory {str(directory)!r} of studies: name it with --studies.")

    def study(self, name: str) -> Study:
        """A study of the directory, read once.

        Raises:
            MiclabError: there is none of this name.
        """
        from miclab.studies.files import own_values
        from miclab.studies.study import load_study

        if name not in self._studies:
            file = self._file(name)
            self._studies[name] = load_study(file, self.profile, own_values(file, self.parameters))
        return self._studies[name]

    def _file(self, name: str) -> Path:
        path = self.directory / f"{name}.yaml"
        if not path.is_file():
            raise MiclabError(f"There is no study {str(path)!r}; the claims need it.")
        return path

    def check_parameters(self, studies: Iterable[str]) -> None:
        """Raises ConfigError if none of the studies has one of the parameters that were given."""
        from miclab.studies.files import check_known

        check_known([self._file(study) for study in studies], self.parameters)

    def has(self, study: str) -> bool:
        """Whether the directory has the file of a study."""
        return (self.directory / f"{study}.yaml").is_file()

    def rows(self, study: str) -> pl.DataFrame | None:
        """Rows of a study's finished runs; None if there are none.

        Raises:
            MiclabError: the table is damaged, not sealed, or that of another study or preset.
        """
        from miclab.studies.sealed_table import read_rows

        if study not in self._rows:
            path = self.directory / "rows" / self.profile / f"{study}.parquet"
            frame = None
            if path.is_file():
                frame = read_rows(path)
                frame = frame.filter(pl.col("step").is_not_null() & (pl.col("status") == "finished"))
            self._rows[study] = frame if frame is not None and len(frame) else None
        return self._rows[study]

    def plan(self, study: str) -> list[tuple[dict[str, Any], int, str]]:
        """Configuration as plain data, seed and trajectory hash of every run of a study; none where the study does not
        have the evidence's preset."""
        if study not in self._plans:
            from miclab.studies.study import presets_of

            if self.profile not in presets_of(self._file(study)):
                return self._plans.setdefault(study, [])
            from miclab.config.schema import to_mapping
            from miclab.studies.plan import Plan

            planned = Plan([self.study(study)], "compiled")
            runs = [planned.runs[identity] for identity in planned.members[study]]
            self._plans[study] = [(to_mapping(run.config), run.seed, run.hash) for run in runs]
            self._sizes[study] = min((run.request.sequences for run in runs), default=0)
        return self._plans[study]

    def config(self, text: str) -> dict[str, Any]:
        """A configuration from its JSON, cached. Fields that are newer than the row have their defaults."""
        if text not in self._configs:
            from miclab.config.run import RunConfig
            from miclab.config.schema import from_mapping, to_mapping

            self._configs[text] = to_mapping(from_mapping(RunConfig, json.loads(text)))
        return self._configs[text]

    def cells(
        self,
        studies: Sequence[str],
        axes: Sequence[str],
        quantities: Mapping[str, Quantity] | Sequence[str],
        *,
        at: At = "last",
        where: Callable[[Cell], Any] | None = None,
    ) -> EvidenceCells:
        """Cells of a grid; see `grid`. `axes` may be dotted fields too."""
        if not isinstance(quantities, Mapping):
            quantities = {name: name for name in quantities}
        fields = [field_named(axis) for axis in axes]
        planned: dict[Key, dict[int, str]] = {}
        identities: dict[str, str] = {}
        configs: dict[str, Mapping[str, Any]] = {}
        for study in studies:
            for config, seed, name in self.plan(study):
                cell = planned.setdefault(tuple(field_of(config, field) for field in fields), {})
                configs[name] = config
                if cell.setdefault(seed, name) != name:
                    differ = ", ".join(differences(configs[cell[seed]], config)) or "the runs that they start from"
                    raise MiclabError(
                        f"Two runs of {', '.join(studies)} are in one cell of the axes {' '.join(axes) or '(none)'}:"
                        f" add an axis in which they differ: {differ}. In `curves` it is `by`, in `heatmaps` `y`."
                    )
                identities[self._identity(name, config)] = name
        cells = EvidenceCells(tuple(planned), {}, planned, axes=tuple(axes))
        cells = cells if where is None else cells.where(where)
        wanted = {name for key in cells.keys for name in cells.planned[key].values()}
        frame = self._frame(studies, {i: name for i, name in identities.items() if name in wanted})
        whole = any(isinstance(quantity, OverTraining) for quantity in quantities.values())
        every, (frame, step) = frame, ((frame, -1) if whole else _at(frame, at))
        left = {} if whole or not len(frame) else self._escapes(every, frame)
        values: dict[Key, dict[int, dict[str, NDArray]]] = {}
        leaving: dict[Key, dict[int, Escape]] = {}
        for rows in _rows_of_runs(frame, whole, _needed(quantities)):
            key = tuple(field_of(self.config(rows[-1]["config"]), field) for field in fields)
            found = {name: _value(rows, quantity) for name, quantity in quantities.items()}
            # A row without the columns of an analysis has no value yet.
            if all(value is not None for value in found.values()) and rows[-1]["seed"] in cells.planned[key]:
                values.setdefault(key, {})[rows[-1]["seed"]] = {
                    name: np.atleast_1d(np.asarray(value, dtype=float)) for name, value in found.items()
                }
                if escape := left.get(rows[-1]["run"]):
                    leaving.setdefault(key, {})[rows[-1]["seed"]] = escape
        return replace(cells, values=values, step=step, leaving=leaving, sequences=self._sequences(studies))

    def _escapes(self, every: pl.DataFrame, judged: pl.DataFrame) -> Mapping[str, Escape]:
        """When each run left the plateau, by its name, from all rows and the judged ones."""
        if "icl" not in every.columns:
            return {}
        rows = judged.select("run", "step", "config").unique("run").iter_rows()
        steps, configs = {}, {}
        for run, step, text in rows:
            steps[run], configs[run] = float(step), self.config(text)
        return escapes(every, steps, configs)

    def _sequences(self, studies: Sequence[str]) -> int:
        """Sequences of a set of novel classes, the fewest of the studies."""
        found = [self._sizes.get(study, 0) for study in studies]
        return min((size for size in found if size), default=100)

    def _identity(self, name: str, config: Mapping[str, Any]) -> str:
        if name not in self._identities:
            self._identities[name] = identity_of(config)
        return self._identities[name]

    def _frame(self, studies: Sequence[str], wanted: Mapping[str, str]) -> pl.DataFrame:
        """Rows of the studies' planned runs. A run of the same configuration may come from a machine with another
        numeric mode."""
        frames = [frame for study in studies if (frame := self.rows(study)) is not None]
        frame = pl.concat(frames, how="diagonal_relaxed") if frames else pl.DataFrame()
        if not len(frame):
            return frame
        mine: dict[str, str] = {}
        for run, text in frame.select("run", "config").unique("run", maintain_order=True).iter_rows():
            identity = self._identity(f"row {run}", self.config(text))
            if identity in wanted and (identity not in mine or run == wanted[identity]):
                mine[identity] = run
        return frame.filter(pl.col("run").is_in(list(mine.values())))


def _at(frame: pl.DataFrame, at: At) -> tuple[pl.DataFrame, int]:
    """The row that represents each run, and their common step; -1: each run's last."""
    if not len(frame):
        return frame, -1
    if at != "common":
        return frame.filter(pl.col("last") if at == "last" else pl.col("step") == at), -1
    runs = frame["run"].n_unique()
    steps = frame.group_by("step").agg(pl.col("run").n_unique()).filter(pl.col("run") == runs)
    step = int(steps["step"].max() or -1) if len(steps) else -1  # type: ignore[arg-type]
    # Runs without a step in common cannot be compared: none is left then.
    return frame.filter(pl.col("step") == step), step


def _needed(quantities: Mapping[str, Quantity]) -> set[str] | None:
    """Columns that quantities are made of; None: any, as functions look at all of a row."""
    names = [quantity for quantity in quantities.values() if isinstance(quantity, str)]
    if len(names) < len(quantities):
        return None
    return {"run", "seed", "step", "config", "icl_sets", *names, *(f"{name}.sets" for name in names)}


def _rows_of_runs(frame: pl.DataFrame, whole: bool, needed: set[str] | None) -> Iterable[list[dict[str, Any]]]:
    """Each run's rows in the order of their steps (`whole`), or its first one."""
    if not len(frame):
        return ()
    if needed is not None:
        frame = frame.select(name for name in frame.columns if name in needed)
    # A run may be in the tables of several studies.
    frame = frame.unique(["run", "step"] if whole else "run", keep="first", maintain_order=True)
    runs: dict[str, list[dict[str, Any]]] = {}
    for row in frame.iter_rows(named=True):
        runs.setdefault(row["run"], []).append(row)
    return [sorted(rows, key=lambda row: row["step"]) for rows in runs.values()]


def _value(rows: Sequence[Mapping[str, Any]], quantity: Quantity) -> Any:
    if isinstance(quantity, OverTraining):
        return quantity.of(rows)
    return column_values(rows[-1], quantity) if isinstance(quantity, str) else quantity(rows[-1])
