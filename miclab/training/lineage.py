"""Weights and data that a run inherits from earlier runs: decoder, world and pretrained encoders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from miclab.config.parts import ModalityConfig
from miclab.config.run import RunConfig
from miclab.data.items import CHUNK
from miclab.errors import RunError
from miclab.model.classifier import model_of
from miclab.model.encoders import encode, initial_encoder
from miclab.runs.find import find
from miclab.runs.run import Run
from miclab.worlds import source_facts
from miclab.worlds.exemplars import check_kept, known_exemplars

SAME_ENCODER = ("encoder", "features", "dimension", "shape", "content")
"""Fields that must be equal in a modality and in the run that pretrained its encoder."""
SAME_HOST = (*SAME_ENCODER, "encoder_run", "encoder_step", "source", "centre")
SAME_CLASSES = ("source", "content", "classes", "dimension", "labels", "centre", "prototype_correlation")
"""Fields of a modality whose classes a child inherits."""


def _differing(one: ModalityConfig, other: ModalityConfig, names: tuple[str, ...]) -> list[str]:
    return [f"{n} {getattr(one, n)!r} and not {getattr(other, n)!r}" for n in names
            if getattr(one, n) != getattr(other, n)]  # fmt: skip


def check_parent(config: RunConfig, parent: RunConfig, name: object) -> None:
    """Checks that a configuration can start from its parent.

    Arguments:
        parent: configuration of the parent, with what its sources decide.
        name: the parent's name in messages.

    Raises:
        RunError: it has another decoder, host or number of labels, or another kind of host.
    """
    if any(getattr(parent, part) != getattr(config, part) for part in ("decoder", "label_count", "host_name")):
        raise RunError(f"The parent {name} has another decoder, host or number of labels.")
    wrong = _differing(parent.modalities[config.host_name], config.modalities[config.host_name], SAME_HOST)
    if wrong:
        raise RunError(f"The host of the parent {name} has {'; '.join(wrong)}.")


def kept_of_parent(config: RunConfig, parent: RunConfig, world: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a parent's world that a child inherits: all except those of secondary modalities that differ."""
    kept, before = {}, parent.modalities
    for key, value in world.items():
        owner = key.partition(".")[2]
        is_other = owner not in config.modalities or _differing(before[owner], config.modalities[owner], SAME_CLASSES)
        if not owner or owner == config.host_name or not is_other:
            kept[key] = value
    return kept


