"""Attention maps as arrays in a safetensors file.

    attention.EPISODE.LAYER    float32 [head, query, key], for each saved episode and each layer

Metadata are JSON texts: `format` (this text's version), `model`, `task`, and `episodes`. That is a list with `name`,
`question`, `answer` and `labels` of the examples. It has `tokens`, `roles` (see `miclab.mllm.edges`) and `examples` of
each position up to the one that predicts the answer. The query has the number after the last example; -1: of none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from miclab import storage
from miclab.errors import ConfigError
from miclab.mllm.attention import measuring
from miclab.mllm.batches import batches, joined
from miclab.mllm.edges import role_names
from miclab.mllm.errors import TaskError, memory_guard
from miclab.mllm.layers import all_heads
from miclab.mllm.loading import Production
from miclab.mllm.passes import forward
from miclab.mllm.reading import Encoded
from miclab.mllm.task import Task

MIB = 2**20
FORMAT = 1


@dataclass(frozen=True)
class Planned:
    """Episodes whose maps are to be saved.

    Arguments:
        episodes: each as a batch of one, with its right answer.
        bytes: size of all maps.
    """

    episodes: tuple[Encoded, ...]
    bytes: int


def map_bytes(production: Production, lengths: Sequence[int]) -> int:
    """Size of the maps of sequences of some lengths, in bytes."""
    return 4 * sum(layer.heads for layer in production.layers) * sum(length**2 for length in lengths)


def check_file(file: Path) -> None:
    """Checks the place of a file of maps before anything is done.

    Raises:
        ConfigError: the file is there already.
        RunError: it cannot be written.
    """
    if file.exists() or file.is_symlink():
        raise ConfigError("save_attention", str(file), "a file that is not there yet")
    storage.check_place(file)


def plan_maps(production: Production, task: Task, file: Path, episodes: int, limit: int) -> Planned:
    """The first episodes of a task that can be read, if their maps are not too large. No pass is made.

    Arguments:
        production: the model.
        task: the episodes.
        file: where the maps are to be saved.
        episodes: how many.
        limit: largest size, in MiB.

    Raises:
        ConfigError: the file is there already.
        TaskError: the maps are larger than `limit`, or no episode can be read.
    """
    check_file(file)
    found: list[Encoded] = []
    lost: dict[str, str] = {}
    for _, encoded in batches(production.prompter(task), 1, lost, every=False):
        found.append(encoded)
        size = map_bytes(production, [one.readings[0].length for one in found])
        if size > limit * MIB:
            raise TaskError(
                f"The maps of {len(found)} of {episodes} episodes would take {size / MIB:.1f} MiB, more than the "
                f"{limit} MiB of --save-limit. Take fewer --save-episodes, fewer --shots, fewer --max-pixels, or a "
                "higher limit."
            )
        if len(found) == episodes:
            break
    if not found:
        raise TaskError(next(iter(lost.values())))
    return Planned(tuple(found), map_bytes(production, [one.readings[0].length for one in found]))


@torch.no_grad()
def save_maps(production: Production, task: Task, planned: Planned, file: Path) -> None:
    """Writes the maps of all heads on the planned episodes.

    Raises:
        ModelError: attention cannot be measured.
        OutOfMemoryError: it does not fit.
        MiclabError: the file cannot be written.
    """
    from safetensors.torch import save

    heads, prompter = all_heads(production.layers), production.prompter(task)
    tensors: dict[str, torch.Tensor] = {}
    for numbers, encoded in joined(prompter, planned.episodes):
        longest = max(reading.length for reading in encoded.readings)
        with (
            memory_guard(f"keeping the maps of {len(numbers)} x {longest} tokens"),
            measuring(production.model, production.layers, encoded.readings, heads) as recorder,
        ):
            forward(production.model, encoded.to(production.model))
        for row, number in enumerate(numbers):
            for layer in production.layers:
                maps = [recorder.maps[row, (layer.index, head)] for head in range(layer.heads)]
                tensors[f"attention.{number}.{layer.index}"] = torch.stack(maps)
    listed = []
    for encoded in planned.episodes:
        (reading,) = encoded.readings
        episode = reading.episode
        listed.append({
            "name": episode.name, "question": episode.question, "answer": episode.answer,
            "labels": [example.answer for example in episode.support],
            "tokens": prompter.names(encoded, 0), "roles": role_names(reading),
            "examples": reading.roles.exemplar.tolist(),
        })  # fmt: skip
    metadata = {"format": FORMAT, "model": production.name, "task": task.name, "episodes": listed}
    content = save(tensors, {name: json.dumps(value, ensure_ascii=False) for name, value in metadata.items()})
    storage.write_bytes(file, content)
