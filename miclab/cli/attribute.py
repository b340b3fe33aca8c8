"""`miclab attribute`: effects of edges by gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from miclab.cli.options import SeveralRunsOptions, find_runs
from miclab.cli.paths import corruption_help
from miclab.cli.progress import announce, forward
from miclab.cli.terminal import bar, parse, print_result
from miclab.config.request import Split


@dataclass(frozen=True, kw_only=True)
class AttributeOptions(SeveralRunsOptions):
    """Edge attribution patching: the effect of every edge, estimated by gradients. EAP takes one gradient, EAP-IG the
    mean over runs between the clean and the corrupted one. Both are compared with exact path patching of the same
    edges: rank correlation of sizes, and overlap of the largest. Below 0.8 there is a warning. Several RUNs are
    clustered by seed."""

    corruption: Annotated[str, tyro.conf.arg(metavar="NAME", help=corruption_help())] = "items_swapped"
    interpolations: int = 5
    """Gradients that EAP-IG averages."""
    compared: int = 200
    """Edges that are also patched exactly, at most: half those with the largest estimates, half others at random."""
    direction: Literal["restore", "corrupt"] = "restore"
    """`restore`: clean outputs into the corrupted run (denoising). `corrupt`: the other way round (noising)."""
    metric: Literal["logit_difference", "probability"] = "logit_difference"
    """What the effect is on."""
    split: Split = "icl"
    """Split whose sequences are corrupted."""
    sequences: int = 125
    """Sequences of each split; of `icl`: for each set of novel classes."""


def run_attribute(arguments: list[str]) -> int:
    """`miclab attribute RUN...`."""
    options = parse(AttributeOptions, "attribute", arguments)
    runs = find_runs(options.run, options.runs)
    from miclab.circuits.attribution_result import attribute
    from miclab.circuits.corruption import find_corruption

    for run in runs:
        find_corruption(options.corruption, run.config)
    sets = options.novel_sets if options.split == "icl" else 1
    passes = 3 * 3 * (1 + options.interpolations) + options.compared
    announce("attribute", passes * options.sequences * sets * sum(forward(run.config) for run in runs), options.runs)
    with bar("attribute", 2 * len(runs) * sets) as on_progress:
        found = attribute(
            runs, options.corruption, interpolations=options.interpolations, compared=options.compared,
            direction=options.direction, metric=options.metric, step=options.checkpoint, sizes=options.sizes,
            split=options.split, on_progress=on_progress,
        )  # fmt: skip
    return print_result(found, runs, options.json)
