"""Runs of a directory: open one, find one by path, name or hash, list all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miclab.api.run import Run
from miclab.config.request import SPLITS
from miclab.errors import MiclabError, RunError
from miclab.runs import find as directory
from miclab.runs.listing import DAMAGED, LACKING, Entry, entries
from miclab.runs.run import Run as Disk
from miclab.runs.status import status_mark
from miclab.statistics.style import draw_curves, new_axes
from miclab.tables import Table, Tabled, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Runs(Tabled, Sequence[Run]):
    """The runs of a directory, in order of their names. All are opened when the first one is used. Tables open none.

    Arguments:
        entries: the runs and what cannot be opened, as a listing reads them (see `miclab.runs.listing`).
    """

    def __init__(self, entries: Sequence[Entry]):
        self._entries = list(entries)

    @cached_property
    def _runs(self) -> tuple[Run, ...]:
        found = []
        for place, entry in enumerate(self._entries):
            if entry.opens:
                try:
                    found.append(load(entry.path))
                except MiclabError as error:
                    self._entries[place] = Entry(entry.path, DAMAGED, str(error))
        return tuple(found)

    @property
    def damaged(self) -> dict[Path, str]:
        """What is wrong with each of those that cannot be opened, by path."""
        return self._notes(DAMAGED)

    @property
    def lacking(self) -> dict[Path, str]:
        """Those that need a plugin which was not named, with what they need, by path. Nothing is wrong with them."""
        return self._notes(LACKING)

    def _notes(self, status: str) -> dict[Path, str]:
        return {entry.path: entry.note for entry in self._entries if entry.status == status}

    @property
    def warnings(self) -> list[str]:
        """What is damaged of those that can be used all the same."""
        return [line for entry in self._entries for line in entry.warnings]

    def __len__(self) -> int:
        return len(self._runs)

    def __getitem__(self, index: Any) -> Any:
        return self._runs[index]

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs)

    def as_json(self) -> list[dict[str, Any]]:
        """A row for each run, as plain data: name, status, step, last accuracies and a note."""
        return [entry.as_json() for entry in self._entries]

    def tagged(self, *tags: str) -> Runs:
        """Those that have all of these tags, and all that cannot be opened."""
        return Runs([entry for entry in self._entries if not entry.opens or set(tags) <= set(entry.label.tags)])

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
    return Runs(entries(root))


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
