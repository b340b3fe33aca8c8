"""`miclab patch`: causal tracing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from miclab.cli.corruption_options import Corruption, PatchingOptions
from miclab.cli.options import RunNames, find_runs
from miclab.cli.progress import announce, forward
from miclab.cli.terminal import bar, parse, print_result

ROLES = 8
"""Approximate number of roles of positions, which are the columns of the heat map."""


@dataclass(frozen=True, kw_only=True)
class PatchOptions(PatchingOptions):
    """Causal tracing. The decoder runs on clean sequences and on corrupted ones that differ in exactly one thing. Then
    activations of one pass are patched into the other, for each part, layer and role of position. The effect is a share
    of what the corruption changes: 0 none, 1 all of it. Several RUNs are clustered by seed."""

    run: RunNames
    """Paths, names, or starts of names or hashes. Several count as seeds of one experiment."""
    corruption: Corruption = "labels_swapped"
    parts: tuple[Literal["residual", "attention", "mlp", "head", "query", "key", "value"], ...] = (
        "residual", "attention", "mlp", "head", "query", "key", "value",
    )  # fmt: skip
    """Parts that are patched: the residual stream after a layer, outputs of attention and MLP, and of each head its
    output, queries, keys and values."""
    sequences: int = 250
    """Sequences of each split; of `icl`: for each set of novel classes."""


def run_patch(arguments: list[str]) -> int:
    """`miclab patch RUN...`."""
    options = parse(PatchOptions, "patch", arguments)
    runs = find_runs(options.run, options.runs)
    from miclab.circuits.patching_result import patch

    options.check(runs)
    decoder = runs[0].config.decoder
    by_layer = sum(decoder.heads if part in ("head", "query", "key", "value") else 1 for part in options.parts)
    passes = 2 + ROLES * (decoder.layers * by_layer + 1)
    work = passes * options.sizes.sequences_of(options.split) * sum(forward(run.config) for run in runs)
    announce("patch", work, options.runs)
    with bar("patch", len(runs) * options.sizes.sets_of(options.split)) as on_progress:
        found = patch(runs, options.request, options.parts, on_progress)
    return print_result(found, runs, options.json)
