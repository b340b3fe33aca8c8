"""From a study to its runs, in order, each named by its trajectory hash before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

from miclab import profiles, schema
from miclab.config import RunConfig
from miclab.errors import ConfigError, MiclabError, nearest
from miclab.request import Request
from miclab.runs import run_name
from miclab.settings import ParentConfig
from miclab.studies.study import Block, Fields, Study, laid_over, nested, value_at


@dataclass(slots=True, kw_only=True)
class PlannedRun:
    """One run of a plan. Runs of one point differ in nothing but seed and parent.

    Arguments:
        hash: trajectory hash.
        name: directory name.
        seed: its seed.
        parent: trajectory hash of the stage-1 run, or empty.
        point: configuration of its point, with any seed.
        request: what is asked of it by all studies of the plan.
        probes: names of the analyses after training (see `miclab.studies.probes`).
        starts: checkpoints that other runs start from.
    """

    hash: str
    name: str
    seed: int
    parent: str
    point: RunConfig
    request: Request
    probes: tuple[str, ...] = ()
    starts: tuple[int, ...] = ()

    @property
    def config(self) -> RunConfig:
        """Its whole configuration."""
        return _seeded(self.point, self.seed, self.parent)


class Plan:
    """The runs of one study or several, in order: a stage-1 run comes before the first that needs it.

    Arguments:
        studies: what to plan, all of the same profile.
        mode: numeric mode (`compiled` or `eager`) that `auto` stands for, or a function that finds it out, called only
            if an `auto` is met.

    Raises:
        MiclabError: a point's configuration cannot work; the message names the study, the point and the field.
    """

    def __init__(self, studies: Iterable[Study], mode: str | Callable[[], str]):
        resolve = _Resolver(mode)
        self.runs: dict[str, PlannedRun] = {}
        self.members: dict[str, list[str]] = {}
        """For each study the hashes of its points' runs, in grid order, each once; parents are not among them."""
        for study in studies:
            if study.name in self.members:
                raise MiclabError(f"Two studies are named {study.name!r}: the table of one would replace the other's.")
            self.members[study.name] = list(dict.fromkeys(self._study_runs(study, resolve)))

    def _study_runs(self, study: Study, resolve: _Resolver) -> Iterator[str]:
        probes = tuple(
            name
            for probe in study.probes
            for name in ([f"context.{n}" for n in study.probe_contexts] if probe == "context" else [probe])
        )
        for point in _points(study, resolve):
            for seed in study.seeds:
                parent = ""
                if point.parent is not None and point.parent_request is not None:
                    parent = self._add(point.parent, point.parent_request, seed, starts=(point.parent_request.steps,))
                yield self._add(point.config, point.request, seed, parent, probes=probes)

    def _add(
        self,
        point: RunConfig,
        request: Request,
        seed: int,
        parent: str = "",
        *,
        probes: tuple[str, ...] = (),
        starts: tuple[int, ...] = (),
    ) -> str:
        config = _seeded(point, seed, parent)
        identity = schema.trajectory_hash(config)
        old = self.runs.get(identity)
        if old is None:
            name = run_name(config, identity)
            self.runs[identity] = PlannedRun(
                hash=identity, name=name, seed=seed, parent=parent, point=point, request=request, probes=probes,
                starts=starts,
            )  # fmt: skip
        else:
            old.request = joined(old.request, request)
            old.probes = tuple(dict.fromkeys((*old.probes, *probes)))
            old.starts = tuple(dict.fromkeys((*old.starts, *starts)))
        return identity

    def children(self) -> dict[str, list[str]]:
        """For each stage-1 run the runs that start from it."""
        found: dict[str, list[str]] = {}
        for run in self.runs.values():
            if run.parent:
                found.setdefault(run.parent, []).append(run.hash)
        return found


def joined(first: Request, second: Request) -> Request:
    """One request that serves both: the longer one, with the shorter one's end kept as a checkpoint."""
    steps = max(first.steps, second.steps)
    kept = {*first.checkpoint_at, *second.checkpoint_at, first.steps, second.steps} - {0, steps}
    return first if first == second else replace(first, steps=steps, checkpoint_at=tuple(sorted(kept)))


@dataclass(frozen=True, slots=True)
class _Point:
    config: RunConfig
    request: Request
    parent: RunConfig | None
    parent_request: Request | None


def _seeded(point: RunConfig, seed: int, parent: str) -> RunConfig:
    if point.seed == seed and point.parent.run == parent:
        return point
    # Checked already but for the seed, and built a hundred thousand times.
    config = object.__new__(RunConfig)
    for item in fields(point):
        object.__setattr__(config, item.name, getattr(point, item.name))
    object.__setattr__(config, "seed", seed)
    object.__setattr__(config, "parent", replace(point.parent, run=parent))
    return config


