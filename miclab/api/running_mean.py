"""One layer of a decoder as a running mean, as `miclab running-mean` has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from miclab.api.analyses import AnyRun, OnProgress
from miclab.api.runs import disks
from miclab.config.request import SplitSizes

if TYPE_CHECKING:
    from miclab.circuits.running_mean import RunningMean


def running_mean(
    run: AnyRun,
    layer: int = 0,
    step: int | None = None,
    *,
    sequences: int = 100,
    novel_sets: int = 8,
    evaluation_seed: int = -1,
    on_progress: OnProgress | None = None,
) -> RunningMean:
    """In-context learning with the attention of one layer replaced by kinds of a running mean. It also gives where the
    query looks in the next layer (see `miclab.circuits.running_mean`).

    Arguments:
        run: a run, its path, name, or the start of a name or hash.
        layer: the layer that averages, from 0; another must follow.
        step: training step of the run's checkpoint; None: the last good one.
        sequences: sequences for each set of novel classes.
        novel_sets: independent sets of novel classes.
        evaluation_seed: seed of these sequences; -1: the run's `seed`.
        on_progress: called with the number of sets done, of both kinds of contexts, and a text.

    Raises:
        RunError: its attention has no pattern or values, or that of the next no keys, or the run has no decoder.
        ConfigError: no layer follows, or there is no such checkpoint.
    """
    from miclab.circuits.running_mean import running_mean

    sizes = SplitSizes(sequences=sequences, novel_sets=novel_sets, evaluation_seed=evaluation_seed)
    return running_mean(disks(run)[0], layer, step=step, sizes=sizes, on_progress=on_progress)
