"""`miclab evaluate`, `circuits`, `align`, `diagnose`, `knockout` and `ablate`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Annotated

import tyro

from miclab.circuits.find import Cut, head_named
from miclab.cli.options import CheckpointOptions, RunName, SeveralRunsOptions, SizedOptions, find_runs
from miclab.cli.progress import ablations_of, knockouts_of, looking, names_of, sequences_of
from miclab.cli.terminal import bar, parse, print_result, refuse_ignored
from miclab.config.request import Split
from miclab.runs.find import find


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(SeveralRunsOptions):
    """Accuracy on every split, with intervals (bootstrap, clustered by set of novel classes, then by seed) and
    oracles."""

    context: int = 0
    """Context examples; 0: as many as in training. One-hot and learned positions cannot go beyond their slots."""
    measures: tuple[str, ...] = ()
    """Measures of every head to take on novel classes as well, by name, such as `key_constant`."""


@dataclass(frozen=True, kw_only=True)
class CircuitsOptions(SeveralRunsOptions):
    """Strength of every head on novel classes, with intervals, beside its value under uniform attention and with random
    weights. Where there is an induction circuit, its heads, and what each is called by pattern and need."""

    split: Split = "icl"
    """Split whose sequences are evaluated."""


@dataclass(frozen=True, kw_only=True)
class AlignOptions(CheckpointOptions):
    """Alignment of projected items with the host's prototypes of the same label. Prints debiased CKA as the mean over
    independent draws of pairs, with its interval. The null distribution permutes labels (or concepts)."""

    run: RunName
    """Path, name, or start of a name or hash, of a run with two modalities or more."""
    rows: int = 1024
    """Sampled pairs of classes in a draw, which has no sequences."""
    over_training: bool = False
    """At every kept checkpoint instead of one."""


@dataclass(frozen=True, kw_only=True)
class DiagnoseOptions(SizedOptions):
    """Known signs of failure that a run shows, with evidence and advice."""

    run: RunName
    """Path, name, or start of a name or hash."""


def run_evaluate(arguments: list[str]) -> int:
    """`miclab evaluate RUN...`."""
    options = parse(EvaluateOptions, "evaluate", arguments)
    runs = find_runs(options.run, options.runs)
    from miclab.measures.evaluations import evaluate_runs

    sizes = options.sizes
    count = sequences_of(sizes) + bool(options.measures) * sizes.novel_sets * sizes.sequences
    with looking("evaluate", runs, options.runs, lambda config: count) as on_progress:
        found = evaluate_runs(runs, step=options.checkpoint, context=options.context or None, sizes=options.sizes,
                              measures=options.measures, on_progress=on_progress)  # fmt: skip
    return print_result(found, runs, options.json)


def run_circuits(arguments: list[str]) -> int:
    """`miclab circuits RUN...`."""
    options = parse(CircuitsOptions, "circuits", arguments)
    runs = find_runs(options.run, options.runs)
    from miclab.circuits.head_strengths import circuits

    sizes = options.sizes
    more = options.split != "icl"
    with looking(
        "circuits", runs, options.runs, lambda config: sizes.sequences * (sizes.novel_sets * names_of(config) + more)
    ) as on_progress:
        found = circuits(
            runs, step=options.checkpoint, sizes=options.sizes, split=options.split, on_progress=on_progress
        )
    return print_result(found, runs, options.json)


def run_align(arguments: list[str]) -> int:
    """`miclab align RUN`."""
    options = parse(AlignOptions, "align", arguments)
    if options.over_training:
        refuse_ignored(arguments, ("step",), "every kept checkpoint is looked at (--over-training)")
    run = find(options.run, options.runs)
    from miclab.measures.alignments import align_run

    steps = run.checkpoints if options.over_training else [options.checkpoint]
    with bar("align", len(steps)) as on_progress:
        found = align_run(run, steps, options.rows, on_progress)
    return print_result(found, [run], options.json)


def run_diagnose(arguments: list[str]) -> int:
    """`miclab diagnose RUN`."""
    from miclab.circuits.diagnose import diagnose

    options = parse(DiagnoseOptions, "diagnose", arguments)
    run = find(options.run, options.runs)
    sizes = options.sizes
    count = sequences_of(sizes) + bool(run.config.parent.run) * sizes.novel_sets * sizes.sequences
    with looking("diagnose", [run], options.runs, lambda config: count) as on_progress:
        found = diagnose(run, step=options.checkpoint, sizes=options.sizes, on_progress=on_progress)
    return print_result(found, [run], options.json)


@dataclass(frozen=True, kw_only=True)
class KnockoutOptions(SeveralRunsOptions):
    """Accuracy with heads knocked out: each head, each of the circuit's two heads, and both. The control is the mean
    over several draws of random other heads, matched by layer. If a run answers no better than with any label of its
    context, it has no circuit. Then only single heads are knocked out. Several RUNs are clustered by seed; the
    circuit's heads are found separately in each."""

    heads: Annotated[tuple[str, ...], tyro.conf.arg(metavar="LAYER.HEAD ...")] = ()
    """Cut these heads together and nothing else; both numbers from 0, such as `0.0 1.0`. Empty: every single head, and
    the circuit's with their controls."""
    baseline: Cut = "zero"
    """What takes the place of a head's output: `zero`, or its `mean`. Or of its attention pattern: `uniform`; ideal
    `previous_token`; ideal `own_item` (labels look at their own items); `shuffled` offsets; that of the
    `other_sequence` before it."""
    split: Split = "icl"
    """Split whose accuracy is measured."""


