"""Rows of runs that were trained elsewhere: a study goes on from its table, and only what the table lacks is trained.

    DIRECTORY/quick/noise.parquet     the table of the study `noise`, as `studies/rows` has it

A table is checked as a whole before anything is trained: its seal, its columns, and the configuration of every planned
run. Then each run's rows are compared with what the study requests now. Rows that are not exactly these are left aside
with a reason, and the run is trained. So rows of two requests are never in one table.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl

from miclab.config.options import SOFTMAX
from miclab.config.request import Request
from miclab.config.run import RunConfig
from miclab.errors import RunContentError
from miclab.studies import state
from miclab.studies.plan import Plan, PlannedRun
from miclab.studies.rows import LEADING, NUMBERS, SPLIT_COLUMNS, table_file
from miclab.studies.seal import check_rows
from miclab.studies.sealed_table import read_rows
from miclab.studies.state import State
from miclab.studies.study import Study

MODES = ("compiled", "eager", "lanes")
"""Numeric modes, which are in the hash of a run."""
SHOWN = 5
"""Reasons that a message lists."""


@dataclass(frozen=True)
class GivenTable:
    """The table of one study, compared with what the study requests.

    Arguments:
        file: where it was read from.
        rows: of each run whose rows are complete, by hash.
        incomplete: why the rows of other planned runs are not taken, by hash.
        unplanned: number of its runs that the study does not plan.
    """

    file: Path
    rows: Mapping[str, pl.DataFrame]
    incomplete: Mapping[str, str]
    unplanned: int


@dataclass(frozen=True)
class GivenRows:
    """The tables of several studies; none: every run is trained.

    Arguments:
        tables: by name of the study.
    """

    tables: Mapping[str, GivenTable] = field(default_factory=dict)

    @classmethod
    def read(cls, studies: Sequence[Study], mode: str | Callable[[], str], directory: Path | str) -> GivenRows:
        """The tables of studies under a directory. Of a study of kind `threshold` every rung is looked at.

        Arguments:
            mode: as `Plan` takes it.
            directory: holds `PRESET/STUDY.parquet` for each of the studies; empty: there are no tables.

        Raises:
            RunContentError: a table is missing, not sealed, of another format, or of other runs.
            DamagedError: a table is damaged.
        """
        if not str(directory):
            return cls()
        plan = Plan(studies, mode)
        return cls({study.name: _read_table(study, plan, Path(directory)) for study in studies})

    def of(self, study: Study) -> Mapping[str, pl.DataFrame]:
        """The rows that go into a study's table as they are, by hash of the run."""
        return self.tables[study.name].rows if study.name in self.tables else {}

    def taken(self, plan: Plan) -> frozenset[str]:
        """The runs of a plan that no study needs: each that has one as a point has its rows."""
        having: dict[str, list[bool]] = {}
        for name, identities in plan.members.items():
            rows = self.tables[name].rows if name in self.tables else {}
            for identity in identities:
                having.setdefault(identity, []).append(identity in rows)
        return frozenset(identity for identity, found in having.items() if all(found))

    def left(self, plan: Plan, root: Path) -> Plan:
        """The runs of a plan without those that are taken, and without earlier runs that no missing run starts from.
        A taken run that one starts from is there for its checkpoint alone: as far as that, and without analyses."""
        if not self.tables:
            return plan
        taken, found = self.taken(plan), dict[str, PlannedRun]()
        open_ones = [identity for members in plan.members.values() for identity in members if identity not in taken]
        while open_ones:
            identity = open_ones.pop()
            if identity in found:
                continue
            found[identity] = _for_checkpoints(plan.runs[identity]) if identity in taken else plan.runs[identity]
            if state.look(found[identity], root).status != "done":
                open_ones += found[identity].origins
        return plan.only(found)

    def survey(self, plan: Plan, root: Path) -> dict[str, State]:
        """The state of each run of a plan: `rows` if it is taken, `unneeded` if no missing run starts from it."""
        if not self.tables:
            return state.survey(plan, root)
        left, taken = self.left(plan, root), self.taken(plan)
        found = {**state.survey(plan, root), **state.survey(left, root)}
        for identity in plan.runs.keys() - left.runs.keys():
            if identity in taken:
                found[identity] = State("rows", "its rows are taken", found[identity].step)
            elif found[identity].status != "done":
                found[identity] = State("unneeded", "no missing run starts from it", found[identity].step)
        return found

    def lines(self) -> Iterator[str]:
        """What is taken and what is not, in sentences."""
        for name, table in self.tables.items():
            yield f"{name}: the rows of {len(table.rows)} runs are taken from {table.file}"
            reasons = Counter(table.incomplete.values()).most_common()
            for reason, count in reasons[:SHOWN]:
                yield f"{name}: the rows of {count} runs there are not taken: {reason}"
            if len(reasons) > SHOWN:
                yield f"{name}: the rows of {sum(count for _, count in reasons[SHOWN:])} more runs are not taken"
            if table.unplanned:
                yield f"{name}: {table.unplanned} runs there are not planned, and their rows are left out"


