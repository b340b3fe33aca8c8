"""A study file as a Python object: its plan, its rows, its report."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miclab.config.presets import Profile
from miclab.runs.find import root_directory
from miclab.studies.numerics import LaneStep, Sampler, StudyNumerics
from miclab.tables import Table, Tabled, table

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes

    from miclab.studies import study as files
    from miclab.studies.given_rows import GivenRows
    from miclab.studies.plan import Plan
    from miclab.studies.state import State


class StudyPlan(Tabled):
    """The runs of a study in order, each before those that start from it, with their progress.

    Arguments:
        study: the study.
        plan: its runs by hash.
        states: the state of each on disk.
        kept: hashes of runs whose rows lie beside the study.
        root: directory of runs.
    """

    def __init__(self, study: files.Study, plan: Plan, states: dict[str, State], kept: frozenset[str], root: Path):
        self.study, self.plan, self.states, self.kept, self.root = study, plan, states, kept, root

    def __len__(self) -> int:
        return len(self.plan.runs)

    def as_json(self) -> list[dict[str, Any]]:
        """A row for each run, as `miclab study plan --json` has it."""
        from miclab.studies.listing import plan_json

        return plan_json(self.study, self.plan, self.states, self.kept, self.root)

    def tables(self) -> tuple[Table, ...]:
        """A row for each run."""
        from miclab.studies.listing import plan_table

        return (plan_table(self.study, self.plan, self.states, self.kept, self.root),)

    def plot(self, axes: Axes | None = None) -> Axes:
        """How many runs have each status.

        Arguments:
            axes: where to draw; None: new axes.
        """
        from miclab.statistics.style import draw_counts, new_axes

        return draw_counts(axes or new_axes(), Counter(row["status"] for row in self.as_json()), "runs")


class Study(Tabled):
    """A study file with one of its presets; make it with `miclab.study`.

    Arguments:
        file: the study, as it was read.
        numerics: how its runs are computed.
    """

    def __init__(self, file: files.Study, numerics: StudyNumerics | None = None):
        self.numerics = numerics or StudyNumerics()
        self.file = self.numerics.of(file)

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.file.name

    @property
    def axes(self) -> tuple[str, ...]:
        """Dotted names of the fields that it varies."""
        return self.file.axes

    def _plan(self, root: Path, rows: str | Path = "") -> tuple[Plan, GivenRows]:
        """Its runs, as far as they are known, and the rows that are given."""
        from miclab.studies.given_rows import GivenRows
        from miclab.studies.threshold import planned

        mode = self.numerics.mode(root)
        given = GivenRows.read([self.file], mode, rows)
        return planned([self.file], mode, root, given)[1], given

    def plan(self, runs: str | Path = "runs", *, rows: str | Path = "") -> StudyPlan:
        """The runs of the study and their progress. Nothing is trained.

        Arguments:
            runs: directory of runs.
            rows: directory of tables, as for `run`.

        Raises:
            MiclabError: a point of the grid cannot work; the message names point and field. Or a table of `rows` is
                missing, damaged or of other runs.
        """
        from miclab.studies.listing import kept_runs

        root = root_directory(runs)
        plan, given = self._plan(root, rows)
        return StudyPlan(self.file, plan, given.survey(plan, root), kept_runs([self.file], plan, root), root)

    def run(
        self,
        runs: str | Path = "runs",
        *,
        rows: str | Path = "",
        workers: int = 0,
        retry_failed: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> StudyPlan:
        """Trains missing runs on this machine and writes the table of the study, as `miclab study run` does.

        After a stop or a kill at any moment, the same call resumes.

        Arguments:
            runs: directory of runs, made if it is new.
            rows: directory of tables, PRESET/STUDY.parquet as in `studies/rows`. A run whose rows there are complete is
                not trained, and they go into the study's table as they are. Empty: every run is trained.
            workers: processes at once, each of one thread; 0: one for each core.
            retry_failed: try failed runs again, except those that diverged.
            on_progress: called with the number of runs that ended and of all, whenever it changes.

        Returns:
            The plan with the state of every run; a run that failed is marked there with its reason.

        Raises:
            MiclabError: a point of the grid cannot work; a device is not here; or a table of `rows` is missing, damaged
                or of other runs.
        """
        from miclab.studies import state
        from miclab.studies.engine import Engine, carry_out, counted
        from miclab.studies.given_rows import GivenRows
        from miclab.studies.launchers.local import LocalLauncher
        from miclab.studies.listing import kept_runs
        from miclab.studies.numerics import check_devices, replaced_rows
        from miclab.studies.rows import StudyTable
        from miclab.studies.threshold import rounds

        root = root_directory(runs)
        root.mkdir(parents=True, exist_ok=True)
        mode = self.numerics.mode(root)
        given = GivenRows.read([self.file], mode, rows)
        states, plan = {}, None
        for _, plan in rounds([self.file], mode, root, given):
            left, others = given.left(plan, root), state.survey(plan, root) if given.tables else {}
            before = given.survey(plan, root) if given.tables else {}
            check_devices(left, state.survey(left, root))
            table = StudyTable(self.file, plan, root, given.of(self.file))
            for line in (*self.numerics.warnings(plan), *replaced_rows(self.file, plan)):
                warnings.warn(line, stacklevel=2)
            engine = Engine(left, root, LocalLauncher(workers), retry_failed=retry_failed)
            tally = carry_out(engine, [table], counted(on_progress, len(left.runs)), others)
            states = before | tally.states
        assert plan is not None
        return StudyPlan(self.file, plan, states, kept_runs([self.file], plan, root), root)

    def rows(self, runs: str | Path = "runs", *, stored: bool = False) -> pl.DataFrame:
        """The table of the study as a frame of polars: a row for each run and evaluated step.

        Arguments:
            runs: directory of runs. If it has none of the study, the table beside its file is read.
            stored: read the table beside the file, whether or not runs exist.

        Raises:
            MiclabError: there are no rows yet, or the table cannot be read.
        """
        from miclab.studies.rows import current_rows

        root = root_directory(runs)
        frame, lines = current_rows(self.file, self._plan(root)[0], root, stored=stored)
        for line in lines:
            warnings.warn(line, stacklevel=2)
        return frame

    def frame(self) -> pl.DataFrame:
        """`rows` of the directory `runs`."""
        return self.rows()

    def tables(self) -> tuple[Table, ...]:
        """The study in a table."""
        file = self.file
        row = [file.name, file.profile, file.title, ", ".join(file.axes), ", ".join(map(str, file.seeds))]
        return (table("", ["study", "preset", "title", "axes", "seeds"], [row]),)

    def as_json(self) -> dict[str, Any]:
        """The study as plain data."""
        file = self.file
        return {"study": file.name, "preset": file.profile, "title": file.title, "axes": list(file.axes),
                "seeds": list(file.seeds), "answers": list(file.answers)}  # fmt: skip

    def plot(self, axes: Axes | None = None, *, x: str = "", by: str = "", value: str = "icl") -> Axes:
        """Draws a column of the study's stored rows over its axes, as `miclab figure` does. Two axes of numbers give a
        heat map, others give curves. Intervals are 95 % over seeds.

        Arguments:
            axes: where to draw; None: new axes.
            x: axis from left to right, a short name or a dotted field; empty: the first whose values are numbers.
            by: axis that distinguishes curves; empty: all others do.
            value: column of the study's table.

        Raises:
            MiclabError: the study has no rows yet.
            ConfigError: there is no such axis or column; the message names the nearest one.
        """
        from miclab.claims.evidence import Evidence
        from miclab.claims.plots.study import View, study_drawing
        from miclab.statistics.style import new_axes

        evidence = Evidence(self.file.file.parent, self.file.profile, self.file.parameters)
        drawing = study_drawing(evidence, self.file.file.stem, View(x=x, by=by, value=value))
        axes = axes or new_axes(*drawing.size)
        drawing.draw(axes)
        axes.set_title(self.name, fontsize="small", loc="left")
        return axes

    def __repr__(self) -> str:
        return f"Study({self.name!r}, {self.file.profile})"


def study(
    path: str | Path,
    preset: Profile = "quick",
    parameters: Mapping[str, str] | None = None,
    *,
    lanes: str | int = "off",
    device: str = "study",
    sampler: Sampler = "study",
    lane_step: LaneStep = "study",
) -> Study:
    """A study file with one of its presets.

    `lanes`, `device`, `sampler` and `lane_step` are in the hashes of the runs. So a study that is opened with others
    finds other runs.

    Arguments:
        path: the file; or the name of a study that comes with miclab, for example `complexity`.
        parameters: values of the file's parameters, by name, as texts.
        lanes: train runs of equal shapes as groups of so many lanes; `auto`: 8; `off`: as in the file.
        device: `numerics.device` of every run; `study`: as in the file.
        sampler: `numerics.sampler` of every run; `study`: as in the file.
        lane_step: `numerics.lane_step` of every run in lanes; `study`: as in the file.

    Raises:
        MiclabError: the file cannot be read, or something in it is unknown; the message names the nearest.
    """
    from miclab.studies.shipped import studies_directory
    from miclab.studies.study import load_study

    file = Path(path)
    if not file.exists() and file.suffix == "" and len(file.parts) == 1:
        shipped = studies_directory() / f"{file}.yaml"
        file = shipped if shipped.exists() else file
    return Study(load_study(file, preset, parameters), StudyNumerics(str(lanes), device, sampler, lane_step))
