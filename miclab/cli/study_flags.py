"""Flags of `miclab study`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from miclab.cli.options import Directory, File
from miclab.config.presets import Profile

Files = Annotated[
    tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="FILE ...", help_behavior_hint="(one or more)")
]
StudyFile = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FILE")]


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """What every command takes."""

    profile: Profile = "quick"
    """Preset of the study."""
    runs: Directory = "runs"
    """Directory of runs."""
    json: bool = False
    """Print as JSON."""


@dataclass(frozen=True, kw_only=True)
class _Seeded(StudyOptions):
    seeds: tuple[int, ...] = ()
    """Of the preset's seeds these alone. Empty: all of them."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(_Seeded):
    """Train what is missing of one study or several. Stopped or killed at any moment, it goes on where it was; tables
    keep the rows of other seeds than --seeds."""

    file: Files
    """Study files."""
    launcher: Literal["local", "ray", "slurm"] = "local"
    """Where to train."""
    workers: int = 0
    """Processes at once, each of one thread; 0: one for each core (`local`, `ray`), or as many as Slurm lets."""
    ray_address: str = "auto"
    """Ray cluster; `auto`: the one that this machine belongs to."""
    array_limit: int = 1000
    """Largest array of jobs that the Slurm site allows."""
    slurm: tuple[str, ...] = ()
    """Parameters of Slurm jobs as KEY=VALUE: partition=long time=600 (minutes) mem=4GB account=..."""
    mirror: tuple[str, ...] = ()
    """Trackers that are sent a copy of every finished run's rows: wandb, mlflow, tensorboard, trackio."""
    retry_failed: bool = False
    """Try failed runs again, but for those that diverged."""


@dataclass(frozen=True, kw_only=True)
class StatusOptions(_Seeded):
    """What of one study or several is done, running, failed and left."""

    file: Files
    """Study files."""


@dataclass(frozen=True, kw_only=True)
class PlanOptions(_Seeded):
    """List the runs of a study in their order, and how far each is. No run is started."""

    file: StudyFile
    """A study file."""


@dataclass(frozen=True, kw_only=True)
class RowsOptions(StudyOptions):
    """The table of a study."""

    file: StudyFile
    """A study file."""
    output: File = ""
    """File to write, .csv or .parquet; empty: a summary on the screen (the last row of every run)."""
    stored: bool = False
    """Read the table that lies beside the study, whatever runs there are."""
