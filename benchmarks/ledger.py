"""What the ledger's trainings take, by study and by claim: recorded where a run is there, estimated where it is not.

    python -m benchmarks.ledger                           nothing has been trained: all of it is an estimate
    python -m benchmarks.ledger --runs runs               after `miclab reproduce --runs runs`

A run's record holds the seconds between its metric rows: training, evaluation, writing. A run that several studies
share counts for the first of them in the ledger's order; `of its own` counts all that a study or claim needs, as if it
ran alone. Seconds are of one core (a run has one thread), as they passed on the machine: other work makes them longer.

A missing run is estimated as `miclab study run` does it: its multiply-adds at the speed of recent runs, or at an
assumed speed where there are none. Compiling, analyses and encoders are in no estimate. Nothing is trained.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import program
from benchmarks.program import Line, Lines
from miclab.claims.ledger import RUN_ORDER, chosen
from miclab.cli.progress import speed, training
from miclab.config.presets import Profile
from miclab.runs.find import list_runs, open_run
from miclab.studies.plan import Plan, PlannedRun
from miclab.studies.study import load_study, presets_of


@dataclass(frozen=True, kw_only=True)
class Options(program.Options):
    """Which trainings, and where their records are."""

    runs: str = "runs"
    """Directory of runs."""
    studies: str = "studies"
    """Directory of study files."""
    preset: Profile = "quick"
    """Whose runs."""
    ids: tuple[str, ...] = ()
    """Only the studies of these claims, for example U1 M7; empty: of all."""
    workers: int = 2
    """Processes at once that the totals are divided by."""


def recorded_seconds(root: Path) -> dict[str, list[tuple[int, float]]]:
    """Step and seconds since the row before, of each run's rows, by its directory's name."""
    found = {}
    for path in list_runs(root):
        found[path.name] = [(entry["step"], float(entry["seconds"])) for entry in open_run(path).timing]
    return found


def estimated(run: PlannedRun, rate: float) -> float:
    """Seconds of a run at a speed in multiply-adds per second; 0 where it pretrains an encoder."""
    return 0.0 if run.point.is_classification else training(run.point, run.request) / rate


def planned(options: Options, names: Sequence[str]) -> dict[str, Plan]:
    """The plans of the named studies that have the preset, in the ledger's order."""
    found = {}
    for name in dict.fromkeys([*(known for known in RUN_ORDER if known in names), *names]):
        file = Path(options.studies) / f"{name}.yaml"
        if options.preset in presets_of(file):
            found[name] = Plan([load_study(file, options.preset)], "compiled")
    return found


def measure(options: Options) -> Lines:
    """A table by study and one by claim."""
    recorded, here = recorded_seconds(Path(options.runs)), speed(options.runs)
    claims = chosen(options.ids)
    yield Line(f"What is missing is estimated by {here.basis}.\n")
    needs: dict[str, dict[str, float]] = {}
    seen: set[str] = set()
    missing: set[str] = set()
    yield Line(
        "| study | runs | estimated | core-minutes of its own | new after the studies above |\n|---|---|---|---|---|"
    )
    for name, plan in planned(options, [study for claim in claims for study in claim.studies]).items():
        runs = needs[name] = {
            run.hash: sum(seconds for step, seconds in recorded[run.name] if step <= run.request.steps)
            if run.name in recorded else estimated(run, here.rate)
            for run in plan.runs.values()
        }  # fmt: skip
        absent = {run.hash for run in plan.runs.values() if run.name not in recorded}
        own, new = sum(runs.values()) / 60, sum(seconds for run, seconds in runs.items() if run not in seen) / 60
        seen, missing = seen | set(runs), missing | absent
        yield Line(
            f"| `{name}` | {len(runs)} | {len(absent)} | {own:.1f} | {new:.1f} |",
            {"study": name, "runs": len(runs), "estimated": len(absent), "core-minutes": own, "new core-minutes": new},
        )
    every = {run: seconds for runs in needs.values() for run, seconds in runs.items()}
    total = sum(every.values()) / 60
    shared = f"{total:.0f}, by {options.workers} workers {total / options.workers:.0f} minutes"
    yield Line(
        f"| all | {len(every)} | {len(missing)} | | {shared} |\n",
        {"study": "all", "runs": len(every), "estimated": len(missing), "core-minutes": total},
    )
    yield Line("| claim | runs | core-minutes of its own |\n|---|---|---|")
    for claim in claims:
        mine = {run: seconds for name in claim.studies for run, seconds in needs.get(name, {}).items()}
        minutes = sum(mine.values()) / 60
        yield Line(
            f"| {claim.id} | {len(mine)} | {minutes:.1f} |",
            {"claim": claim.id, "runs": len(mine), "core-minutes": minutes},
        )


main = program.program("ledger", Options, measure, __doc__)

if __name__ == "__main__":
    sys.exit(main(None))
