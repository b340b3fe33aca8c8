"""Training sequences of several runs, drawn as one program (`torch.func.vmap`) on any device.

Each run keeps its own classes, frequencies and prototypes. Where runs have different numbers of classes, tables are
padded. What is drawn is equal to the bit to what each run draws by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from miclab.config.run import RunConfig
from miclab.config.schema import to_mapping
from miclab.worlds.noise import noise_scales
from miclab.worlds.philox import CounterGenerator, stream_key
from miclab.worlds.sequences import RawBatch, plan_training, raw_batch
from miclab.worlds.world import ClassTable, GaussianSource, World

PADDING = {"cumulative": torch.inf}
"""What fills a table up beyond a run's own classes, where that is not 0: no level lies beyond."""


def _common(config: RunConfig) -> RunConfig:
    """A configuration without what the lanes of one sampler may differ in."""
    modalities = {
        name: replace(m, classes=m.labels, noise=1.0, zipf_exponent=0.0, novel_classes=0, prototype_correlation=0.0)
        for name, m in config.modalities.items()
    }
    optimiser = type(config.optimiser)(batch_size=config.optimiser.batch_size)
    return RunConfig(modalities=modalities, host=config.host, sequence=config.sequence, optimiser=optimiser,
                     decoder=config.decoder, numerics=config.numerics, bridge=config.bridge)  # fmt: skip


def serves(configs: Sequence[RunConfig]) -> bool:
    """Whether one sampler can draw for runs: they have the sampler `device`, no real data and no fresh classes in
    training, and equal sequences."""
    first = configs[0]
    return (
        first.numerics.sampler == "device"
        and not any(modality.source for config in configs for modality in config.modalities.values())
        and first.sequence.novel_fraction == 0
        and first.sequence.token_noise == 0
        and first.sequence.distinct_labels != "released"
        and all(_common(config) == _common(first) for config in configs)
    )


class LaneSampler:
    """Draws the raw batches of runs that `serves` accepts.

    Arguments:
        configs: of the runs.
        worlds: of the runs.
        width: lanes; those beyond the runs are given what the first run draws.
        device: where they are drawn.
    """

    def __init__(self, configs: Sequence[RunConfig], worlds: Sequence[World], width: int, device: torch.device):
        places = [*range(len(configs)), *[0] * (width - len(configs))]
        self.config, self.device = configs[0], device
        parts = [_world_tensors(world) for world in worlds]
        padded = {name: _padded([part[name] for part in parts], name) for name in parts[0]}
        self.worlds = {name: value[places].to(device) for name, value in padded.items()}
        keys = torch.stack([stream_key(config.sequences_seed, "batch") for config in configs])
        self.keys = keys[places].to(device)
        scales = {
            name: torch.stack([noise_scales(c.modalities[name].noise, c.modalities[name].dimension) for c in configs])
            for name in configs[0].order
        }
        self.scales = {name: value[places].to(device) for name, value in scales.items()}
        self.drawn = drawing_function(self.config)

    @property
    def key(self) -> Hashable:
        """What `drawn` depends on, except values of tensors: equal keys have equal functions."""
        shapes = [(name, list(value.shape)) for name, value in sorted(self.worlds.items())]
        return json.dumps([to_mapping(_common(self.config)), str(self.device), shapes])

    def inputs(self, steps: Sequence[int]) -> tuple[Any, ...]:
        """What `drawn` (see `drawing_function`) needs, with the lanes as first axis of every tensor.

        Arguments:
            steps: the training step of each lane.
        """
        return self.keys, torch.tensor(steps, device=self.device), self.worlds, self.scales

    def draw(self, steps: Sequence[int]) -> dict[str, Any]:
        """The tensors of the raw batches by field, with the lanes as their first axis.

        Arguments:
            steps: the training step of each lane.
        """
        with self.device:
            return self.drawn(*self.inputs(steps))


def drawing_function(config: RunConfig) -> Callable[..., dict[str, Any]]:
    """A function from (keys, steps, tensors of the worlds, scales of noise) to the tensors of the raw batches by field.
    All have the lanes as first axis, and the function depends on nothing else. It is called where the device of its
    arguments is PyTorch's default: a compiled step cannot hold a change of it.

    Arguments:
        config: of one of the runs, which have equal sequences.
    """

    def one(key: Tensor, step: Tensor, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        generator, world = CounterGenerator(key, step), _world_of(config, tensors)
        plan = plan_training(config, world, config.optimiser.batch_size, generator)
        found = raw_tensors(raw_batch(config, world, plan, generator))
        # They are those of each run's own noise, which no draw depends on.
        del found["scales"]
        return found

    def drawn(
        keys: Tensor, steps: Tensor, worlds: Mapping[str, Tensor], scales: Mapping[str, Tensor]
    ) -> dict[str, Any]:
        return {**torch.func.vmap(one)(keys, steps, worlds), "scales": scales}

    return drawn


def raw_tensors(raw: RawBatch) -> dict[str, Any]:
    """The tensors of a raw batch by field, without its roles and what it lacks."""
    return {name: value for name, value in vars(raw).items() if value is not None and name != "roles"}


TABLE = ("label_of", "by_label", "cumulative", "ends", "low", "high")


def _world_tensors(world: World) -> dict[str, Tensor]:
    found = {"label_embeddings": world.label_embeddings}
    for name, source in world.sources.items():
        found |= {f"prototypes.{name}": source.prototypes}
        found |= {f"{part}.{name}": getattr(world.tables[name], part) for part in TABLE}
    found |= {f"partners.{name}": value for name, value in world.partners.items()}
    return found


def _world_of(config: RunConfig, tensors: Mapping[str, Tensor]) -> World:
    sources = {n: GaussianSource(tensors[f"prototypes.{n}"], m.noise) for n, m in config.modalities.items()}
    tables = {n: ClassTable.of({part: tensors[f"{part}.{n}"] for part in TABLE}) for n in config.modalities}
    partners = {n: tensors[f"partners.{n}"] for n in config.modalities if f"partners.{n}" in tensors}
    return World(sources, tables, tensors["label_embeddings"], partners)


def _padded(parts: Sequence[Tensor], name: str) -> Tensor:
    """Tensors of different length along their first axis, as one with the lanes before it."""
    length = max(len(part) for part in parts)
    fill = PADDING.get(name.partition(".")[0], 0)
    found = parts[0].new_full((len(parts), length, *parts[0].shape[1:]), fill)
    for row, part in zip(found, parts, strict=True):
        row[: len(part)] = part
    return found
