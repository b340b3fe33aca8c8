"""`miclab knockout` and `ablate`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from miclab.circuits.find import head_named
from miclab.cli.duration import announce_sequences
from miclab.cli.options import Seeds, find_runs
from miclab.cli.terminal import bar, parse, print_json, warn

if TYPE_CHECKING:
    from miclab.circuits.knockout import Effects
    from miclab.runs.run import Run


@dataclass(frozen=True, kw_only=True)
class KnockoutOptions(Seeds):
    """Accuracy with heads knocked out: each, the circuit's, both, and the mean of several draws of random others as
    control, each from the layers of what it is a control for. Where a run does not answer from its context better than
    with any label of it, there is no circuit, and only single heads are cut. Several RUNs are clustered by seed; the
    circuit's heads are found in each for itself."""

    heads: Annotated[tuple[str, ...], tyro.conf.arg(metavar="LAYER.HEAD ...")] = ()
    """Cut these heads together and nothing else; both numbers from 0, such as `0.0 1.0`. Empty: every single head, and
    the circuit's with their controls."""
    baseline: Literal["zero", "mean"] = "zero"
    """What takes the place of a head's output."""
    split: Literal["train", "icl", "swapped", "iwl"] = "icl"
    """Split whose accuracy is measured."""


@dataclass(frozen=True, kw_only=True)
class AblateOptions(Seeds):
    """Accuracy with the items of a modality, the labels, or both zeroed. Several RUNs are clustered by seed."""

    split: Literal["train", "icl", "swapped", "iwl"] = "icl"
    """Split whose accuracy is measured."""


def _print(options: Seeds, found: Effects) -> int:
    if options.json:
        print_json(found.as_json())
    else:
        found.show()
    return 0


def _sequences(options: KnockoutOptions | AblateOptions) -> int:
    """Sequences of the split that is looked at."""
    return options.sizes.sequences * (options.sizes.novel_sets if options.split == "icl" else 1)


def _heads(runs: list[Run]) -> int:
    return runs[0].config.decoder.layers * runs[0].config.decoder.heads


def run_knockout(arguments: list[str]) -> int:
    """`miclab knockout RUN...`."""
    options = parse(KnockoutOptions, "knockout", arguments)
    runs = find_runs(options.run, options.runs)
    from miclab.circuits.knockout import knock_out, knock_out_together

    if options.heads:
        decoder = runs[0].config.decoder
        known = list(product(range(decoder.layers), range(decoder.heads)))
        chosen = [head_named(name, known) for name in options.heads]
        found = knock_out_together(runs, chosen, baseline=options.baseline, step=options.checkpoint,
                                   sizes=options.sizes, split=options.split)  # fmt: skip
        for run in runs:
            warn(run)
        return _print(options, found)
    # Every head, the two strongest together, and up to five draws of three controls.
    announce_sequences("knockout", runs, options.runs, _sequences(options), _heads(runs) + 17)
    with bar("knockout", len(runs)) as on_progress:
        found = knock_out(runs, baseline=options.baseline, step=options.checkpoint, sizes=options.sizes,
                          split=options.split, on_progress=on_progress)  # fmt: skip
    for run in runs:
        warn(run)
    return _print(options, found)


def run_ablate(arguments: list[str]) -> int:
    """`miclab ablate RUN...`."""
    options = parse(AblateOptions, "ablate", arguments)
    runs = find_runs(options.run, options.runs)
    from miclab.circuits.knockout import ablate

    announce_sequences("ablate", runs, options.runs, _sequences(options), 2 + 2 * len(runs[0].config.modalities))
    with bar("ablate", len(runs)) as on_progress:
        found = ablate(runs, step=options.checkpoint, sizes=options.sizes, split=options.split, on_progress=on_progress)
    for run in runs:
        warn(run)
    return _print(options, found)
