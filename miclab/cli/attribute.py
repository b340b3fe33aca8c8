"""`miclab attribute`: effects of edges by gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from miclab.cli.corruption_options import PatchingOptions
from miclab.cli.options import RunNames, find_runs
from miclab.cli.progress import announce, forward
from miclab.cli.terminal import bar, parse, print_result


@dataclass(frozen=True, kw_only=True)
class AttributeOptions(PatchingOptions):
    """Edge attribution patching: the effect of every edge, estimated by gradients. EAP takes one gradient, EAP-IG the
    mean over runs between the clean and the corrupted one. Both are compared with exact path patching of the same
    edges: rank correlation of sizes, and overlap of the largest. Below 0.8 there is a warning. Several RUNs are
    clustered by seed."""

    run: RunNames
    """Paths, names, or starts of names or hashes. Several count as seeds of one experiment."""
    interpolations: int = 5
    """Gradients that EAP-IG averages."""
    compared: int = 200
    """Edges that are also patched exactly, at most: half those with the largest estimates, half others at random."""
    metric: Literal["logit_difference", "probability"] = "logit_difference"
    """What the effect is on."""


def run_attribute(arguments: list[str]) -> int:
    """`miclab attribute RUN...`."""
    options = parse(AttributeOptions, "attribute", arguments)
    runs = find_runs(options.run, options.runs)
    from miclab.circuits.attribution_result import attribute

    options.check(runs)
    passes = 3 * 3 * (1 + options.interpolations) + options.compared
    work = passes * options.sizes.sequences_of(options.split) * sum(forward(run.config) for run in runs)
    announce("attribute", work, options.runs)
    with bar("attribute", 2 * len(runs) * options.sizes.sets_of(options.split)) as on_progress:
        found = attribute(
            runs, options.request, interpolations=options.interpolations, compared=options.compared,
            on_progress=on_progress,
        )  # fmt: skip
    return print_result(found, runs, options.json)