NO_ROWS = GivenRows()
"""Every run is trained."""


def _for_checkpoints(run: PlannedRun) -> PlannedRun:
    """A run as far as the last checkpoint that others start from."""
    *earlier, last = sorted(run.starts)
    request = replace(run.request, steps=last, checkpoint_at=tuple(earlier), plateau_rows=0, enough=0.0)
    return replace(run, request=request, analyses=())


def _read_table(study: Study, plan: Plan, directory: Path) -> GivenTable:
    """Raises: as `GivenRows.read`."""
    file = directory / study.profile / table_file(study).name
    if not file.exists():
        problem = (
            f"expected the table of the study {study.name!r}, and there is none. --rows names a directory that holds"
            " PRESET/STUDY.parquet for every study of the command, such as studies/rows. Give that directory, or leave"
            " the option or the study out"
        )
        raise RunContentError(file, problem)
    whole = read_rows(file)
    _check_columns(file, whole)
    requested = plan.requested[study.name]
    frame = whole.filter(pl.col("run").is_in(list(requested)))
    unplanned = whole["run"].n_unique() - frame["run"].n_unique()
    if whole.height and not frame.height:
        raise RunContentError(file, _foreign(study, plan, file, whole))
    check_rows(file, frame)
    # A column that has values in rows of unplanned runs alone is no column of the new table.
    gone = [name for name in frame.columns if _is_empty(frame[name]) and not _is_empty(whole[name])]
    frame = frame.drop([name for name in gone if name not in (*LEADING, *NUMBERS)])
    judge, rows, incomplete = _Judge(study, frame), dict[str, pl.DataFrame](), dict[str, str]()
    for identity, part in _by_run(file, frame):
        run = plan.runs[identity]
        _check_run(file, run, part)
        if reason := judge.why_incomplete(run, requested[identity], part):
            incomplete[identity] = reason
        else:
            rows[identity] = part
    return GivenTable(file, rows, incomplete, unplanned)


def _is_empty(column: pl.Series) -> bool:
    return column.null_count() == len(column)


def _check_columns(file: Path, frame: pl.DataFrame) -> None:
    """Raises RunContentError if a column that every table has is missing or of another type."""
    for name, kind in {**LEADING, **NUMBERS}.items():
        if frame.schema.get(name) != kind:
            found = f"it is {frame.schema[name]}" if name in frame.columns else "there is none"
            problem = (
                f"expected a column of type {kind}, and {found}: another version of miclab wrote the table. Make it"
                " again with `miclab study run`, without --rows"
            )
            raise RunContentError(file, problem, f"column {name}")


def _foreign(study: Study, plan: Plan, file: Path, frame: pl.DataFrame) -> str:
    """What to say of a table none of whose runs is planned."""
    planned = {plan.runs[identity].point.numerics.mode for identity in plan.members[study.name]}
    there = {one for one in MODES if frame["config"].str.contains(f'"mode": "{one}"', literal=True).any()}
    modes = ""
    if there - planned:
        modes = f" Its runs have numerics.mode {' or '.join(sorted(there))}, and these {' or '.join(sorted(planned))}."
    return (
        f"none of its {frame['run'].n_unique()} runs is one of the {len(plan.members[study.name])} that {study.file}"
        f" plans.{modes} Other fields, a --parameter, --lanes and the numeric mode of a machine make other runs. Give"
        " the table of these runs, or leave out --rows"
    )


