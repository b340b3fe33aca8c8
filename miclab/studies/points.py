"""The points of a study's grid as checked configurations: one for each place of the grid, before seeds.

A study may have a hundred thousand points that differ in one field. So each part of a configuration is read and checked
once, and points are composed of parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from itertools import product
from typing import Any

from miclab.config import presets, schema
from miclab.config.parts import ModalityConfig, NumericsConfig, ParentConfig
from miclab.config.request import Request
from miclab.config.run import RunConfig
from miclab.errors import ConfigError, ContentError, nearest
from miclab.studies.study import Block, Fields, Study, laid_over, nested
from miclab.training.stages import pretraining, stage_one
from miclab.worlds.source_facts import plugin_fingerprints, resolved_modality

Place = tuple[int, ...]
"""Indices of the values of some axes."""
PARTS = tuple(item.name for item in fields(RunConfig) if item.name not in ("seed", "parent"))
"""Fields of a configuration that a study's `config` and axes may name."""


@dataclass(frozen=True, slots=True)
class Point:
    """A point of the grid.

    Arguments:
        config: its configuration, with seed 0 and only the step of the parent.
        request: the request of its runs.
        parent: configuration of its stage-1 runs, with seed 0; None without stage 1.
        parent_request: the request of these.
        encoders: configuration and request of the runs that pretrain encoders, by modality.
    """

    config: RunConfig
    request: Request
    parent: RunConfig | None = None
    parent_request: Request | None = None
    encoders: dict[str, tuple[RunConfig, Request]] = field(default_factory=dict)


class Mode:
    """Replaces `auto` by the numeric mode, and by the device, found on a machine.

    Arguments:
        mode: `compiled`, `eager`, or `lanes:N` for groups of N runs; or a function that finds it out. It is called
            once, if an `auto` is met.
    """

    def __init__(self, mode: str | Callable[[], str]):
        self._mode = mode
        self._device = ""

    def resolved(self, numerics: NumericsConfig) -> NumericsConfig:
        """The same numerics with a mode and a device that are not `auto`. A run's hash holds their names."""
        if numerics.device == "auto":
            if not self._device:
                # Only here: finding devices imports torch, which most plans do without.
                from miclab.training.numerics import device_here

                self._device = device_here("auto")
            numerics = replace(numerics, device=self._device)
        if numerics.mode != "auto":
            return numerics
        if callable(self._mode):
            self._mode = self._mode()
        name, _, width = self._mode.partition(":")
        # Without lanes it is no part of a run.
        lane_step = numerics.lane_step if width else "eager"
        return replace(numerics, mode=name, lanes=int(width or 0), lane_step=lane_step)  # type: ignore[arg-type]


def mode_of(numerics: NumericsConfig) -> str:
    """What `Mode` is given for such numerics."""
    return f"{numerics.mode}:{numerics.lanes}" if numerics.lanes else numerics.mode


def points(study: Study, mode: Mode) -> Iterator[Point]:
    """The points of a study in grid order; equal ones come as often as the grid has them.

    Raises:
        ContentError: a configuration cannot work; the message names file, point and field.
    """
    try:
        _check_axes(study)
        readers = {stage: _StudyReader(study, mode, stage) for stage in study.stages}
        blocks = [_BlockReader(readers[block.stage or study.stage], block) for block in study.grid]
    except ConfigError as error:
        raise ContentError.of_field(study.file, error) from error
    for reader in blocks:
        for place in reader.places():
            try:
                yield reader.point(place)
            except ConfigError as error:
                values = (f"{axis}={reader.values[axis][i]}" for axis, i in zip(reader.axes, place, strict=True))
                at = f"at {', '.join(values) or 'its only point'}"
                raise ContentError.of_field(study.file, error, at) from error


def _check_axes(study: Study) -> None:
    known = [*PARTS, "parent", "request"]
    for block in study.grid:
        for axis in block.axes:
            owner = axis.split(".")[0]
            if owner == "seed":
                raise ConfigError(axis, "an axis", "no axis: the preset has `seeds`")
            if owner not in known:
                raise ConfigError(axis, "an axis", f"a dotted field: {nearest(owner, known)}")
            if owner == "parent" and (block.stage or study.stage) not in presets.GROWN:
                raise ConfigError(axis, "an axis", "axes of stage 1 only where the stage is multimodal or continued")
            if any(other.startswith(f"{axis}.") for other in block.axes):
                raise ConfigError(axis, "an axis", "one that is not part of another one")
    for name in ("seed", "parent"):
        for config in (study.config, *(block.config for block in study.grid)):
            if name in config:
                raise ConfigError(f"config.{name}", config[name], "no such field: a study has `seeds` and `parent`")


