"""The demonstration: the study `demo`, trained on this machine, and judged by its claims.

It is an ordinary study. Its file is copied beside the runs and its rows are written there, so that the package is never
written to. An existing run is not trained again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miclab import storage
from miclab.claims.evidence import Evidence
from miclab.claims.ledger import Line, chosen, judged
from miclab.claims.tables import comparisons_table, conditions_table, verdict_mark
from miclab.errors import RunError
from miclab.runs.find import find
from miclab.runs.run import Run
from miclab.studies import state
from miclab.studies.plan import Plan, PlannedRun
from miclab.studies.shipped import studies_directory
from miclab.studies.study import Study, load_study
from miclab.tables import Table, Tabled, table

if TYPE_CHECKING:
    from miclab.studies.engine import Tally

NAME = "demo"
PROFILE = "quick"
SHORT = 40
"""Steps of each training in a short trial."""


def study_beside(root: Path, short: bool = False) -> Study:
    """The study `demo` from a copy of its file beside the runs.

    Arguments:
        root: directory of runs.
        short: every training has `SHORT` steps, without a compiler.

    Raises:
        RunError: the copy cannot be written.
    """
    import yaml

    from miclab.config.strict_yaml import parse_yaml

    text = (studies_directory() / f"{NAME}.yaml").read_text(encoding="utf-8")
    folder = root / state.FOLDER / (f"{NAME}-short" if short else NAME)
    if short:
        data = parse_yaml(text)
        steps = {"steps": SHORT, "evaluate_every": SHORT // 2, "checkpoint_every": SHORT}
        # Stage 1 would otherwise have the mode of the stage after it, which is eager.
        data["parent"] = {"request": steps}
        data["profiles"][PROFILE]["request"] |= steps
        text = yaml.safe_dump(data, sort_keys=False)
    file = folder / f"{NAME}.yaml"
    with storage.explained(file):
        folder.mkdir(parents=True, exist_ok=True)
    storage.write_bytes(file, text.encode())
    return load_study(file, PROFILE)


@dataclass(frozen=True)
class Demonstration(Tabled):
    """The study of the demonstration with its runs; make it with `Demonstration.open`.

    Arguments:
        study: its file beside the runs.
        plan: its runs.
        root: directory of runs.
    """

    study: Study
    plan: Plan
    root: Path

    @classmethod
    def open(cls, root: Path | str, short: bool = False) -> Demonstration:
        """Plans the demonstration; nothing is trained.

        Arguments:
            root: directory of runs, made if it is new.
            short: train a few steps only; the results mean nothing then.

        Raises:
            RunError: the directory cannot be written.
        """
        from miclab.studies.mode import long_mode

        root = Path(root)
        study = study_beside(root, short)
        return cls(study, Plan([study], lambda: long_mode(root)), root)

    def left(self) -> list[tuple[PlannedRun, int]]:
        """The runs that are not trained yet, each with its present steps."""
        states = state.survey(self.plan, self.root)
        return [(run, states[i].step) for i, run in self.plan.runs.items() if states[i].status in ("new", "begun")]

    def train(self, on_change: Callable[[Tally], None] = lambda tally: None, workers: int = 0) -> None:
        """Trains missing runs, analyses them and writes the table, in processes of one thread.

        Arguments:
            on_change: called with the engine's tally after every change, and every few seconds.
            workers: processes at once; 0: one for each core.

        Raises:
            RunError: a training failed, or was stopped.
        """
        from miclab.studies.engine import Engine, carry_out
        from miclab.studies.launchers.local import LocalLauncher
        from miclab.studies.rows import StudyTable

        engine = Engine(self.plan, self.root, LocalLauncher(workers))
        tally = carry_out(engine, [StudyTable(self.study, self.plan, self.root)], on_change)
        for identity, found in tally.states.items():
            if found.status == "failed":
                raise RunError(f"{self.plan.runs[identity].name} failed: {found.reason}.")
        if left := sum(found.status != "done" for found in tally.states.values()):
            raise RunError(f"{left} of {len(tally.states)} runs are not finished. The same command goes on with them.")

    @cached_property
    def evidence(self) -> Evidence:
        """The rows, for claims and figures."""
        return Evidence(self.study.file.parent, self.study.profile)

    @cached_property
    def lines(self) -> list[Line]:
        """Its claims with their verdicts, by the rule of the ledger."""
        by_id = {entry.id: entry for entry in chosen(self.study.answers)}
        return judged(self.evidence, [by_id[name] for name in self.study.answers])

    def disk(self, run: PlannedRun) -> Run:
        """One of its runs on disk.

        Raises:
            RunError: it is not there.
        """
        return find(run.name, self.root)

    @property
    def two_modalities(self) -> PlannedRun:
        """Its run on two modalities."""
        return next(run for run in self.plan.runs.values() if run.config.stage == "multimodal")

    def tables(self) -> tuple[Table, ...]:
        """The claims with their verdicts; a row for each condition; and the paper's figures beside ours."""
        claims = [
            [one.entry.id, one.entry.statement, one.entry.paper, verdict_mark(one.findings.verdict, one.verdict)]
            for one in self.lines
        ]
        beside = [[one.entry.id, *row] for one in self.lines for row in comparisons_table(one).rows]
        columns = comparisons_table(self.lines[0]).columns
        notes = [f"{one.entry.id}: {note}" for one in self.lines for note in one.findings.notes]
        return (
            table("", ["claim", "statement", "paper", "verdict"], claims),
            conditions_table(self.lines),
            table("the paper's figures beside ours", ["claim", *columns], beside, notes),
        )

    def as_json(self) -> dict[str, Any]:
        """The claims as the ledger has them, and the path of each run."""
        runs = {run.name: str(self.root / run.name) for run in self.plan.runs.values()}
        return {"claims": [line.as_json() for line in self.lines], "runs": runs}
