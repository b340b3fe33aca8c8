"""Found circuits, as `miclab circuit` does them."""

from __future__ import annotations

from typing import Literal

from miclab.api.analyses import AnyRun, OnProgress, split_sizes
from miclab.api.runs import disks
from miclab.circuits.found_circuit import FoundCircuit
from miclab.circuits.patching_request import CorruptionRequest
from miclab.config.request import Split

__all__ = ["FoundCircuit", "find_circuit"]


def find_circuit(
    run: AnyRun,
    corruption: str = "items_swapped",
    step: int | None = None,
    *,
    faithful: float = 0.9,
    ablation: Literal["resample", "mean", "zero"] = "resample",
    metric: Literal["accuracy", "logit_difference", "probability"] = "accuracy",
    interpolations: int = 5,
    split: Split = "icl",
    sequences: int = 125,
    novel_sets: int = 8,
    evaluation_seed: int = -1,
    on_progress: OnProgress | None = None,
) -> FoundCircuit:
    """A small set of edges between heads and MLPs that keeps a share of in-context learning. Its controls are on
    sequences that the search did not see. `FoundCircuit.file` gives it as JSON, GraphML or a drawing.

    Arguments:
        run: a run, its path or its name.
        corruption: the one thing in which corrupted sequences differ, NAME or NAME.MODALITY.
        step: training step of the checkpoint; None: the last good one.
        faithful: share of the metric to keep, above 0 and at most 1.
        ablation: what stands for the outputs of ablated edges: those on the corrupted sequence, their mean, or zeros.
        metric: what the circuit keeps.
        interpolations: gradients that EAP-IG averages.
        split: whose sequences are used.
        sequences: sequences of a split; of `icl`, for each set of novel classes.
        novel_sets: independent sets of novel classes; half are searched on, half are checked on.
        evaluation_seed: seed of all sequences that are evaluated; -1: the run's `seed`.
        on_progress: called with the number of steps done of 4, and a text.

    Raises:
        RunError: the decoder has one layer or other inputs than queries, keys and values. Or no sequence can be judged,
            or all edges are no better than none.
        ConfigError: there is no such corruption, modality, ablation, metric, checkpoint or split, or `faithful` is not
            a share.
    """
    from miclab.circuits import found_circuit

    sizes = split_sizes(sequences, novel_sets, evaluation_seed)
    return found_circuit.find_circuit(
        disks(run)[0], CorruptionRequest(corruption=corruption, step=step, split=split, sizes=sizes, metric=metric),
        faithful=faithful, ablation=ablation, interpolations=interpolations, on_progress=on_progress,
    )  # fmt: skip
