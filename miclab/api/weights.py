"""What the weights of heads say, as `miclab weights` does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from miclab.api.analyses import AnyRun, split_sizes
from miclab.api.runs import disks

if TYPE_CHECKING:
    from torch import Tensor

    from miclab.circuits.weights import Weights


def weights(
    run: AnyRun,
    step: int | None = None,
    *,
    sequences: int = 100,
    novel_sets: int = 8,
    evaluation_seed: int = -1,
) -> Weights:
    """Numbers of every head's weights, beside those of random weights. They are copying of labels, matching of items,
    composition with heads of other layers, effective ranks and singular spectra. Also direct effects on the logits, and
    the logit lens by layer and role (see `miclab.circuits.weights` and `miclab.circuits.logit_lens`).

    Arguments:
        run: a run, its path, name, or the start of a name or hash.
        step: training step of the checkpoint; None: the last good one.
        sequences: sequences for direct effects and the logit lens, for each set of novel classes.
        novel_sets: independent sets of novel classes.
        evaluation_seed: seed of these sequences; -1: the run's `seed`.

    Raises:
        ConfigError: there is no such checkpoint.
        RunError: the run has no decoder, or attention without square matrices.
    """
    from miclab.circuits.weights import weights

    sizes = split_sizes(sequences, novel_sets, evaluation_seed)
    return weights(disks(run)[0], step=step, sizes=sizes)


def weight_matrices(run: AnyRun, step: int | None = None, *, vectors: int = 32) -> dict[str, Tensor]:
    """QK and OV of every head in the basis of items and labels, by the names of
    `miclab.circuits.weights.weight_matrices`.

    Arguments:
        run: a run, its path, name, or the start of a name or hash.
        step: training step of the checkpoint; None: the last good one.
        vectors: how many of each kind at most: the first labels, and the most frequent classes.

    Raises:
        ConfigError: `vectors` is below 1, or there is no such checkpoint.
        RunError: the run has no decoder, or attention without square matrices.
    """
    from miclab.circuits.weights import weight_matrices

    return weight_matrices(disks(run)[0], step=step, vectors=vectors)