def _by_run(file: Path, frame: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    """The rows of each run, which stand together. Raises RunContentError if they do not."""
    seen, start = set[str](), 0
    for length, run in frame["run"].rle().struct.unnest().iter_rows():
        if run in seen:
            raise RunContentError(file, f"the rows of the run {run} do not stand together. Make the table again")
        seen.add(run)
        yield run, frame.slice(start, length)
        start += length


def _check_run(file: Path, run: PlannedRun, part: pl.DataFrame) -> None:
    """Raises RunContentError if a column says something else of a run than its configuration does."""
    stage = "multimodal" if run.parent and len(run.point.modalities) > 1 else run.point.stage
    for name, value in (("seed", run.seed), ("parent", run.parent), ("stage", stage)):
        if set(part[name]) != {value}:
            problem = f"the run {run.hash} has {value!r} by its configuration, and other values in its rows"
            raise RunContentError(file, problem, f"column {name}")


class _Judge:
    """Compares rows of runs with what a study requests.

    Arguments:
        study: the study.
        frame: the rows of its runs.
    """

    def __init__(self, study: Study, frame: pl.DataFrame):
        ends = frame.filter("last")
        self.analyses = {name: _having(ends, f"probe.{name}") for name in study.analysis_names}
        self._ends, self._measures = ends, dict[str, frozenset[str]]()

    def why_incomplete(self, run: PlannedRun, request: Request, part: pl.DataFrame) -> str:
        """Why rows are not the complete ones of a request, in words; empty where they are."""
        if set(part["status"]) != {"finished"}:
            return "the run failed"
        return _why_other_request(request, part.select("step", "last", "icl_sets", *SPLIT_COLUMNS).to_dicts()) or (
            self._why_no_column(run)
        )

    def _why_no_column(self, run: PlannedRun) -> str:
        for name, runs in self.analyses.items():
            if run.hash not in runs:
                return f"they have no value of the analysis {name}"
        for name in _measures_of(run.point):
            if name not in self._measures:
                self._measures[name] = _having(self._ends, f"measure.{name}")
            if run.hash not in self._measures[name]:
                return f"they have no value of the measure {name}, which another version of miclab did not take"
        return ""


def _having(ends: pl.DataFrame, column: str) -> frozenset[str]:
    """The runs with a value in a column, or in one whose name goes on after it with a dot."""
    names = [name for name in ends.columns if name == column or name.startswith(f"{column}.")]
    if not names:
        return frozenset()
    return frozenset(ends.filter(pl.any_horizontal(pl.col(names).is_not_null()))["run"])


def _measures_of(config: RunConfig) -> tuple[str, ...]:
    """The measures that every metric row of plain attention has. Another mechanism may be unable to give some."""
    from miclab.measures.registry import chosen

    if config.decoder.attention.name != SOFTMAX or config.is_classification:
        return ()
    plain = (one for one in chosen(True) if "weight" not in one.needs)
    return tuple(
        f"{one.name}.{modality}" if one.is_by_modality else one.name
        for one in plain
        for modality in (config.modalities if one.is_by_modality else ("",))
    )


@lru_cache(maxsize=64)
def _steps(request: Request, end: int) -> list[int]:
    """Steps of the metric rows of a run that ended."""
    return [step for step in range(end + 1) if request.evaluates(step)]


def _why_other_request(request: Request, rows: Sequence[Mapping[str, Any]]) -> str:
    """Why the rows of a run that finished are not those of a request; empty where they are."""
    steps = [row["step"] for row in rows]
    end = steps[-1]
    if end != request.steps:
        scored = [{"step": row["step"], "accuracy": row} for row in rows]
        if not (request.may_end_early and end < request.steps and request.plateau(scored)):
            return f"they end at step {end:,}, and {request.steps:,} are requested"
    if steps != _steps(request, end) or [row["last"] for row in rows] != [step == end for step in steps]:
        return "they are at other steps than those requested now"
    if any(len(row["icl_sets"] or ()) != request.novel_sets for row in rows):
        return f"they are not of {request.novel_sets} sets of novel classes, as requested"
    if request.evaluation_seed >= 0:
        return "a row does not hold its evaluation_seed, which the study requests"
    return _why_other_sequences(request.sequences, [score for row in rows for score in _scores(row)])


def _scores(row: Mapping[str, Any]) -> Iterable[float]:
    """Accuracies of a row that are each over one set of sequences."""
    single = (row[split] for split in SPLIT_COLUMNS if split != "icl")
    return (score for score in (*single, *row["icl_sets"]) if score is not None)


def _why_other_sequences(count: int, scores: Sequence[float]) -> str:
    """Why accuracies are not over so many sequences; empty where they are. Each is a multiple of 1 / `count`. Together
    they are multiples of no larger part of 1, unless they are few or all 0 or 1."""
    correct = [round(score * count) for score in scores]
    if any(round(number / count, 6) != score for number, score in zip(correct, scores, strict=True)):
        return f"their accuracies are not over {count:,} sequences, as requested"
    if math.gcd(count, *correct) > 1:
        return f"their accuracies do not show that they are over {count:,} sequences, as requested"
    return ""
