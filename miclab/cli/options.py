"""Options that commands share, and the reading of options whose values are names of a registry."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from miclab.config.options import ATTENTION, LOSS_TERMS, AttentionOptions, LossOptions, named_fields, option_text
from miclab.config.positions import PositionName
from miclab.config.registry import Name
from miclab.config.request import SplitSizes
from miclab.errors import ConfigError, MiclabError, RunError
from miclab.runs.find import find
from miclab.runs.label import Label, tags_of
from miclab.runs.run import Run

Directory = Annotated[str, tyro.conf.arg(metavar="DIRECTORY")]
File = Annotated[str, tyro.conf.arg(metavar="FILE")]
RunName = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
RunNames = Annotated[
    tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN ...", help_behavior_hint="(one or more)")
]
Claims = Annotated[
    tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[CLAIM ...]", help_behavior_hint="(default: all)")
]
ClaimsOrStudies = Annotated[
    tyro.conf.Positional[tuple[str, ...]],
    tyro.conf.arg(metavar="[CLAIM ... | STUDY.yaml ...]", help_behavior_hint="(default: all claims)"),
]


Parameters = Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="NAME=VALUE")]


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """Name and tags of a run. `miclab runs --rename` and `--retag` change them later."""

    name: str = ""
    """Name of the run, which stands for it in commands, tables and reports. It is no part of the configuration."""
    tags: Annotated[str, tyro.conf.arg(metavar="TAG,...")] = ""
    """Tags of the run, by which `miclab runs --tagged` finds it."""

    @property
    def label(self) -> Label | None:
        """The given label; None without name and tags.

        Raises:
            ConfigError: a name or a tag has letters that it may not have.
        """
        return Label(self.name, tags_of(self.tags)) if self.name or self.tags else None


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """Which checkpoint is looked at."""

    runs: Directory = "runs"
    """Directory of runs."""
    step: int = -1
    """Training step of the checkpoint; -1: the last good one."""
    json: bool = False
    """Print as JSON."""

    @property
    def checkpoint(self) -> int | None:
        """The checkpoint's step; None: the last good one.

        Raises:
            ConfigError: it is below -1.
        """
        if self.step < -1:
            raise ConfigError("step", self.step, "the step of a checkpoint, or -1 for the last good one")
        return None if self.step == -1 else self.step


@dataclass(frozen=True, kw_only=True)
class SizedOptions(CheckpointOptions):
    """The evaluated checkpoint, and the number of sequences."""

    sequences: int = 1000
    """Sequences of each split; of `icl`: for each set of novel classes. More are slower, and narrow the intervals."""
    novel_sets: int = 8
    """Independent sets of novel classes."""
    evaluation_seed: int = -1
    """Seed of the novel classes and of all sequences that are evaluated; -1: the run's `seed`."""

    @property
    def sizes(self) -> SplitSizes:
        """Sizes of the splits."""
        return SplitSizes(sequences=self.sequences, novel_sets=self.novel_sets, evaluation_seed=self.evaluation_seed)


@dataclass(frozen=True, kw_only=True)
class SeveralRunsOptions(SizedOptions):
    """A command on one or several runs."""

    run: RunNames
    """Paths, names, or starts of names or hashes. Several count as seeds of one experiment."""


def output_file(path: str, option: str = "output") -> Path:
    """The file that an option names, checked before anything is computed for it.

    Raises:
        MiclabError: its directory does not exist, or it is a directory itself.
    """
    file = _beside(path, option)
    if file.is_dir():
        raise MiclabError(f"--{option} {path}: this is a directory. Name a file, for example {file / 'NAME'}.")
    return file


def output_folder(path: str, option: str = "output") -> Path:
    """The directory that an option names, checked before anything is computed. It need not exist yet.

    Raises:
        MiclabError: its parent directory does not exist, or it is a file.
    """
    folder = _beside(path, option)
    if folder.exists() and not folder.is_dir():
        raise MiclabError(f"--{option} {path}: this is a file. Name a directory.")
    return folder


def _beside(path: str, option: str) -> Path:
    found = Path(path)
    if found.parent.exists() and not found.parent.is_dir():
        raise MiclabError(f"--{option} {path}: {found.parent} is a file. Name a directory that is there.")
    if not found.parent.is_dir():
        problem = f"--{option} {path}: there is no directory {found.parent}."
        raise MiclabError(f"{problem} Make it (`mkdir -p {found.parent}`), or give another --{option}.")
    return found


def find_runs(references: Iterable[str], root: str) -> list[Run]:
    """The named runs.

    Raises:
        RunError: no name is given, or one does not identify a run.
    """
    found = [find(reference, root) for reference in references]
    if not found:
        raise RunError("Name at least one RUN. `miclab runs` lists them.")
    return found


RULES = ConstructorRegistry()
"""Rules for `tyro.cli`."""


@RULES.primitive_rule
def _named(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """A name of a registry."""
    if not (isinstance(info.type, type) and issubclass(info.type, Name)):
        return None
    names = tuple(info.type.registry)
    if issubclass(info.type, PositionName):
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar=f"{{{','.join(names)}}}[:OPTION=VALUE,...]",
            instance_from_str=lambda given: info.type.read(given[0], "decoder.positions"),
            is_instance=lambda value: isinstance(value, str),
            str_from_instance=lambda value: [value],
        )
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{{{','.join(names)}}}",
        instance_from_str=lambda given: given[0],
        is_instance=lambda value: isinstance(value, str),
        str_from_instance=lambda value: [value],
        choices=names,
    )


@RULES.primitive_rule
def _attention(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """A mechanism with its options."""
    if info.type is not AttentionOptions:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{{{','.join(ATTENTION)}}}[:OPTION=VALUE,...]",
        instance_from_str=lambda given: AttentionOptions.read(given[0], "decoder.attention", None),
        is_instance=lambda value: isinstance(value, AttentionOptions),
        str_from_instance=lambda value: [option_text(value.name, value)],
    )


@RULES.primitive_rule
def _objective(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Terms of the loss with their options."""
    if info.type != dict[str, LossOptions]:
        return None
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=f"[{{{','.join(LOSS_TERMS)}}}[:OPTION=VALUE,...] ...]",
        instance_from_str=_terms,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [option_text(name, options) for name, options in value.items()],
    )


def _terms(given: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in given:
        name, fields = named_fields(text, "objective")
        if name in found:
            raise ConfigError("objective", given, f"each term once; {name} is named twice")
        found[name] = LossOptions.read(fields, f"objective.{name}", None)
    return found
