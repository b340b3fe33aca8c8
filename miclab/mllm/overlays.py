"""Attention of the strongest heads over one episode, with the patches of its pictures.

A picture's grid is the processor's (`image_grid_thw` and its `merge_size`). Where a processor gives none, a square
picture with a square number of tokens has its tokens row by row. A picture whose grid is not known is one patch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miclab.circuits.find import Head
from miclab.mllm.heads import HeadTable, measure_encoded
from miclab.mllm.loading import Production
from miclab.mllm.options import INDUCTION, PREVIOUS_TOKEN
from miclab.mllm.reading import Encoded, Reading
from miclab.mllm.task import Episode, Task

TEN = 10
"""Heads that are shown."""


@dataclass(frozen=True)
class Patches:
    """The patches of one picture.

    Arguments:
        rows: of the grid.
        columns: of the grid.
        positions: of the tokens of its patches, row by row. If the grid is not known, `rows` and `columns` are 1 and
            these are all tokens of the picture.
    """

    rows: int
    columns: int
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Overlay:
    """Attention of some heads on one episode.

    Arguments:
        reading: the roles of the positions.
        names: of the positions.
        patches: of each picture, by item of the context, then of the query. Empty in a task in words.
        maps: attention [query, key] of each head.
    """

    reading: Reading
    names: tuple[str, ...]
    patches: tuple[tuple[Patches, ...], ...]
    maps: Mapping[Head, NDArray[np.floating]]


def strongest_heads(table: HeadTable, count: int = TEN) -> list[Head]:
    """The strongest previous-token and induction heads in turn, up to `count` in all."""
    ranked = [table.ranked(measure) for measure in (PREVIOUS_TOKEN, INDUCTION)]
    in_turn = [head for pair in zip(*ranked, strict=True) for head in pair]
    return list(dict.fromkeys(in_turn))[:count]


def _grids(production: Production, encoded: Encoded) -> list[tuple[int, int]] | None:
    """Rows and columns of every picture of the first sequence, as the processor says; None: it says nothing."""
    found = next((of for name, of in encoded.inputs.items() if "grid" in name and of.dim() == 2), None)
    if found is None:
        return None
    merged = int(getattr(production.processor.image_processor, "merge_size", 1) or 1)
    return [(int(height) // merged, int(width) // merged) for _, height, width in found.tolist()]


def _square(encoded: Encoded, pictures: int, count: int) -> int:
    """Side of the grid of `count` tokens of a square picture; 0 if it has none."""
    pixels = encoded.inputs.get("pixel_values")
    side = math.isqrt(count)
    if pixels is None or pixels.dim() != 4 or len(pixels) != pictures:
        return 0
    return side if pixels.shape[-1] == pixels.shape[-2] and side * side == count else 0


def patches_of(production: Production, encoded: Encoded) -> tuple[tuple[Patches, ...], ...]:
    """The patches of every picture of a batch of one sequence, by item."""
    reading = encoded.readings[0]
    if reading.roles.modalities != ("image",):
        return ()
    config: Any = production.model.config
    token = getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None)
    ids, kind, exemplar = (of[: reading.length] for of in (encoded.inputs["input_ids"][0], reading.roles.kind,
                                                           reading.roles.exemplar))  # fmt: skip
    items = [*(example.item for example in reading.episode.support), reading.episode.query]
    total, grids = sum(len(item.images) for item in items), _grids(production, encoded)
    found, done = [], 0
    for number, item in enumerate(items):
        all_of = ((kind >= 0) & (exemplar == number)).nonzero()[:, 0].tolist()
        # Marks around a picture, as Gemma 3 writes them, are no patches.
        of_patches = [place for place in all_of if int(ids[place]) == token] or all_of
        shapes = grids[done : done + len(item.images)] if grids else []
        done += len(item.images)
        if not shapes:
            side = _square(encoded, total, len(of_patches) // len(item.images))
            shapes = [(side, side)] * len(item.images)
        sizes = [rows * columns for rows, columns in shapes]
        if 0 in sizes or sum(sizes) != len(of_patches):
            # Which tokens are which picture's is not known either.
            found.append(tuple(Patches(1, 1, tuple(all_of)) for _ in item.images))
            continue
        starts = np.cumsum([0, *sizes]).tolist()
        found.append(tuple(Patches(rows, columns, tuple(of_patches[start : start + rows * columns]))
                           for start, (rows, columns) in zip(starts, shapes, strict=False)))  # fmt: skip
    return tuple(found)


def overlay(production: Production, task: Task, episode: Episode, heads: Sequence[Head]) -> Overlay:
    """Attention of some heads on an episode, with its right answer.

    Raises:
        TaskError: the episode cannot be read.
        OutOfMemoryError: it does not fit.
    """
    prompter = production.prompter(task)
    encoded = prompter.encode([(episode, episode.answer)])
    _, maps = measure_encoded(production, prompter, encoded, heads)
    return Overlay(encoded.readings[0], tuple(prompter.names(encoded, 0)), patches_of(production, encoded),
                   {one.head: one.attention for one in maps})  # fmt: skip