def _with_content(modalities: dict[str, ModalityConfig]) -> dict[str, ModalityConfig]:
    """Modalities with what their sources decide."""
    if not any(modality.source for modality in modalities.values()):
        return modalities
    return {name: resolved_modality(modality) for name, modality in modalities.items()}


class _StudyReader:
    """The common part of the points of one stage of a study."""

    def __init__(self, study: Study, mode: Mode, stage: presets.Stage):
        self.study, self.mode, self.stage = study, mode, stage
        self.base = presets.run_config(stage, study.profile)
        known = presets.request(stage, study.profile)
        self.request = schema.from_mapping(Request, study.request, "request", known)
        first = presets.request("unimodal", study.profile)
        first = replace(first, sequences=self.request.sequences, novel_sets=self.request.novel_sets)
        self.first = schema.from_mapping(Request, study.parent.request, "parent.request", first)
        if self.first.plateau_rows:
            raise ConfigError("parent.request.plateau_rows", self.first.plateau_rows, "0: children need a known step")
        if self.first.enough:
            raise ConfigError("parent.request.enough", self.first.enough, "0: children need a known step")
        self.checked: dict[tuple[str, ...], dict[str, set[int]]] = {}
        self.parents: dict[tuple[Any, ...], tuple[RunConfig, Request]] = {}
        self.encoders: dict[tuple[Any, ...], tuple[RunConfig, Request]] = {}

    def put_together(self, parts: dict[str, Any]) -> RunConfig:
        """A configuration; a part that was checked before is not checked again."""
        config = object.__new__(RunConfig)
        config.__dict__.update(parts, seed=0, parent=self.base.parent)
        # A value that suits some modalities, such as an order, may not suit others.
        names = tuple(config.modalities)
        if names not in self.checked:
            self.checked[names] = {name: set() for name in PARTS}
        checked = self.checked[names]
        for name, part in parts.items():
            if id(part) not in checked[name]:
                config.check_part(name)
                checked[name].add(id(part))
        config.check_across_parts()
        config.__dict__["plugins"] = plugin_fingerprints(config)
        return config


