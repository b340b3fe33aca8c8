"""The four evaluation splits: fixed sets of fresh sequences (arXiv 2601.20796, section 2).

train    training classes, true labels, drawn as in training
icl      novel classes, uniform, always bursty: their labels are known from the context alone
swapped  training classes, bursty, every label and the target shifted by one
iwl      training classes, not bursty: the query's class is in the context only by chance

With real data novel classes are held-out classes, and the query of the other splits is a held-out exemplar.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace

from miclab.config import memory
from miclab.config.request import SPLITS, SplitSizes
from miclab.config.run import RunConfig
from miclab.errors import ConfigError
from miclab.worlds.draws import Generator, stream_of
from miclab.worlds.sequences import (
    Batch,
    ClassPlan,
    plan_bursty,
    plan_independent,
    plan_training,
    realise,
    swap_labels,
)
from miclab.worlds.world import World, novel_world

_counters: list[Callable[[int], None]] = []


@contextlib.contextmanager
def counted(on_sequences: Callable[[int], None]) -> Iterator[None]:
    """Counts evaluated sequences of all splits while the context is open, for progress bars.

    Arguments:
        on_sequences: called after each batch that was looked at, with its number of sequences.
    """
    _counters.append(on_sequences)
    try:
        yield
    finally:
        _counters.remove(on_sequences)


def _plan(config: RunConfig, world: World, split: str, count: int, generator: Generator) -> ClassPlan:
    if split == "train":
        return plan_training(config, world, count, generator)
    if split == "iwl":
        return plan_independent(config, world, count, generator)
    plan = plan_bursty(config, world, count, generator)
    return swap_labels(config, plan) if split == "swapped" else plan


def split_batches(config: RunConfig, world: World, split: str, sizes: SplitSizes) -> Iterator[tuple[World, Batch]]:
    """The sequences of a split with the world that they come from: one batch, or one per set of novel classes.

    They are a function of (config, seed, split) alone, and share no random stream with training. The seed is that of
    `sizes`, or that of the configuration.

    Raises:
        ConfigError: there is no such split.
        TooLargeError: the sequences need more memory than the machine has.
    """
    if split not in SPLITS:
        raise ConfigError("split", split, f"one of {', '.join(SPLITS)}")
    memory.check_evaluation(config, sizes.sequences, sizes.novel_sets)
    if sizes.evaluation_seed >= 0:
        # Nothing but evaluation is drawn below; the world is given.
        config = replace(config, seed=sizes.evaluation_seed)
    for index in range(sizes.sets_of(split)):
        here = novel_world(config, world, "evaluation", index) if split == "icl" else world.evaluated()
        generator = stream_of(config, config.seed, "evaluation", split, index)
        yield here, realise(config, here, _plan(config, here, split, sizes.sequences, generator), generator)
        for on_sequences in _counters:
            on_sequences(sizes.sequences)