@dataclass(frozen=True, kw_only=True)
class AblateOptions(SeveralRunsOptions):
    """Accuracy with the items of a modality, the labels, or both zeroed. Several RUNs are clustered by seed."""

    split: Split = "icl"
    """Split whose accuracy is measured."""


def run_knockout(arguments: list[str]) -> int:
    """`miclab knockout RUN...`."""
    options = parse(KnockoutOptions, "knockout", arguments)
    runs = find_runs(options.run, options.runs)
    from miclab.circuits.knockout import knock_out, knock_out_together

    if options.heads:
        decoder = runs[0].config.decoder
        known = list(product(range(decoder.layers), range(decoder.heads)))
        chosen = [head_named(name, known) for name in options.heads]
        with looking("knockout", runs, options.runs, lambda config: 2 * options.sizes.sequences_of(options.split)):
            found = knock_out_together(runs, chosen, baseline=options.baseline, step=options.checkpoint,
                                       sizes=options.sizes, split=options.split)  # fmt: skip
        return print_result(found, runs, options.json)
    # Whether there is a circuit is always seen on novel classes.
    own, novel = options.sizes.sequences_of(options.split), options.sizes.sequences_of("icl")
    beside = options.split != "icl"
    with looking(
        "knockout", runs, options.runs,
        lambda config: knockouts_of(config) * own + (names_of(config) - 1 + beside) * novel,
    ) as on_progress:  # fmt: skip
        found = knock_out(runs, baseline=options.baseline, step=options.checkpoint, sizes=options.sizes,
                          split=options.split, on_progress=on_progress)  # fmt: skip
    return print_result(found, runs, options.json)


def run_ablate(arguments: list[str]) -> int:
    """`miclab ablate RUN...`."""
    options = parse(AblateOptions, "ablate", arguments)
    runs = find_runs(options.run, options.runs)
    from miclab.circuits.knockout import ablate

    with looking(
        "ablate", runs, options.runs, lambda config: ablations_of(config) * options.sizes.sequences_of(options.split)
    ) as on_progress:
        found = ablate(runs, step=options.checkpoint, sizes=options.sizes, split=options.split, on_progress=on_progress)
    return print_result(found, runs, options.json)
