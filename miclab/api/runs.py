"""Runs of a directory: open one, find one by path, name or hash, list all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miclab.api.run import Run
from miclab.config.request import SPLITS
from miclab.errors import MiclabError, RunError
from miclab.runs import find as directory
from miclab.runs.run import Run as Disk
from miclab.tables import Table, Tabled, new_axes, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Runs(Tabled, Sequence[Run]):
    """The runs of a directory, in order of their names.

    Arguments:
        runs: those that can be opened.
        damaged: what is wrong with each of the others, by path.
    """

    def __init__(self, runs: Sequence[Run], damaged: dict[Path, str]):
        self._runs, self.damaged = tuple(runs), damaged

    def __len__(self) -> int:
        return len(self._runs)

    def __getitem__(self, index: Any) -> Any:
        return self._runs[index]

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs)

    def as_json(self) -> list[dict[str, Any]]:
        """A row for each run, as plain data: name, status, step, last accuracies and a note."""
        found = [
            {"run": run.name, "name": run.label.name, "tags": list(run.label.tags),
             "status": run.status, "step": run.step, "note": run.reason,
             "accuracy": (run.disk.rows() or [{"accuracy": {}}])[-1]["accuracy"]}
            for run in self
        ]  # fmt: skip
        return found + [
            {"run": path.name, "name": "", "tags": [], "status": "damaged", "step": None, "note": why, "accuracy": {}}
            for path, why in self.damaged.items()
        ]

    def tables(self) -> tuple[Table, ...]:
        """A row for each run."""
        rows = [
            [row["run"], row["status"], row["step"], *(row["accuracy"].get(split) for split in SPLITS), row["note"]]
            for row in self.as_json()
        ]
        return (table("", ["run", "status", "step", *SPLITS, "note"], rows),)

    def plot(self, axes: Axes | None = None) -> Axes:
        """Accuracy on novel classes by training step, a curve for each run.

        Arguments:
            axes: where to draw; None: new axes.
        """
        axes = axes or new_axes()
        for run in self:
            rows = [row for row in run.disk.rows() if "icl" in row["accuracy"]]
            axes.plot([row["step"] for row in rows], [row["accuracy"]["icl"] for row in rows], label=run.name)
        axes.set(xlabel="training step", ylabel="accuracy on novel classes", ylim=(0, 1))
        if len(self):
            axes.legend(fontsize="small")
        return axes

    def __repr__(self) -> str:
        return f"Runs({[run.name for run in self]})"


def load(path: str | Path) -> Run:
    """The run at a path.

    Raises:
        RunError: there is none.
        DamagedError: its manifest, configuration or world is damaged; the message names the file.
    """
    return Run(directory.open_run(path))


def find(name: str, runs: str | Path = "runs") -> Run:
    """The run that a path, a name, or the start of a name or hash means.

    Arguments:
        runs: directory of runs.

    Raises:
        RunError: none, or several, are meant.
    """
    return Run(directory.find(str(name), runs))


def list_runs(root: str | Path = "runs") -> Runs:
    """The runs of a directory, sorted by name.

    Raises:
        RunError: `root` is a file.
    """
    found, damaged = [], {}
    for path in directory.list_runs(root):
        try:
            found.append(load(path))
        except MiclabError as error:
            damaged[path] = str(error)
    return Runs(found, damaged)


def opened(run: Run | Disk | str | Path, runs: str | Path = "runs") -> Run:
    """A run from whatever names it."""
    if isinstance(run, Run):
        return run
    return Run(run) if isinstance(run, Disk) else find(str(run), runs)


def disks(runs: Run | str | Path | Sequence[Run | str | Path], root: str | Path = "runs") -> list[Disk]:
    """Directories of one run or several.

    Raises:
        RunError: a name is not that of one run, or there is none.
    """
    several = [runs] if isinstance(runs, (Run, Disk, str, Path)) else list(runs)
    if not several:
        raise RunError("Name at least one run; `miclab.list_runs()` lists them.")
    return [opened(run, root).disk for run in several]
