"""Clean and corrupted sequences of a split side by side, and the answers of a decoder on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from miclab.circuits.corruption import Clean, Corruption, corrupt
from miclab.config.request import SplitSizes
from miclab.config.run import RunConfig
from miclab.errors import RunError
from miclab.seeds import stream
from miclab.worlds.sequences import Batch
from miclab.worlds.splits import split_batches
from miclab.worlds.world import World

CHUNK = 512
"""Sequences in one forward pass."""
Values = dict[str, Tensor]
"""Each metric of each sequence."""
Patched = Mapping[Any, Values]
"""Metrics by what was patched, which is hashable."""


@dataclass(frozen=True)
class Pairs:
    """Clean sequences and corrupted ones that differ from them in one thing.

    Arguments:
        sets: of each set of novel classes, the clean and the corrupted sequences that can be judged; of another split
            there is one set. Sets without any are left out.
        kept: sequences in `sets`, and all.
    """

    sets: tuple[tuple[Batch, Batch], ...]
    kept: tuple[int, int]

    def chunks(self, index: int, size: int = CHUNK) -> Iterator[tuple[Batch, Batch]]:
        """One set in pieces of at most `size` sequences."""
        clean, corrupted = self.sets[index]
        return zip(clean.chunks(size), corrupted.chunks(size), strict=True)


@dataclass(frozen=True)
class Traced:
    """Answers of one run of the decoder, by metric.

    Arguments:
        clean: on clean sequences, by metric, a list over sets of novel classes.
        corrupted: on corrupted ones.
        patched: by what was patched.
        left_out: why parts are missing.
        kept: sequences that are used, and all.
    """

    clean: dict[str, list[NDArray]]
    corrupted: dict[str, list[NDArray]]
    patched: dict[Any, dict[str, list[NDArray]]]
    left_out: dict[str, str] = field(default_factory=dict)
    kept: tuple[int, int] = (0, 0)


def pairs_of_split(
    config: RunConfig, world: World, corruption: Corruption, modality: str, split: str, sizes: SplitSizes
) -> Pairs:
    """The sequences of a split that a corruption changes and that can be judged: their context holds the query's label
    and another.

    Raises:
        ConfigError: there is no such split.
        RunError: there is no such sequence.
    """
    name = f"{corruption.name}.{modality}".rstrip(".")
    seed = config.seed if sizes.evaluation_seed < 0 else sizes.evaluation_seed
    sets, count = [], 0
    for index, (here, batch) in enumerate(split_batches(config, world, split, sizes)):
        clean = Clean(config, here, batch, stream(seed, "corruption", name, split, index))
        made, changed = corrupt(corruption, clean, modality)
        rows = (changed & _can_be_judged(batch)).nonzero().flatten()
        count += len(batch)
        if len(rows):
            sets.append((batch.rows(rows), made.rows(rows)))
    if not sets:
        raise RunError(
            f"The corruption {name} changes no sequence of the split {split} that could be judged: a context needs an"
            " example of the query's label and one of another. Choose another --split or --corruption, or a run with"
            " more classes in a context."
        )
    return Pairs(tuple(sets), (sum(len(clean) for clean, _ in sets), count))


def _can_be_judged(clean: Batch) -> Bool[Tensor, " batch"]:
    """Whether the context holds the query's label and another label."""
    own = clean.labels == clean.target[:, None]
    return own.any(1) & ~own.all(1)


def traced(
    pairs: Pairs,
    measured: Callable[[Batch, Batch], tuple[Values, Values, Patched]],
    left_out: Mapping[str, str],
    on_set: Callable[[int], None],
    size: int = CHUNK,
) -> Traced:
    """Answers on every set.

    Arguments:
        measured: of clean and corrupted sequences, their metrics and those by what is patched.
        left_out: why parts are missing.
        on_set: called with the number of sets done.
        size: sequences that `measured` gets at once.
    """
    found = Traced({}, {}, {}, dict(left_out), pairs.kept)
    for index in range(len(pairs.sets)):
        with torch.no_grad():
            chunks = [measured(*both) for both in pairs.chunks(index, size)]
        for metric in chunks[0][0]:
            found.clean.setdefault(metric, []).append(_joined(chunk[0][metric] for chunk in chunks))
            found.corrupted.setdefault(metric, []).append(_joined(chunk[1][metric] for chunk in chunks))
        for key, by_metric in chunks[0][2].items():
            for metric in by_metric:
                values = _joined(chunk[2][key][metric] for chunk in chunks)
                found.patched.setdefault(key, {}).setdefault(metric, []).append(values)
        on_set(index + 1)
    return found


def _joined(values: Iterator[Tensor] | Sequence[Tensor]) -> NDArray[np.floating]:
    return torch.cat(list(values)).double().numpy()
