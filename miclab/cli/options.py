"""Options that commands on checkpoints share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import tyro

from miclab.errors import RunError
from miclab.request import SplitSizes
from miclab.runs import Run, find


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """Which checkpoint is looked at, and at how many sequences."""

    runs: str = "runs"
    """Directory of runs."""
    step: int = -1
    """Checkpoint; -1: the last good one."""
    sequences: int = 1000
    """Sequences of each split; of `icl`: for each set of novel classes."""
    novel_sets: int = 8
    """Independent sets of novel classes."""
    json: bool = False
    """Print as JSON."""

    @property
    def checkpoint(self) -> int | None:
        """The checkpoint's step; None: the last good one."""
        return None if self.step < 0 else self.step

    @property
    def sizes(self) -> SplitSizes:
        """Sizes of the splits."""
        return SplitSizes(sequences=self.sequences, novel_sets=self.novel_sets)


@dataclass(frozen=True, kw_only=True)
class OneRun(CheckpointOptions):
    """A command on one run."""

    run: tyro.conf.Positional[str]
    """RUN: path, name or start of a hash."""


@dataclass(frozen=True, kw_only=True)
class Seeds(CheckpointOptions):
    """A command on one or several runs."""

    run: tyro.conf.Positional[tuple[str, ...]]
    """RUN...: paths, names or starts of hashes. Several are taken as seeds of one experiment."""


def find_runs(references: Iterable[str], root: str) -> list[Run]:
    """The runs that are named.

    Raises:
        RunError: none is named, or a name is not that of one run.
    """
    found = [find(reference, root) for reference in references]
    if not found:
        raise RunError("Name at least one RUN. `miclab runs` lists them.")
    return found


def at_steps(runs: Iterable[str], steps: Iterable[int]) -> str:
    """Runs and their checkpoints, in words."""
    return ", ".join(f"{run} at step {step}" for run, step in zip(runs, steps, strict=True))
