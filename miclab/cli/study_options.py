"""Options of `miclab study`: those of every command, and of `run`, `status`, `plan` and `rows`; and of launchers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from miclab.cli.options import Directory, File, Parameters
from miclab.cli.terminal import refuse_ignored
from miclab.config.presets import Profile
from miclab.errors import MiclabError

if TYPE_CHECKING:
    from miclab.studies.numerics import StudyNumerics

Files = Annotated[
    tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="FILE ...", help_behavior_hint="(one or more)")
]
StudyFile = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FILE")]


def _words(kind: type[Any], options: Any) -> list[str]:
    """The fields of one dataclass of options as arguments of a command, without those at their defaults."""
    found: list[str] = []
    for field in fields(kind):
        name, value = f"--{field.name.replace('_', '-')}", getattr(options, field.name)
        if value != field.default:
            found += [name, *map(str, value)] if isinstance(value, tuple) else [f"{name}={value}"]
    return found


@dataclass(frozen=True, kw_only=True)
class NumericsOptions:
    """How runs are computed, for every command that plans the runs of studies. All of it is in the runs' hashes."""

    lanes: str = "off"
    """Train runs of equal shapes as groups of so many lanes, each by one process; `auto`: 8. Runs with other --lanes,
    --device, --sampler or --lane-step have other hashes. So give all of them to every command of the study."""
    device: str = "study"
    """Device of every run: cpu, cuda, cuda:1, mps or auto (the best one here); `study`: as in the study's file."""
    sampler: Literal["study", "host", "device"] = "study"
    """Where every run draws its sequences. `device` draws those of all lanes at once, where the step runs; `study`: as
    in the study's file."""
    lane_step: Literal["study", "eager", "compiled"] = "study"
    """The step of groups of --lanes: one compiled program, or eager; `study`: as in the study's file."""

    @property
    def numerics(self) -> StudyNumerics:
        """These options for the planner of studies."""
        from miclab.studies.numerics import StudyNumerics

        return StudyNumerics(self.lanes, self.device, self.sampler, self.lane_step)

    @property
    def numerics_words(self) -> list[str]:
        """These options as arguments of another command, without those at their defaults."""
        return _words(NumericsOptions, self)


@dataclass(frozen=True, kw_only=True)
class StudyOptions(NumericsOptions):
    """Options of every command."""

    preset: Profile = "quick"
    """Preset of the study."""
    runs: Directory = "runs"
    """Directory of runs."""
    json: bool = False
    """Print as JSON."""
    parameter: Parameters = ()
    """Value of a parameter that a study file has; the option is repeated for each. Give it to every command: it decides
    which runs the study has."""


@dataclass(frozen=True, kw_only=True)
class SeededOptions(StudyOptions):
    seeds: tuple[int, ...] = ()
    """Only these of the preset's seeds. Empty: all of them."""
    rows: Directory = ""
    """Directory of tables, PRESET/STUDY.parquet as in studies/rows. A run whose rows there are complete is not trained,
    and they go into the study's table as they are. Empty: every run is trained."""


@dataclass(frozen=True, kw_only=True)
class LauncherOptions:
    """Where runs are trained, for every command that trains the runs of studies."""

    launcher: Literal["local", "ray", "slurm"] = "local"
    """Where to train."""
    workers: int = 0
    """Processes at once, each of one thread; 0: one for each core (`local`, `ray`), or as many as Slurm lets."""
    gpus: int = 0
    """GPUs of each worker of `ray` or `slurm`, which sees no others; for runs with `--device cuda`."""
    ray_address: str = "auto"
    """Ray cluster; `auto`: the one that this machine belongs to."""
    array_limit: int = 1000
    """Largest array of jobs that the Slurm site allows."""
    slurm: tuple[str, ...] = ()
    """Parameters of Slurm jobs as KEY=VALUE: partition=long time=600 (minutes) mem=4GB account=..."""

    def check(self, arguments: Sequence[str]) -> None:
        """Checks the options before anything is computed.

        Arguments:
            arguments: of the command.

        Raises:
            MiclabError: a number is not possible, or an option has no effect with this launcher.
        """
        if self.launcher != "ray":
            refuse_ignored(arguments, ("ray_address",), "it is for --launcher ray")
        if self.launcher == "local":
            refuse_ignored(arguments, ("gpus",), "it is for --launcher ray and slurm")
        if self.launcher != "slurm":
            refuse_ignored(arguments, ("array_limit", "slurm"), "it is for --launcher slurm")
        if self.workers < 0 or self.array_limit < 1 or self.gpus < 0:
            raise MiclabError("--workers and --gpus are 0 or more, --array-limit is 1 or more.")

    @property
    def words(self) -> list[str]:
        """These options as arguments of another command, without those at their defaults."""
        return _words(LauncherOptions, self)


@dataclass(frozen=True, kw_only=True)
class RunOptions(SeededOptions, LauncherOptions):
    """Train the missing runs of studies. After a stop or a kill at any moment, the same command resumes. Tables keep
    the rows of seeds other than --seeds."""

    file: Files
    """Study files."""
    mirror: tuple[str, ...] = ()
    """Trackers that are sent a copy of every finished run's rows: wandb, mlflow, tensorboard, trackio."""
    retry_failed: bool = False
    """Try failed runs again, except those that diverged."""


@dataclass(frozen=True, kw_only=True)
class StatusOptions(SeededOptions):
    """The numbers of finished, running, failed and remaining runs of studies."""

    file: Files
    """Study files."""


@dataclass(frozen=True, kw_only=True)
class PlanOptions(SeededOptions):
    """List the runs of a study in their order, with their progress. No run is started."""

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
    """Read the table beside the study, whether or not runs exist."""