def _places(block: Block) -> Iterator[dict[str, Any]]:
    """Values by axis, of every point of a block."""
    zipped = [dict(zip(block.zip, values, strict=True)) for values in zip(*block.zip.values(), strict=True)] or [{}]
    for along in zipped:
        for values in product(*block.product.values()):
            yield along | dict(zip(block.product, values, strict=True))


def _points(study: Study, resolve: _Resolver) -> Iterator[_Point]:
    _check_axes(study)
    base = profiles.run_config(study.stage, study.profile)
    request = schema.from_mapping(Request, study.request, "request", profiles.request(study.stage, study.profile))
    first_request = profiles.request("unimodal", study.profile)
    for name in ("sequences", "novel_sets"):
        first_request = replace(first_request, **{name: getattr(request, name)})
    first_request = schema.from_mapping(Request, study.parent.request, "parent.request", first_request)
    if first_request.plateau_rows:
        raise ConfigError("parent.request.plateau_rows", first_request.plateau_rows, "0: children need a known step")
    for block in study.grid:
        for axes in _places(block):
            told = ", ".join(f"{axis}={value}" for axis, value in axes.items()) or "its only point"
            try:
                yield _point(study, block, axes, base, request, first_request, resolve)
            except ConfigError as error:
                raise MiclabError(f"{study.file}, at {told}: {error}") from error


def _point(
    study: Study, block: Block, axes: Fields, base: RunConfig, request: Request, first: Request, resolve: _Resolver
) -> _Point:
    change = nested(axes)
    asked, parent = change.pop("request", {}), change.pop("parent", {})
    if parent and study.stage != "multimodal":
        raise ConfigError("parent", parent, "axes of stage 1 only in a study whose stage is multimodal")
    request = schema.from_mapping(Request, asked, "request", request)
    change = laid_over(laid_over(study.config, block.config), change)
    for name in ("seed", "parent"):
        if name in change:
            raise ConfigError(f"config.{name}", change[name], "no such field here: the study has `seeds` and `parent`")
    config = resolve(schema.from_mapping(RunConfig, change, "", base))
    if (len(config.modalities) == 1) != (study.stage == "unimodal"):
        raise ConfigError("modalities", list(config.modalities), f"as many as the stage {study.stage} has")
    if study.stage != "multimodal":
        return _Point(config, request, None, None)
    steps = parent.pop("steps", first.steps)
    before = profiles.first_stage(config, study.profile)
    before = resolve(schema.from_mapping(RunConfig, laid_over(study.parent.config, parent), "parent", before))
    if (before.decoder, before.label_count) != (config.decoder, config.label_count):
        raise ConfigError("parent", "another decoder or number of labels", "the decoder and labels of the children")
    first = schema.from_mapping(Request, {"steps": steps}, "parent", first)
    return _Point(replace(config, parent=ParentConfig(step=steps)), request, before, first)


class _Resolver:
    """Puts the numeric mode that was found in the place of `auto`."""

    def __init__(self, mode: str | Callable[[], str]):
        self._mode = mode

    def __call__(self, config: RunConfig) -> RunConfig:
        if config.numerics.mode != "auto":
            return config
        if callable(self._mode):
            self._mode = self._mode()
        return replace(config, numerics=replace(config.numerics, mode=self._mode))


def axis_value(run: PlannedRun, parent: PlannedRun | None, axis: str) -> Any:
    """The value of an axis for a run, from its configuration or request; None where it has no such field."""
    owner, _, rest = axis.partition(".")
    if owner == "request":
        return value_at(run.request, rest)
    if owner != "parent":
        return value_at(run.point, axis)
    if rest == "steps":
        return run.point.parent.step
    return None if parent is None else value_at(parent.point, rest)


def _check_axes(study: Study) -> None:
    """Raises ConfigError for an axis that is no dotted field of a configuration, or is part of another one."""
    known = [f.name for f in fields(RunConfig) if f.name != "seed"] + ["request"]
    for block in study.grid:
        for axis in block.axes:
            owner = axis.split(".")[0]
            if owner == "seed":
                raise ConfigError(axis, "an axis", "no axis: the profile has `seeds`")
            if owner not in known:
                raise ConfigError(axis, "an axis", f"a dotted field: {nearest(owner, known)}")
            if any(other.startswith(f"{axis}.") for other in block.axes):
                raise ConfigError(axis, "an axis", "one that is not part of another one")
