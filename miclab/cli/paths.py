"""`miclab paths`: path patching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from miclab.cli.options import SeveralRunsOptions, find_runs
from miclab.cli.progress import announce, forward
from miclab.cli.terminal import bar, parse, print_result
from miclab.config.corruptions import CORRUPTIONS
from miclab.config.request import Split

PASSES = 100
"""Forward passes that the edges and paths of a decoder of two layers of one head take, roughly."""


def corruption_help() -> str:
    """Help on corruptions. The names come from the registry without an import."""
    return f"What is changed: {', '.join(CORRUPTIONS)}; or one of --plugin. modality_replaced takes NAME.MODALITY."


@dataclass(frozen=True, kw_only=True)
class PathsOptions(SeveralRunsOptions):
    """Path patching, exact. What one part of the decoder sends to one input of another is taken from the other run. The
    sender is the embedding, a head or an MLP. The receiver is a query, key or value of a head, an MLP, or the logits.
    An edge is one such step, after which everything follows. A path runs to the logits, and nothing beside it changes.
    The effect is a share of what the corruption changes: 0 none, 1 all of it. Several RUNs are clustered by seed."""

    corruption: Annotated[str, tyro.conf.arg(metavar="NAME", help=corruption_help())] = "items_swapped"
    direction: Literal["restore", "corrupt"] = "restore"
    """`restore`: clean outputs into the corrupted run (denoising). `corrupt`: the other way round (noising)."""
    parts: tuple[Literal["edges", "paths"], ...] = ("edges", "paths")
    """`edges`, `paths` or both. A decoder of many layers or heads has too many paths."""
    metric: Literal["logit_difference", "probability", "accuracy"] = "logit_difference"
    """What the tables show; --json has all three."""
    split: Split = "icl"
    """Split whose sequences are corrupted."""
    sequences: int = 125
    """Sequences of each split; of `icl`: for each set of novel classes."""


def run_paths(arguments: list[str]) -> int:
    """`miclab paths RUN...`."""
    options = parse(PathsOptions, "paths", arguments)
    runs = find_runs(options.run, options.runs)
    from miclab.circuits.corruption import find_corruption
    from miclab.circuits.path_result import patch_paths

    for run in runs:
        find_corruption(options.corruption, run.config)
    sets, decoder = options.novel_sets if options.split == "icl" else 1, runs[0].config.decoder
    passes = PASSES * decoder.heads**2 * decoder.layers**2 / 4
    announce("paths", passes * options.sequences * sets * sum(forward(run.config) for run in runs), options.runs)
    with bar("paths", len(runs) * sets) as on_progress:
        found = patch_paths(
            runs, options.corruption, parts=options.parts, direction=options.direction, metric=options.metric,
            step=options.checkpoint, sizes=options.sizes, split=options.split, on_progress=on_progress,
        )  # fmt: skip
    return print_result(found, runs, options.json)
