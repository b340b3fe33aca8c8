"""`miclab patch`: causal tracing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from miclab.cli.options import SeveralRunsOptions, find_runs
from miclab.cli.paths import corruption_help
from miclab.cli.progress import announce, forward
from miclab.cli.terminal import bar, parse, print_result
from miclab.config.request import Split

ROLES = 8
"""Approximate number of roles of positions, which are the columns of the heat map."""


@dataclass(frozen=True, kw_only=True)
class PatchOptions(SeveralRunsOptions):
    """Causal tracing. The decoder runs on clean sequences and on corrupted ones that differ in exactly one thing. Then
    activations of one pass are patched into the other, for each part, layer and role of position. The effect is a share
    of what the corruption changes: 0 none, 1 all of it. Several RUNs are clustered by seed."""

    corruption: Annotated[str, tyro.conf.arg(metavar="NAME", help=corruption_help())] = "labels_swapped"
    direction: Literal["restore", "corrupt"] = "restore"
    """`restore`: clean activations into the corrupted run (denoising). `corrupt`: the other way round (noising)."""
    parts: tuple[Literal["residual", "attention", "mlp", "head", "query", "key", "value"], ...] = (
        "residual", "attention", "mlp", "head", "query", "key", "value",
    )  # fmt: skip
    """Parts that are patched: the residual stream after a layer, outputs of attention and MLP, and of each head its
    output, queries, keys and values."""
    metric: Literal["logit_difference", "probability", "accuracy"] = "logit_difference"
    """What the tables show; --json has all three."""
    split: Split = "icl"
    """Split whose sequences are corrupted."""
    sequences: int = 250
    """Sequences of each split; of `icl`: for each set of novel classes."""


def run_patch(arguments: list[str]) -> int:
    """`miclab patch RUN...`."""
    options = parse(PatchOptions, "patch", arguments)
    runs = find_runs(options.run, options.runs)
    from miclab.circuits.corruption import find_corruption
    from miclab.circuits.patching_result import patch

    for run in runs:
        find_corruption(options.corruption, run.config)
    sets = options.novel_sets if options.split == "icl" else 1
    decoder = runs[0].config.decoder
    by_layer = sum(decoder.heads if part in ("head", "query", "key", "value") else 1 for part in options.parts)
    passes = 2 + ROLES * (decoder.layers * by_layer + 1)
    work = passes * options.sequences * sets * sum(forward(run.config) for run in runs)
    announce("patch", work, options.runs)
    with bar("patch", len(runs) * sets) as on_progress:
        found = patch(
            runs, options.corruption, parts=options.parts, direction=options.direction, metric=options.metric,
            step=options.checkpoint, sizes=options.sizes, split=options.split, on_progress=on_progress,
        )  # fmt: skip
    return print_result(found, runs, options.json)
