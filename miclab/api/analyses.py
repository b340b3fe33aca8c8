"""Analyses of checkpoints, as the commands `evaluate`, `circuits`, `knockout`, `ablate`, `align` and `diagnose`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from miclab.api.run import Run
from miclab.api.runs import disks, opened
from miclab.circuits import diagnose as signs
from miclab.circuits.diagnose import Diagnosis
from miclab.circuits.find import CUTS, Cut
from miclab.config.request import Split, SplitSizes
from miclab.errors import ConfigError, nearest

if TYPE_CHECKING:
    from miclab.circuits.effects import Effects
    from miclab.circuits.head_strengths import Circuits
    from miclab.measures.alignments import Alignments
    from miclab.measures.evaluations import Evaluations

AnyRun = Run | str | Path
OnProgress = Callable[[int, str], None]
SEQUENCES, SETS = 1000, 8


def split_sizes(sequences: int, novel_sets: int, seed: int) -> SplitSizes:
    """The numbers of sequences that an analysis is given one by one."""
    return SplitSizes(sequences=sequences, novel_sets=novel_sets, evaluation_seed=seed)


def evaluate(
    run: AnyRun | Sequence[AnyRun],
    step: int | None = None,
    *,
    context: int | None = None,
    measures: Iterable[str] = (),
    sequences: int = SEQUENCES,
    novel_sets: int = SETS,
    evaluation_seed: int = -1,
    on_progress: OnProgress | None = None,
) -> Evaluations:
    """Accuracy on every split, 0 to 1, with 95 % intervals and oracles.

    Arguments:
        run: a run, or several that are seeds of one experiment: runs, paths or names.
        step: training step of the checkpoint; None: the last good one of each.
        context: another number of context examples than in training.
        measures: names of measures to take on novel classes as well.
        sequences: sequences of each split; of `icl`, for each set of novel classes.
        novel_sets: independent sets of novel classes.
        evaluation_seed: seed of all sequences that are evaluated; -1: the run's `seed`.
        on_progress: called with the number of runs done and the name of the last.

    Raises:
        RunError: the runs differ in more than the seed.
        ConfigError: there is no such checkpoint or measure, or the position code cannot place so long a context.
    """
    from miclab.measures.evaluations import evaluate_runs

    return evaluate_runs(
        disks(run), step=step, context=context, sizes=split_sizes(sequences, novel_sets, evaluation_seed),
        measures=measures, on_progress=on_progress,
    )  # fmt: skip


def circuits(
    run: AnyRun | Sequence[AnyRun],
    step: int | None = None,
    *,
    split: Split = "icl",
    sequences: int = SEQUENCES,
    novel_sets: int = SETS,
    evaluation_seed: int = -1,
    on_progress: OnProgress | None = None,
) -> Circuits:
    """Measures of every head with 95 % intervals, beside uniform attention and random weights. With them the heads of
    the induction circuit, if there is one, named by pattern and need.

    Heads are LAYER.HEAD, both from 0. Arguments and errors are those of `evaluate`; `split` says whose sequences are
    evaluated.
    """
    from miclab.circuits.head_strengths import circuits

    return circuits(
        disks(run),
        step=step,
        split=split,
        sizes=split_sizes(sequences, novel_sets, evaluation_seed),
        on_progress=on_progress,
    )


def knock_out(
    run: AnyRun | Sequence[AnyRun],
    heads: Iterable[str] | None = None,
    step: int | None = None,
    *,
    baseline: Cut = "zero",
    split: Split = "icl",
    sequences: int = SEQUENCES,
    novel_sets: int = SETS,
    evaluation_seed: int = -1,
    on_progress: OnProgress | None = None,
) -> Effects:
    """Accuracy with heads knocked out, beside the untouched decoder on the same sequences.

    Arguments:
        heads: LAYER.HEAD, both from 0, cut together; None: each head, those of the run's own circuit, both, and random
            others as control, as `miclab knockout` does.
        baseline: what takes the place of a head's output: `zero`, or `mean` over a training batch; or of its attention
            pattern: `uniform`, ideal `previous_token`, ideal `own_item`, `shuffled` offsets, or that of the
            `other_sequence` before it (see `miclab.circuits.patterns`).
        split: whose accuracy is measured.

    The other arguments and the errors are those of `evaluate`.

    Raises:
        ConfigError: there is no such head; the message lists them.
    """
    from miclab.circuits import knockout

    if baseline not in CUTS:
        raise ConfigError("baseline", baseline, nearest(str(baseline), CUTS))
    runs, sizes = disks(run), split_sizes(sequences, novel_sets, evaluation_seed)
    if heads is None:
        return knockout.knock_out(runs, baseline=baseline, step=step, sizes=sizes, split=split, on_progress=on_progress)
    names = [heads] if isinstance(heads, str) else list(heads)
    if not names:
        raise ConfigError("heads", names, "at least one head, or None")
    chosen = [Run(runs[0]).head(name) for name in names]
    return knockout.knock_out_together(runs, chosen, baseline=baseline, step=step, sizes=sizes, split=split)


def ablate(
    run: AnyRun | Sequence[AnyRun],
    step: int | None = None,
    *,
    split: Split = "icl",
    sequences: int = SEQUENCES,
    novel_sets: int = SETS,
    evaluation_seed: int = -1,
    on_progress: OnProgress | None = None,
) -> Effects:
    """Accuracy with the items of a modality, the labels, or both set to zero. Arguments and errors are those of
    `evaluate`; `split` says whose accuracy is measured."""
    from miclab.circuits.knockout import ablate

    sizes = split_sizes(sequences, novel_sets, evaluation_seed)
    return ablate(disks(run), step=step, split=split, sizes=sizes, on_progress=on_progress)


def align(
    run: AnyRun,
    step: int | Sequence[int] | None = None,
    *,
    rows: int = 1024,
    on_progress: OnProgress | None = None,
) -> Alignments:
    """Alignment of every secondary modality with the host: debiased CKA with its null, distance, retrieval.

    Arguments:
        step: training step of a checkpoint, or several; None: the last good one.
        rows: pairs of classes in a draw, at least 4.
        on_progress: called with the number of checkpoints done.

    Raises:
        RunError: the run has one modality or a joint-label task.
        ConfigError: there is no such checkpoint.
    """
    from miclab.measures.alignments import align_run

    steps = list(step) if isinstance(step, Sequence) else [step]
    return align_run(opened(run).disk, steps, rows, on_progress)


def diagnose(
    run: AnyRun,
    step: int | None = None,
    *,
    sequences: int = SEQUENCES,
    novel_sets: int = SETS,
    evaluation_seed: int = -1,
) -> Diagnosis:
    """Looks for every known sign of failure in a checkpoint. Arguments and errors are those of `evaluate`."""
    return signs.diagnose(opened(run).disk, step=step, sizes=split_sizes(sequences, novel_sets, evaluation_seed))
