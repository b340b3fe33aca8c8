"""Causal tracing, path patching, attribution and circuits, as the commands do them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from miclab.api.analyses import AnyRun, OnProgress, split_sizes
from miclab.api.runs import disks
from miclab.config.request import Split

if TYPE_CHECKING:
    from miclab.circuits.attribution_result import Attribution
    from miclab.circuits.patching import Direction, Metric
    from miclab.circuits.patching_request import PatchingRequest
    from miclab.circuits.patching_result import Patching
    from miclab.circuits.path_result import PathPatching
    from miclab.config.request import SplitSizes

PARTS = ("residual", "attention", "mlp", "head", "query", "key", "value")


def patch(
    run: AnyRun | Sequence[AnyRun],
    corruption: str = "labels_swapped",
    step: int | None = None,
    *,
    parts: Sequence[str] = PARTS,
    direction: Literal["restore", "corrupt"] = "restore",
    metric: Literal["logit_difference", "probability", "accuracy"] = "logit_difference",
    split: Split = "icl",
    sequences: int = 250,
    novel_sets: int = 8,
    evaluation_seed: int = -1,
    on_progress: OnProgress | None = None,
) -> Patching:
    """Causal tracing: the effect of each part of the decoder at each layer and role of position, as a share of what a
    corruption changes.

    Arguments:
        run: a run, or several that are seeds of one experiment: runs, paths or names.
        corruption: the one thing in which corrupted sequences differ, NAME or NAME.MODALITY (see
            `miclab.circuits.built_in_corruptions`).
        step: training step of the checkpoint; None: the last good one of each.
        parts: patched activations: `residual` after a layer, `attention` and `mlp` output, and of each head `head`
            output, `query`, `key` and `value`.
        direction: `restore` puts clean activations into the corrupted run (denoising), `corrupt` the other way round.
        metric: shown by `tables()` and `plot()`; `frame()` has all three.
        split: whose sequences are corrupted.
        sequences: sequences of a split; of `icl`, for each set of novel classes.
        novel_sets: independent sets of novel classes.
        evaluation_seed: seed of all sequences that are evaluated; -1: the run's `seed`.
        on_progress: called with the number of sets of novel classes done, and the name of the run.

    Raises:
        RunError: the runs differ in more than the seed, or the corruption changes no sequence that can be judged.
        ConfigError: there is no such corruption, modality, part, direction, metric, checkpoint or split.
    """
    from miclab.circuits import patching_result

    sizes = split_sizes(sequences, novel_sets, evaluation_seed)
    request = _request(corruption, step, split, sizes, direction, metric)
    return patching_result.patch(disks(run), request, _several(parts), on_progress)


def patch_paths(
    run: AnyRun | Sequence[AnyRun],
    corruption: str = "items_swapped",
    step: int | None = None,
    *,
    parts: Sequence[Literal["edges", "paths"]] = ("edges", "paths"),
    direction: Literal["restore", "corrupt"] = "restore",
    metric: Literal["logit_difference", "probability", "accuracy"] = "logit_difference",
    split: Split = "icl",
    sequences: int = 125,
    novel_sets: int = 8,
    evaluation_seed: int = -1,
    on_progress: OnProgress | None = None,
) -> PathPatching:
    """Path patching, exact: the effect of what one part sends to one input of another, and of every path to the logits.
    It is a share of what a corruption changes.

    Arguments:
        parts: `edges` (everything after the receiver is computed again), `paths` (nothing off the path changes), or
            both.

    The other arguments and the errors are those of `patch`.

    Raises:
        RunError: the decoder has one layer, too many paths, or other inputs than queries, keys and values.
    """
    from miclab.circuits import path_result

    sizes = split_sizes(sequences, novel_sets, evaluation_seed)
    request = _request(corruption, step, split, sizes, direction, metric)
    return path_result.patch_paths(disks(run), request, _several(parts), on_progress)


def attribute(
    run: AnyRun | Sequence[AnyRun],
    corruption: str = "items_swapped",
    step: int | None = None,
    *,
    interpolations: int = 5,
    compared: int = 200,
    direction: Literal["restore", "corrupt"] = "restore",
    metric: Literal["logit_difference", "probability"] = "logit_difference",
    split: Split = "icl",
    sequences: int = 125,
    novel_sets: int = 8,
    evaluation_seed: int = -1,
    on_progress: OnProgress | None = None,
) -> Attribution:
    """Edge attribution patching: the effect of every edge by EAP and EAP-IG (arXiv 2403.17806), compared with exact
    path patching.

    Arguments:
        interpolations: gradients that EAP-IG averages.
        compared: edges that are also patched exactly, at most.
        metric: what the effect is on.
        on_progress: called with the number of sets done, those of exact patching included, and the name of the run.

    The other arguments and the errors are those of `patch`.

    Raises:
        RunError: the decoder has one layer, or other inputs than queries, keys and values.
    """
    from miclab.circuits import attribution_result

    sizes = split_sizes(sequences, novel_sets, evaluation_seed)
    request = _request(corruption, step, split, sizes, direction, metric)
    return attribution_result.attribute(
        disks(run), request, interpolations=interpolations, compared=compared, on_progress=on_progress
    )


def _request(
    corruption: str, step: int | None, split: Split, sizes: SplitSizes, direction: Direction, metric: Metric
) -> PatchingRequest:
    from miclab.circuits.patching_request import PatchingRequest

    return PatchingRequest(
        corruption=corruption, step=step, split=split, sizes=sizes, direction=direction, metric=metric
    )


def _several(parts: str | Sequence[str]) -> tuple[str, ...]:
    return (parts,) if isinstance(parts, str) else tuple(parts)