class _BlockReader:
    """The points of one block."""

    def __init__(self, shared: _StudyReader, block: Block):
        self.shared, self.block, self.axes = shared, block, block.axes
        self.values = {**block.zip, **block.product}
        config = laid_over(shared.study.config, block.config)
        for name in config:
            if name not in PARTS:
                raise ConfigError(name, config[name], f"a known field: {nearest(name, PARTS)}")
        self.parts = {name: getattr(shared.base, name) for name in PARTS}
        for name, data in config.items():
            self.parts[name] = schema.field_value(RunConfig, name, data, self.parts[name])
        self.parts["numerics"] = shared.mode.resolved(self.parts["numerics"])
        self.parts["modalities"] = _with_content(self.parts["modalities"])
        self.groups: dict[str, list[int]] = {}
        for index, axis in enumerate(self.axes):
            self.groups.setdefault(axis.split(".")[0], []).append(index)
        # Every part is kept, so that no other one can have its `id`.
        self.read: dict[tuple[str, Place], Any] = {}
        self.fields: dict[tuple[str, str, int], Any] = {}

    def places(self) -> Iterator[Place]:
        """Indices of the values of every axis: first those that go together, then those of the product."""
        zipped, *shape = self.block.shape
        for along in range(zipped):
            for across in product(*map(range, shape)):
                yield (along,) * len(self.block.zip) + across

    def point(self, place: Place) -> Point:
        """The point at a place."""
        parts = dict(self.parts)
        for name in self.groups:
            if name in PARTS:
                parts[name] = self._cached(name, place, self._part)
        config = self.shared.put_together(parts)
        stage = self.shared.stage
        if (len(config.modalities) == 1) != (stage in ("unimodal", "continued")):
            raise ConfigError("modalities", list(config.modalities), f"as many as the stage {stage} has")
        request = self._cached("request", place, self._request) if "request" in self.groups else self.shared.request
        encoders = self._encoders(config)
        if stage not in presets.GROWN:
            return Point(config, request, encoders=encoders)
        if self._before(place).get("steps") == 0:
            return Point(config, request, encoders=encoders)
        parent, first = self._stage_one(config, place)
        object.__setattr__(config, "parent", ParentConfig(step=first.steps))
        return Point(config, request, parent, first, encoders)

    def _encoders(self, config: RunConfig) -> dict[str, tuple[RunConfig, Request]]:
        """The runs that pretrain encoders; points that differ in other things share them."""
        found = {}
        for name, modality in config.modalities.items():
            if modality.encoder_step and not modality.encoder_run:
                key = (
                    name,
                    config.numerics,
                    replace(modality, labels=2, noise=0.0 if modality.source else modality.noise),
                )
                if key not in self.shared.encoders:
                    self.shared.encoders[key] = self._read_encoder(config, name)
                found[name] = self.shared.encoders[key]
        return found

    def _read_encoder(self, config: RunConfig, name: str) -> tuple[RunConfig, Request]:
        requested, profile = self.shared.study.encoder, self.shared.study.profile
        return pretraining(config, name, profile, requested.config, requested.request)

    def _cached(self, group: str, place: Place, read: Callable[[str, Fields], Any]) -> Any:
        """The result of `read` for a group of axes, computed once for each combination of their values."""
        indices = self.groups.get(group, [])
        key = (group, tuple(place[i] for i in indices))
        if key not in self.read:
            self.read[key] = read(group, nested({self.axes[i]: self.values[self.axes[i]][place[i]] for i in indices}))
        return self.read[key]

    def _part(self, name: str, change: Fields) -> Any:
        base, data = self.parts[name], change[name]
        if name == "modalities" and isinstance(data, dict):
            # An axis changes one modality and keeps the others. Modalities that `config` omits are the preset's.
            known = {**self.shared.base.modalities, **base}
            found = {n: self._changed(known.get(n, ModalityConfig()), part, f"{name}.{n}") for n, part in data.items()}
            return _with_content({**base, **found})
        if not is_dataclass(base):
            found = schema.field_value(RunConfig, name, data, base)
            # An axis over one term of the loss keeps the others.
            return {**base, **found} if isinstance(base, dict) else found
        part = self._changed(base, data, name)
        return self.shared.mode.resolved(part) if name == "numerics" else part

    def _changed(self, base: Any, data: Any, owner: str) -> Any:
        """A part with other values in some fields; each value of an axis is read once."""
        if not isinstance(data, dict):
            return schema.from_mapping(type(base), data, owner, base)
        changes = {}
        for name, value in data.items():
            # The study keeps its values, so that no other one can have the `id`.
            key = (owner, name, id(value))
            if isinstance(value, dict):
                # Made for this point, so another object could get its `id`.
                changes[name] = getattr(schema.from_mapping(type(base), {name: value}, owner, base), name)
                continue
            if key not in self.fields:
                self.fields[key] = getattr(schema.from_mapping(type(base), {name: value}, owner, base), name)
            changes[name] = self.fields[key]
        part = object.__new__(type(base))
        part.__dict__.update(base.__dict__, **changes)
        return part

    def _request(self, name: str, change: Fields) -> Request:
        return schema.from_mapping(Request, change[name], "request", self.shared.request)

    def _before(self, place: Place) -> Fields:
        """The fields of stage 1 in the axes. Its `steps` may be 0: from scratch."""
        return self._cached("parent", place, lambda name, found: found.get(name, {})) if self.groups else {}

    def _stage_one(self, config: RunConfig, place: Place) -> tuple[RunConfig, Request]:
        """Configuration and request of stage 1; points that differ in the secondary modalities alone share them."""
        host, change = config.modalities[config.host_name], self._before(place)
        own = ("modalities", "host", "bridge", "frozen", "objective")
        rest = (*(getattr(config, name) for name in PARTS if name not in own), *config.objective.items())
        key = (id(change), config.host_name, host, rest)
        found = self.shared.parents
        if key not in found:
            found[key] = self._read_stage_one(config, dict(change))
        return found[key]

    def _read_stage_one(self, config: RunConfig, change: Fields) -> tuple[RunConfig, Request]:
        shared = self.shared
        change = laid_over(shared.study.parent.config, change)
        before, request = stage_one(config, shared.study.profile, shared.first, change)
        return replace(before, numerics=shared.mode.resolved(before.numerics)), request
