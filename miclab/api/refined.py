"""A run beside the run that it started from, as `miclab transplant`, `drift` and `circuit-overlap` compare them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from miclab.api.analyses import AnyRun, OnProgress, split_sizes
from miclab.api.runs import disks

if TYPE_CHECKING:
    from miclab.circuits.circuit_overlap import Overlap
    from miclab.circuits.drift import Drift
    from miclab.circuits.transplant import Transplants


def transplant(
    run: AnyRun,
    sibling: AnyRun | None = None,
    step: int | None = None,
    *,
    sequences: int = 100,
    novel_sets: int = 8,
    evaluation_seed: int = -1,
    on_progress: OnProgress | None = None,
) -> Transplants:
    """In-context learning that is lost if the weights of one part are exchanged between a run and the run that it
    started from. Each part is put into either of them (see `miclab.circuits.transplant`).

    Arguments:
        run: a run of stage 2, its path, name, or the start of a name or hash.
        sibling: a run that went on with stage 1 from the same checkpoint, looked at at the same step.
        step: training step of the run's checkpoint; None: the last good one.
        sequences: sequences for each set of novel classes.
        novel_sets: independent sets of novel classes.
        evaluation_seed: seed of these sequences; -1: the run's `seed`.
        on_progress: called with the number of transplants done, and a text.

    Raises:
        RunError: the run started from random weights, the sibling is none, or attention is no plain softmax.
        ConfigError: there is no such checkpoint.
    """
    from miclab.circuits.transplant import transplant

    sizes = split_sizes(sequences, novel_sets, evaluation_seed)
    other = None if sibling is None else disks(sibling)[0]
    return transplant(disks(run)[0], other, step=step, sizes=sizes, on_progress=on_progress)


def drift(run: AnyRun, sibling: AnyRun | None = None, step: int | None = None) -> Drift:
    """How far each matrix of a run's decoder moved since the run that it started from. It gives relative change,
    principal angles of leading directions, and their overlap beyond chance (see `miclab.circuits.drift`).

    Arguments:
        run: a run of stage 2, its path, name, or the start of a name or hash.
        sibling: a run that went on with stage 1 from the same checkpoint, looked at at the same step.
        step: training step of the run's checkpoint; None: the last good one.

    Raises:
        RunError: the run started from random weights, the sibling is none, or attention is no plain softmax.
        ConfigError: there is no such checkpoint.
    """
    from miclab.circuits.drift import drift

    other = None if sibling is None else disks(sibling)[0]
    return drift(disks(run)[0], other, step=step)


def circuit_overlap(
    run: AnyRun,
    other: AnyRun | None = None,
    step: int | None = None,
    *,
    sequences: int = 100,
    novel_sets: int = 8,
    evaluation_seed: int = -1,
    on_progress: OnProgress | None = None,
) -> Overlap:
    """Edges that the found circuits of a run and of the run that it started from share. 0 is chance, 1 the same circuit
    (see `miclab.circuits.circuit_overlap`).

    Arguments:
        run: a run of stage 2 or a sibling, its path, name, or the start of a name or hash; with `other`, any run.
        other: a run to compare with instead of the one that it started from, at its last good checkpoint.
        step: training step of the run's checkpoint; None: the last good one.
        sequences: sequences for each set of novel classes.
        novel_sets: independent sets of novel classes; half are searched on.
        evaluation_seed: seed of these sequences; -1: the run's `seed`.
        on_progress: called with the number of steps done of 6, and a text.

    Raises:
        RunError: the run started from random weights and no other is given, or the other has other edges. Or a decoder
            answers no better with all edges than without, has one layer, or its attention has other inputs than
            queries, keys and values.
        ConfigError: there is no such checkpoint.
    """
    from miclab.circuits.circuit_overlap import circuit_overlap

    sizes = split_sizes(sequences, novel_sets, evaluation_seed)
    beside = None if other is None else disks(other)[0]
    return circuit_overlap(disks(run)[0], beside, step=step, sizes=sizes, on_progress=on_progress)
