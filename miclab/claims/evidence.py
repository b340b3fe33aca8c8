"""The rows of studies as evidence: cells of a grid, their seeds, and bootstrap intervals of any statistic over them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from miclab.errors import MiclabError
from miclab.statistics.intervals import RESAMPLES, Interval

if TYPE_CHECKING:
    from miclab.studies.study import Study

Key = tuple[Any, ...]
Means = Mapping[str, NDArray[np.floating]]
Statistic = Callable[[Means], NDArray[np.floating]]
"""From the means of each quantity [..., cell] to a number [...]."""
Quantity = str | Callable[[Mapping[str, Any]], Any]
"""A column, or a function of a row that gives a number or a list of one number for each set of novel classes."""


def field_of(config: Mapping[str, Any], axis: str) -> Any:
    """Value of a dotted field of a configuration as plain data, a list as a tuple; None where it has no such field."""
    value: Any = config
    for part in axis.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return tuple(value) if isinstance(value, list) else value


def column_values(row: Mapping[str, Any], name: str) -> Any:
    """A row's value of a column, by set of novel classes where the row has it so."""
    sets = "icl_sets" if name == "icl" else f"{name}.sets"
    return row[sets] if row.get(sets) else row.get(name)


def identity_of(config: Mapping[str, Any]) -> str:
    """What decides a run, but for the numeric mode and the names of the runs that it starts from, which have a mode of
    their own."""
    kept = {name: part for name, part in config.items() if name not in ("numerics", "parent")}
    kept["parent"] = field_of(config, "parent.step")
    kept["modalities"] = {n: {**m, "encoder_run": ""} for n, m in config["modalities"].items()}
    return json.dumps(kept, sort_keys=True)


@dataclass(frozen=True)
class Cells:
    """Values of quantities by cell of a grid, seed, and set of novel classes.

    Arguments:
        keys: the planned cells, in grid order.
        values: for each cell that has rows, each quantity's values by seed [set].
        planned: for each cell, the name of the planned run of each seed.
        step: training step of the rows; -1: each run's last.
    """

    keys: tuple[Key, ...]
    values: Mapping[Key, Mapping[int, Mapping[str, NDArray[np.floating]]]]
    planned: Mapping[Key, Mapping[int, str]]
    step: int = -1

    @cached_property
    def present(self) -> frozenset[str]:
        """Planned runs that have values."""
        return frozenset(
            name for key in self.keys for seed, name in self.planned[key].items() if seed in self.values.get(key, ())
        )

    @cached_property
    def used(self) -> frozenset[str]:
        """Those of them that statistics are made of: of the seeds that every cell has, if these suffice."""
        if not self.decidable:
            return self.present
        return frozenset(self.planned[key][seed] for key in self.keys for seed in self.seeds)

    @cached_property
    def absent(self) -> frozenset[str]:
        """Planned runs that have none."""
        return frozenset(name for key in self.keys for name in self.planned[key].values()) - self.present

    def column(self, index: int) -> NDArray[np.floating]:
        """One axis of the cells as numbers."""
        return np.array([key[index] for key in self.keys], dtype=float)

    def where(self, keep: Callable[[Key], bool]) -> Cells:
        """The cells that `keep` accepts."""
        keys = tuple(key for key in self.keys if keep(key))
        values = {key: self.values[key] for key in keys if key in self.values}
        return Cells(keys, values, {key: self.planned[key] for key in keys}, self.step)

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """Seeds that every cell has: statistics compare cells seed by seed."""
        found = [set(self.values.get(key, ())) for key in self.keys]
        return tuple(sorted(set.intersection(*found))) if found else ()

    @property
    def decidable(self) -> bool:
        """Whether every cell has the same two seeds, at least."""
        return len(self.seeds) >= 2

    @cached_property
    def draws(self) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
        """Means over seeds of each quantity [cell], and the same under resampling [resample, cell].

        Seeds are resampled, for all cells alike, and within a seed its sets of novel classes, for all quantities alike.
        """
        generator = np.random.default_rng(0)
        count = len(self.seeds)
        chosen = generator.integers(count, size=(RESAMPLES, count))
        sets: dict[int, NDArray] = {}
        means: dict[str, NDArray] = {}
        draws: dict[str, NDArray] = {}
        for name in next(iter(self.values[self.keys[0]].values())):
            columns, again = [], []
            for key in self.keys:
                values = [self.values[key][seed][name] for seed in self.seeds]
                size = len(values[0])
                if any(len(v) != size for v in values):
                    values, size = [v.mean(keepdims=True) for v in values], 1
                table = np.stack(values)
                if size not in sets:
                    sets[size] = generator.integers(size, size=(RESAMPLES, count, size))
                columns.append(table.mean())
                again.append(table[chosen[:, :, None], sets[size]].mean((1, 2)))
            means[name], draws[name] = np.array(columns), np.stack(again, -1)
        return means, draws

    def interval(self, statistic: Statistic, level: float = 0.95) -> Interval | None:
        """A statistic of the cells' means with its percentile bootstrap; None where no seed has rows in every cell.
        With one seed its sets of novel classes are resampled, which decides nothing (unit `set`).

        Its ends are NaN where the statistic is undefined in a resample, as a share of nothing is.
        """
        if not self.seeds:
            return None
        means, draws = self.draws
        with np.errstate(divide="ignore", invalid="ignore"):
            estimate, values = float(statistic(means)), np.asarray(statistic(draws), dtype=float)
        values = np.where(np.isfinite(values), values, np.nan)
        low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
        unit, count = ("seed", len(self.seeds)) if self.decidable else ("set", self._sets)
        return Interval(estimate, float(low), float(high), unit, count, level)

    def over_seeds(self, statistic: Statistic) -> Interval | None:
        """Like `interval`, but None with one seed, too."""
        return self.interval(statistic) if self.decidable else None

    @property
    def _sets(self) -> int:
        """Sets of novel classes in the first seed that every cell has."""
        return max(len(value) for key in self.keys for value in self.values[key][self.seeds[0]].values())


