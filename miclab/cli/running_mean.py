"""`miclab running-mean`."""

from __future__ import annotations

from dataclasses import dataclass

from miclab.cli.options import RunName, SizedOptions
from miclab.cli.progress import announce, forward
from miclab.cli.terminal import bar, parse, print_result
from miclab.runs.find import find


@dataclass(frozen=True, kw_only=True)
class RunningMeanOptions(SizedOptions):
    """Does a decoder read its context through a layer that averages? The attention pattern of the layer is replaced by
    weights that depend on a position's place n alone. They are 1/n (uniform attention), equal, or grow with n. Shown is
    the in-context learning (ICL) left. It is shown too if only items or only labels are averaged, and if only the next
    layer's keys see the result. Contexts are those of training, and contexts in which each class stands once. The
    second table shows where the query looks in the next layer."""

    run: RunName
    """Path, name, or start of a name or hash."""
    layer: int = 0
    """The layer that averages, from 0; another must follow."""
    sequences: int = 100
    """Sequences of novel classes, for each set of them."""


def run_running_mean(arguments: list[str]) -> int:
    """`miclab running-mean RUN`."""
    options = parse(RunningMeanOptions, "running-mean", arguments)
    run = find(options.run, options.runs)
    from miclab.circuits.running_mean import CONDITIONS, CONTEXTS, running_mean

    sets = options.sizes.novel_sets * len(CONTEXTS)
    passes = len(CONDITIONS) + 3
    announce("running-mean", passes * sets * options.sizes.sequences * forward(run.config), options.runs)
    with bar("running-mean", sets) as on_progress:
        found = running_mean(
            run, options.layer, step=options.checkpoint, sizes=options.sizes, on_progress=on_progress,
        )  # fmt: skip
    return print_result(found, [run], options.json)
