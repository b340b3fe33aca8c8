"""Small studies for the tests, and a launcher that works inside the test's process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from tiny import MODALITIES

from miclab.storage import TEMPORARY
from miclab.studies.engine import Engine, Tally
from miclab.studies.plan import Plan
from miclab.studies.study import Study, laid_over, load_study
from miclab.studies.task import perform, task_run

REQUEST = {"steps": 4, "evaluate_every": 2, "checkpoint_every": 4, "sequences": 3, "novel_sets": 2}


def study_mapping(count: int = 1, **changes: Any) -> dict[str, Any]:
    """Plain data of a study of tiny runs with so many modalities; `changes` are laid over it."""
    data: dict[str, Any] = {
        "title": "tiny",
        "stage": "unimodal" if count == 1 else "multimodal",
        "config": {
            "modalities": {name: dict(MODALITIES[name]) for name in list(MODALITIES)[:count]},
            "sequence": {"context": 4, "burstiness": 2},
            "decoder": {"initial_std": 0.3},
            "optimiser": {"batch_size": 4},
            "numerics": {"mode": "eager"},
        },
        "profiles": {"quick": {"seeds": [0, 1], "request": dict(REQUEST)}},
    }
    if count > 1:
        data["parent"] = {"steps": 2, "request": {"evaluate_every": 2, "checkpoint_every": 2}}
    return laid_over(data, changes)


def write_study(folder: Path, count: int = 1, name: str = "tiny", **changes: Any) -> Path:
    """The file of `study_mapping`."""
    file = folder / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(study_mapping(count, **changes), sort_keys=False))
    return file


def tiny_study(folder: Path, count: int = 1, name: str = "tiny", **changes: Any) -> Study:
    """A study of tiny runs."""
    return load_study(write_study(folder, count, name, **changes), "quick")


def planned(*studies: Study) -> Plan:
    """The plan of studies."""
    return Plan(studies, "eager")


class Here:
    """A launcher of one worker: this process."""

    def __init__(self, work: Callable[[str], str | None] = perform):
        self.work, self.hand = work, []
        self.tasks: list[str] = []

    def room(self) -> int:
        return 1 - len(self.hand)

    def submit(self, paths: list[str]) -> None:
        self.hand += paths
        self.tasks += [task_run(path) for path in paths]

    def wait(self, seconds: float) -> list[tuple[str, str | None]]:
        ended = [(path, self.work(path)) for path in self.hand]
        self.hand = []
        return ended

    def stop(self) -> None: ...

    def close(self) -> None: ...


def carry_out(plan: Plan, root: Path, launcher: Any = None, **requested: Any) -> Tally:
    """Carries a plan out here."""
    root.mkdir(parents=True, exist_ok=True)
    return Engine(plan, root, launcher or Here(), **requested).go()


def contents(root: Path) -> dict[str, bytes]:
    """Files of the runs under a directory but for times, optimiser, segments that a signal left without a row, and
    claims whose process was killed while it wrote them."""
    files = (f for f in root.rglob("*") if f.is_file() and f.name not in ("manifest.json", "lock", "mode.json"))
    kept = (f for f in files if ".optimiser." not in f.name and not (f.parent.name == "claims" and f.match(TEMPORARY)))
    found = {str(f.relative_to(root)): f.read_bytes() for f in kept}
    return {name: content for name, content in found.items() if content}
