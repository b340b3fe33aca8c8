"""What a run takes over from runs before it: the decoder and world of an earlier stage, and pretrained encoders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
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
from miclab.worlds.exemplars import check_kept, known_exemplars

SAME_ENCODER = ("encoder", "features", "dimension", "shape", "content")
"""Fields in which a modality and the run that pretrained its encoder have to agree."""
SAME_HOST = (*SAME_ENCODER, "encoder_run", "encoder_step", "source", "centre")


def named(config: RunConfig, root: Path | str) -> RunConfig:
    """The configuration with the runs before it named by their whole hashes, however they were asked for.

    Raises:
        RunError: one of them is not under `root`.
    """
    if config.parent.run:
        config = replace(config, parent=replace(config.parent, run=find(config.parent.run, root).hash))
    found = dict(config.modalities)
    for name, modality in config.modalities.items():
        if modality.encoder_run:
            found[name] = replace(modality, encoder_run=find(modality.encoder_run, root).hash)
    return config if found == dict(config.modalities) else replace(config, modalities=found)


def _check_step(run: Run, step: int, told: str) -> None:
    if step not in run.checkpoints:
        raise RunError(f"The {told} {run.path} has no checkpoint at step {step}; it has {run.checkpoints}.")


def _checkpoint(run: Run, step: int, told: str) -> dict[str, Tensor]:
    _check_step(run, step, told)
    return run.parameters(step)[1]


def _differing(one: ModalityConfig, other: ModalityConfig, names: tuple[str, ...]) -> list[str]:
    return [f"{n} {getattr(one, n)!r} and not {getattr(other, n)!r}" for n in names
            if getattr(one, n) != getattr(other, n)]  # fmt: skip


def _encoder_run(config: RunConfig, name: str, root: Path | str) -> Run:
    """The run that pretrained a modality's encoder.

    Raises:
        RunError: it is missing, has no checkpoint at the step named, or pretrained another encoder.
    """
    modality = config.modalities[name]
    run = find(modality.encoder_run, root)
    if not run.config.is_classification:
        raise RunError(f"{run.path} pretrains no encoder. `miclab train encoder` makes a run that does.")
    wrong = _differing(next(iter(run.config.modalities.values())), modality, SAME_ENCODER)
    if wrong:
        raise RunError(f"The encoder of {run.path} does not fit modality {name}: it has {'; '.join(wrong)}.")
    _check_step(run, modality.encoder_step, "encoder's run")
    return run


def _encoder_weights(config: RunConfig, name: str, root: Path | str) -> dict[str, Tensor]:
    """First weights of a modality's encoder: pretrained, else those of the parent, else random."""
    modality = config.modalities[name]
    if modality.encoder_run:
        run = _encoder_run(config, name, root)
        own = next(iter(run.config.modalities))
        weights = _checkpoint(run, modality.encoder_step, "encoder's run")
        start = f"encoder.{own}."
        return {f"encoder.{name}.{n.removeprefix(start)}": v for n, v in weights.items() if n.startswith(start)}
    found = initial_encoder(modality, name, config.weights_seed)
    if config.parent.run:
        before = _checkpoint(find(config.parent.run, root), config.parent.step, "parent")
        found |= {n: before[n] for n in found if n in before and before[n].shape == found[n].shape}
    return found


@torch.no_grad()
def _features(config: RunConfig, name: str, root: Path | str) -> Tensor:
    """Features of every exemplar of a modality's source, by its encoder's first weights."""
    modality = config.modalities[name]
    known, weights = known_exemplars(modality), _encoder_weights(config, name, root)
    every = torch.arange(len(known.data.items))
    return torch.cat([encode(modality, weights, name, known.vectors(part)) for part in every.split(CHUNK)])


def _check_parent(config: RunConfig, parent: Run) -> None:
    _check_step(parent, config.parent.step, "parent")
    if any(getattr(parent.config, part) != getattr(config, part) for part in ("decoder", "label_count", "host_name")):
        raise RunError(f"The parent {parent.path} has another decoder, host or number of labels.")
    wrong = _differing(parent.config.modalities[config.host_name], config.modalities[config.host_name], SAME_HOST)
    if wrong:
        raise RunError(f"The host of the parent {parent.path} has {'; '.join(wrong)}.")


def kept_tensors(config: RunConfig, root: Path | str) -> dict[str, Tensor]:
    """What of the world of `config` is not drawn: the tensors of the parent's world, except those of secondary
    modalities that are other ones now, prototypes that an encoder was pretrained on, and features of real items.

    Raises:
        RunError: a run before this one is missing, is not finished at the step named, or does not fit.
    """
    kept: dict[str, Tensor] = {}
    if config.parent.run:
        parent = find(config.parent.run, root)
        _check_parent(config, parent)
        before = parent.config.modalities
        same = ("source", "content", "classes", "dimension", "labels", "centre")
        for key, value in parent.world_tensors().items():
            owner = key.partition(".")[2]
            is_other = owner not in config.modalities or _differing(before[owner], config.modalities[owner], same)
            if not owner or owner == config.host_name or not is_other:
                kept[key] = value
    for name, modality in config.modalities.items():
        if modality.encoder_run:
            run = _encoder_run(config, name, root)
            world = run.world_tensors()
            own = next(iter(run.config.modalities))
            if modality.source:
                check_kept(config, name, world[f"classes.{own}"])
            else:
                kept.setdefault(f"prototypes.{name}", world[f"prototypes.{own}"])
        # Features of the parent's host stay as they are; those of others follow their encoder's first weights.
        if config.keeps_features(name) and not (name == config.host_name and f"features.{name}" in kept):
            kept[f"features.{name}"] = _features(config, name, root)
    return kept


def first_parameters(config: RunConfig, root: Path | str) -> dict[str, Tensor]:
    """Parameters before the first step: fresh, with the parent's decoder, and its bridge where that fits; encoders as
    they were pretrained."""
    parameters = model_of(config).initial_parameters(config.weights_seed)
    if config.parent.run:
        before = _checkpoint(find(config.parent.run, root), config.parent.step, "parent")
        parameters |= _fitting(before, parameters)
    for name, modality in config.modalities.items():
        if modality.encoder_run and config.encodes(name):
            parameters |= _encoder_weights(config, name, root)
    return parameters


def _fitting(before: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    fits = {n: v for n, v in before.items() if n in parameters and v.shape == parameters[n].shape}
    lost = [n for n in before if n.startswith("decoder.") and n not in fits]
    if lost:
        raise RunError(f"The parent's {lost[0]} does not fit this decoder.")
    return fits
