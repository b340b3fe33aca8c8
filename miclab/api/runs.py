"""Runs of a directory: open one, find one by path, name or hash, list all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miclab.api.run import Run
from miclab.config.request import SPLITS
from miclab.errors import ConfigError, MiclabError, RunError
from miclab.runs import find as directory
from miclab.runs.run import Run as Disk
from miclab.runs.status import status_mark
from miclab.statistics.style import draw_curves, new_axes
from miclab.tables import Table, Tabled, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Runs(Tabled, Sequence[Run]):
    """The runs of a directory, in order of their names.

    Arguments:
        runs: those that can be opened.
        damaged: what is wrong with each of the others, by path.
        lacking: intact runs whose plugin was not given, with the plugin's name, by path.
    """

    def __init__(self, runs: Sequence[Run], damaged: dict[Path, str], lacking: dict[Path, str] | None = None):
        self._runs, self.damaged, self.lacking = tuple(runs), damaged, lacking or {}

    def __len__(self) -> int:
        return len(self._runs)

    def __getitem__(self, index: Any) -> Any:
        return self._runs[index]

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs)

    def as_json(self) -> list[dict[str, Any]]:
        """A row for each run, as plain data: name, status, step, last accuracies and a note."""
        found = {}
        for run in self:
            # A killed process leaves its run in this state. Taking the lock to find out would disturb a live process.
            status = "running, or killed" if run.status == "running" else run.status
            try:
                last = (run.disk.rows() or [{"accuracy": {}}])[-1]
            except MiclabError as error:
                self.damaged[run.path] = str(error)
                continue
            found[run.path] = {
                "run": run.name, "name": run.label.name, "tags": list(run.label.tags), "status": status,
                "step": run.step, "accuracy": last["accuracy"], "note": run.reason,
            }  # fmt: skip
        for status, others in (("damaged", self.damaged), ("needs plugin", self.lacking)):
            for path, why in others.items():
                found[path] = {"run": path.name, "name": "", "tags": [], "status": status, "step": None,
                               "accuracy": {}, "note": why}  # fmt: skip
        return [found[path] for path in sorted(found)]

    def tagged(self, *tags: str) -> Runs:
        """Those that have all of these tags, and all that cannot be opened."""
        kept = [run for run in self if set(tags) <= set(run.label.tags)]
        return Runs(kept, self.damaged, self.lacking)

    def tables(self) -> tuple[Table, ...]:
        """A row for each run; names and tags have columns where there are any."""
        found = self.as_json()
        labels = [key for key in ("name", "tags") if any(row[key] for row in found)]
        rows = [
            [row["run"], *(row[key] if key == "name" else ", ".join(row[key]) for key in labels),
             status_mark(row["status"]), row["step"], *map(row["accuracy"].get, SPLITS), row["note"]]
            for row in found
        ]  # fmt: skip
        return (table("", ["run", *labels, "status", "step", *SPLITS, "note"], rows),)

    def plot(self, axes: Axes | None = None) -> Axes:
        """Accuracy on novel classes by training step, a curve for each run.

        Arguments:
            axes: where to draw; None: new axes.
        """
        curves = {}
        for run in self:
            rows = [row for row in run.disk.rows() if "icl" in row["accuracy"]]
            curves[run.disk.title] = ([row["step"] for row in rows], [row["accuracy"]["icl"] for row in rows])
        axes = draw_curves(axes or new_axes(), curves)
        axes.set_ylabel("accuracy on novel classes")
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
    """The run of a path, a name, or the start of a name or hash.

    Arguments:
        runs: directory of runs.

    Raises:
        RunError: no run matches, or several do.
    """
    return Run(directory.find(str(name), runs))


def list_runs(root: str | Path = "runs") -> Runs:
    """The runs of a directory, sorted by name.

    Raises:
        RunError: `root` is a file, or cannot be read.
    """
    found, lacking = [], {}
    paths, damaged = directory.look_over(root)
    for path in paths:
        try:
            found.append(load(path))
        except MiclabError as error:
            needs_plugin = isinstance(error, ConfigError) and error.field == "plugins"
            (lacking if needs_plugin else damaged)[path] = str(error)
    return Runs(found, damaged, lacking)


def opened(run: Run | Disk | str | Path, runs: str | Path = "runs") -> Run:
    """A run from any of its names."""
    if isinstance(run, Run):
        return run
    return Run(run) if isinstance(run, Disk) else find(str(run), runs)


def disks(runs: Run | str | Path | Sequence[Run | str | Path], root: str | Path = "runs") -> list[Disk]:
    """Directories of one run or several.

    Raises:
        RunError: a name does not identify a run, or there is no name.
    """
    several = [runs] if isinstance(runs, (Run, Disk, str, Path)) else list(runs)
    if not several:
        raise RunError("Name at least one run; `miclab.list_runs()` lists them.")
    return [opened(run, root).disk for run in several]