class Evidence:
    """Rows and plans of the studies of one directory, in one profile.

    Arguments:
        directory: where the study files lie, and their rows under `rows/PROFILE`.
        profile: `quick` or `paper`.
    """

    def __init__(self, directory: Path | str, profile: str):
        self.directory, self.profile = Path(directory), profile
        self._studies: dict[str, Study] = {}
        self._rows: dict[str, pl.DataFrame | None] = {}
        self._plans: dict[str, list[tuple[dict[str, Any], int, str]]] = {}
        self._configs: dict[str, dict[str, Any]] = {}
        if not self.directory.is_dir():
            raise MiclabError(f"There is no directory {str(directory)!r} of studies: name it with --studies.")

    def study(self, name: str) -> Study:
        """A study of the directory, read once.

        Raises:
            MiclabError: there is none of this name.
        """
        from miclab.studies.study import load_study

        if name not in self._studies:
            path = self.directory / f"{name}.yaml"
            if not path.is_file():
                raise MiclabError(f"There is no study {str(path)!r}; the claims need it.")
            self._studies[name] = load_study(path, self.profile)
        return self._studies[name]

    def rows(self, study: str) -> pl.DataFrame | None:
        """Rows of a study's finished runs; None if there are none."""
        if study not in self._rows:
            path = self.directory / "rows" / self.profile / f"{study}.parquet"
            frame = None
            if path.is_file():
                try:
                    frame = pl.read_parquet(path)
                except (OSError, pl.exceptions.PolarsError) as error:
                    raise MiclabError(f"{path} cannot be read as a table of rows ({error}).") from error
                frame = frame.filter(pl.col("step").is_not_null() & (pl.col("status") == "finished"))
            self._rows[study] = frame if frame is not None and len(frame) else None
        return self._rows[study]

    def plan(self, study: str) -> list[tuple[dict[str, Any], int, str]]:
        """Configuration as plain data, seed and trajectory hash of every run that a study asks for."""
        if study not in self._plans:
            from miclab.config.schema import to_mapping
            from miclab.studies.plan import Plan

            planned = Plan([self.study(study)], "compiled")
            runs = [planned.runs[identity] for identity in planned.members[study]]
            self._plans[study] = [(to_mapping(run.config), run.seed, run.hash) for run in runs]
        return self._plans[study]

    def config(self, text: str) -> dict[str, Any]:
        """A configuration from its JSON, kept; fields that came after the row was written have their defaults."""
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
        at: Literal["last", "common"] | int = "last",
        where: Callable[[Key], bool] = lambda key: True,
    ) -> Cells:
        """Cells of a grid: the planned ones, with the values of the rows that are there.

        Arguments:
            axes: dotted fields of the configuration that name a cell.
            at: which row of a run: its last, that at a step, or (`common`) at the largest step at which all have one.
            where: the cells wanted, by their key.
        """
        if not isinstance(quantities, Mapping):
            quantities = {name: name for name in quantities}
        planned: dict[Key, dict[int, str]] = {}
        wanted: dict[str, str] = {}
        for study in studies:
            for config, seed, name in self.plan(study):
                key = tuple(field_of(config, axis) for axis in axes)
                if where(key):
                    planned.setdefault(key, {})[seed] = name
                    wanted[identity_of(config)] = name
        frames = [frame for study in studies if (frame := self.rows(study)) is not None]
        frame = pl.concat(frames, how="diagonal_relaxed") if frames else pl.DataFrame()
        if len(frame):
            # A run of the same configuration may come from a machine with another numeric mode.
            mine: dict[str, str] = {}
            for run, text in frame.select("run", "config").unique("run", maintain_order=True).iter_rows():
                identity = identity_of(self.config(text))
                if identity in wanted and (identity not in mine or run == wanted[identity]):
                    mine[identity] = run
            frame = frame.filter(pl.col("run").is_in(list(mine.values())))
        step = -1
        if at == "common" and len(frame):
            steps = (
                frame.group_by("step").agg(pl.col("run").n_unique()).filter(pl.col("run") == frame["run"].n_unique())
            )
            step = int(steps["step"].max() or -1) if len(steps) else -1  # type: ignore[arg-type]
            # Runs without a step in common cannot be compared: none is left then.
            frame = frame.filter(pl.col("step") == step)
        elif len(frame):
            frame = frame.filter(pl.col("last") if at == "last" else pl.col("step") == at)
        values: dict[Key, dict[int, dict[str, NDArray]]] = {}
        for row in frame.unique("run", maintain_order=True).iter_rows(named=True) if len(frame) else ():
            key = tuple(field_of(self.config(row["config"]), axis) for axis in axes)
            found = {n: column_values(row, q) if isinstance(q, str) else q(row) for n, q in quantities.items()}
            # A row without a probe's columns says nothing yet.
            if all(value is not None for value in found.values()) and row["seed"] in planned[key]:
                values.setdefault(key, {})[row["seed"]] = {
                    n: np.atleast_1d(np.asarray(v, dtype=float)) for n, v in found.items()
                }
        return Cells(tuple(planned), values, planned, step)
