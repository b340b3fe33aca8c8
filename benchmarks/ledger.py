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

from dataclasses import dataclass
from pathlib import Path

import tyro

from miclab.claims.ledger import RUN_ORDER, chosen
from miclab.cli.progress import speed, training
from miclab.config.presets import Profile
from miclab.runs.find import list_runs, open_run
from miclab.studies.plan import Plan, PlannedRun
from miclab.studies.study import load_study, presets_of


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the ledger's trainings took, by study and by claim."""

    runs: str = "runs"
    """Directory of runs."""
    studies: str = "studies"
    """Directory of study files."""
    profile: Profile = "quick"
    """Whose runs."""
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


def main() -> None:
    """Prints two tables."""
    options = tyro.cli(Options)
    recorded, here = recorded_seconds(Path(options.runs)), speed(options.runs)
    print(f"What is missing is estimated by {here.basis}.\n")
    needs: dict[str, dict[str, float]] = {}
    missing: dict[str, int] = {}
    for name in RUN_ORDER:
        file = Path(options.studies) / f"{name}.yaml"
        if options.profile not in presets_of(file):
            continue
        plan = Plan([load_study(file, options.profile)], "compiled")
        needs[name] = {
            run.hash: sum(seconds for step, seconds in recorded[run.name] if step <= run.request.steps)
            if run.name in recorded else estimated(run, here.rate)
            for run in plan.runs.values()
        }  # fmt: skip
        missing[name] = sum(run.name not in recorded for run in plan.runs.values())
    seen: set[str] = set()
    print("| study | runs | estimated | core-minutes of its own | new after the studies above |\n|---|---|---|---|---|")
    for name, runs in needs.items():
        new = sum(seconds for run, seconds in runs.items() if run not in seen)
        seen |= set(runs)
        print(f"| `{name}` | {len(runs)} | {missing[name]} | {sum(runs.values()) / 60:.1f} | {new / 60:.1f} |")
    every = {run: seconds for runs in needs.values() for run, seconds in runs.items()}
    total = sum(every.values()) / 60
    shared = f"{total:.0f}, by {options.workers} workers {total / options.workers:.0f} minutes"
    print(f"| all | {len(every)} | | | {shared} |\n")
    print("| claim | runs | core-minutes of its own |\n|---|---|---|")
    for entry in chosen(()):
        mine = {run: seconds for name in entry.studies for run, seconds in needs.get(name, {}).items()}
        print(f"| {entry.id} | {len(mine)} | {sum(mine.values()) / 60:.1f} |")


if __name__ == "__main__":
    main()
