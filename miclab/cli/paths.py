"""`miclab paths`: path patching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from miclab.cli.corruption_options import PatchingOptions
from miclab.cli.options import RunNames, find_runs
from miclab.cli.progress import announce, forward
from miclab.cli.terminal import bar, parse, print_result

PASSES = 100
"""Forward passes that the edges and paths of a decoder of two layers of one head take, roughly."""


@dataclass(frozen=True, kw_only=True)
class PathsOptions(PatchingOptions):
    """Path patching, exact. What one part of the decoder sends to one input of another is taken from the other run. The
    sender is the embedding, a head or an MLP. The receiver is a query, key or value of a head, an MLP, or the logits.
    An edge is one such step, after which everything follows. A path runs to the logits, and nothing beside it changes.
    The effect is a share of what the corruption changes: 0 none, 1 all of it. Several RUNs are clustered by seed."""

    run: RunNames
    """Paths, names, or starts of names or hashes. Several count as seeds of one experiment."""
    parts: tuple[Literal["edges", "paths"], ...] = ("edges", "paths")
    """`edges`, `paths` or both. A decoder of many layers or heads has too many paths."""


def run_paths(arguments: list[str]) -> int:
    """`miclab paths RUN...`."""
    options = parse(PathsOptions, "paths", arguments)
    runs = find_runs(options.run, options.runs)
    from miclab.circuits.path_result import patch_paths

    options.check(runs)
    decoder = runs[0].config.decoder
    passes = PASSES * decoder.heads**2 * decoder.layers**2 / 4
    work = passes * options.sizes.sequences_of(options.split) * sum(forward(run.config) for run in runs)
    announce("paths", work, options.runs)
    with bar("paths", len(runs) * options.sizes.sets_of(options.split)) as on_progress:
        found = patch_paths(runs, options.request, options.parts, on_progress)
    return print_result(found, runs, options.json)