@dataclass(frozen=True)
class Lineage:
    """A configuration and the runs before it, each opened once; make it with `Lineage.resolve`.

    Arguments:
        config: the configuration, with whole hashes of these runs and with what its sources decide.
        parent: the run of the earlier stage; None where there is none.
        encoders: the run that pretrained a modality's encoder, by modality.
    """

    config: RunConfig
    parent: Run | None = None
    encoders: Mapping[str, Run] = field(default_factory=dict)

    @classmethod
    def resolve(cls, config: RunConfig, root: Path | str) -> Lineage:
        """Opens the earlier runs of a configuration, given by any kind of name, and resolves its sources.

        Arguments:
            root: directory of runs.

        Raises:
            RunError: one of them is not under `root`.
            DataError: a source cannot be had.
            ConfigError: the values that a source fixes contradict the rest.
        """
        opened: dict[str, Run] = {}

        def run(reference: str) -> Run:
            if reference not in opened:
                opened[reference] = find(reference, root)
            return opened[reference]

        parent = run(config.parent.run) if config.parent.run else None
        if parent is not None:
            config = replace(config, parent=replace(config.parent, run=parent.hash))
        encoders = {name: run(m.encoder_run) for name, m in config.modalities.items() if m.encoder_run}
        named = {n: replace(m, encoder_run=encoders[n].hash) if n in encoders else m
                 for n, m in config.modalities.items()}  # fmt: skip
        if named != dict(config.modalities):
            config = replace(config, modalities=named)
        return cls(source_facts.resolved(config), parent, encoders)

    def check(self) -> None:
        """Checks that every earlier run fits and has the named checkpoint.

        Raises:
            RunError: one does not.
        """
        if self.parent is not None:
            _check_step(self.parent, self.config.parent.step, "parent")
            check_parent(self.config, self.parent.config, self.parent.path)
        for name in self.encoders:
            self._check_encoder(name)

    def _check_encoder(self, name: str) -> None:
        run, modality = self.encoders[name], self.config.modalities[name]
        if not run.config.is_classification:
            raise RunError(f"{run.path} pretrains no encoder. `miclab train encoder` makes a run that does.")
        wrong = _differing(next(iter(run.config.modalities.values())), modality, SAME_ENCODER)
        if wrong:
            raise RunError(f"The encoder of {run.path} does not fit modality {name}: it has {'; '.join(wrong)}.")
        _check_step(run, modality.encoder_step, "encoder's run")

    # -- weights ------------------------------------------------------------------------------------------------
    @cached_property
    def _parent_weights(self) -> dict[str, Tensor]:
        """Parameters of the parent's checkpoint; empty without a parent."""
        if self.parent is None:
            return {}
        _check_step(self.parent, self.config.parent.step, "parent")
        return self.parent.parameters(self.config.parent.step)[1]

    @cached_property
    def _encoder_weights(self) -> dict[str, dict[str, Tensor]]:
        """Initial weights of encoders, read or drawn, by modality."""
        return {}

    def encoder_weights(self, name: str) -> dict[str, Tensor]:
        """Initial weights of a modality's encoder: pretrained, else those of the parent, else random."""
        if name not in self._encoder_weights:
            self._encoder_weights[name] = self._first_encoder(name)
        return self._encoder_weights[name]

    def _first_encoder(self, name: str) -> dict[str, Tensor]:
        modality = self.config.modalities[name]
        if name in self.encoders:
            self._check_encoder(name)
            run = self.encoders[name]
            start = f"encoder.{next(iter(run.config.modalities))}."
            weights = run.parameters(modality.encoder_step)[1]
            return {f"encoder.{name}.{n.removeprefix(start)}": v for n, v in weights.items() if n.startswith(start)}
        found, before = initial_encoder(modality, name, self.config.weights_seed), self._parent_weights
        return found | {n: before[n] for n in found if n in before and before[n].shape == found[n].shape}

    def first_parameters(self) -> dict[str, Tensor]:
        """Initial parameters. The decoder is the parent's, and so is the bridge if it fits; encoders are as pretrained.
        All others are new.

        Raises:
            RunError: the parent has no such checkpoint, or its decoder does not fit.
        """
        parameters = model_of(self.config).initial_parameters(self.config.weights_seed)
        parameters |= _fitting(self._parent_weights, parameters)
        for name in self.encoders:
            if self.config.encodes(name):
                parameters |= self.encoder_weights(name)
        return parameters

    # -- world --------------------------------------------------------------------------------------------------
    def kept_tensors(self) -> dict[str, Tensor]:
        """The parts of the world that are not drawn. They are tensors of the parent's world, prototypes that an encoder
        was pretrained on, and features of real items.

        Raises:
            RunError: an earlier run does not fit, or has no checkpoint at the step that is named.
        """
        config, kept = self.config, dict[str, Tensor]()
        if self.parent is not None:
            _check_step(self.parent, config.parent.step, "parent")
            check_parent(config, self.parent.config, self.parent.path)
            kept = kept_of_parent(config, self.parent.config, self.parent.world_tensors())
        for name, modality in config.modalities.items():
            if name in self.encoders:
                self._check_encoder(name)
                run = self.encoders[name]
                world, own = run.world_tensors(), next(iter(run.config.modalities))
                if modality.source:
                    check_kept(config, name, world[f"classes.{own}"])
                else:
                    kept.setdefault(f"prototypes.{name}", world[f"prototypes.{own}"])
            # Features of the parent's host are kept. Those of other modalities come from their encoder's initial
            # weights.
            if config.keeps_features(name) and not (name == config.host_name and f"features.{name}" in kept):
                kept[f"features.{name}"] = self._features(name)
        return kept

    @torch.no_grad()
    def _features(self, name: str) -> Tensor:
        """Features of every exemplar of a modality's source, by its encoder's initial weights."""
        modality, weights = self.config.modalities[name], self.encoder_weights(name)
        known = known_exemplars(modality)
        every = torch.arange(len(known.data.items))
        return torch.cat([encode(modality, weights, name, known.vectors(part)) for part in every.split(CHUNK)])


def _check_step(run: Run, step: int, what: str) -> None:
    if step not in run.checkpoints:
        raise RunError(f"The {what} {run.path} has no checkpoint at step {step}; it has {run.checkpoints}.")


def _fitting(before: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    fits = {n: v for n, v in before.items() if n in parameters and v.shape == parameters[n].shape}
    lost = [n for n in before if n.startswith("decoder.") and n not in fits]
    if lost:
        raise RunError(f"The parent's {lost[0]} does not fit this decoder.")
    return fits
